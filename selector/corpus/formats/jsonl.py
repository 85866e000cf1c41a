"""Lines of JSON, an object each."""

from selector.corpus.formats._lines import Lines


class Jsonl(Lines):
    """Lines of JSON: the format that can be read at random as it lies."""

    stem = "jsonl"
    stem_endings = (".jsonl", ".ndjson")
