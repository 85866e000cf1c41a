"""Tab-separated values, with a line of names."""

from selector.corpus.formats._table import Table


class Tsv(Table):
    """CSV with tabs."""

    stem = "tsv"
    stem_endings = (".tsv",)
    delimiter = "\t"
