"""Arrow IPC: files and streams of record batches, and Feather, which is the same."""

from selector.corpus.formats._arrow import ArrowFiles


class Arrow(ArrowFiles):
    """Arrow IPC files and streams, also with compressed batches."""

    name = "arrow"
    endings = (".arrow", ".feather", ".ipc")
