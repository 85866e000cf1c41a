"""Comma-separated values, with a line of names."""

from selector.corpus.formats._table import Table


class Csv(Table):
    """CSV as RFC 4180 has it."""

    stem = "csv"
    stem_endings = (".csv",)
    delimiter = ","
