"""Where in the corpus a row is, as one number, and the tables in which rows of a manifest are compared by it."""

import functools
import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables

Int64 = npt.NDArray[np.int64]

# The documents that were kept, in the order of the corpus; or some that the order leaves.
KEPT = pa.schema([("place", pa.int64()), ("doc_id", tables.DOC_ID)])

# Visits, in the order of their positions.
SEEN = pa.schema([*KEPT, ("visit", pa.uint16()), ("position", pa.int64())])


class Places:
    """The rows of all files of a corpus, counted through; made of `tables.FILES`."""

    def __init__(self, files: pa.Table) -> None:
        self._sizes: Int64 = files["num_rows"].fill_null(0).to_numpy()
        self._starts = np.cumsum(self._sizes) - self._sizes

    @functools.cached_property
    def digest(self) -> str:
        """Stands for the sizes of the files."""
        return hashlib.blake2b(np.ascontiguousarray(self._sizes).tobytes(), digest_size=16).hexdigest()

    def of(self, table: pa.Table) -> Int64 | None:
        """The place of each row's `file` and `row`; None if one of them is nowhere."""
        file, row = (table[name].to_numpy().astype(np.int64) for name in ("file", "row"))
        if np.any(file >= len(self._sizes)) or np.any(row >= self._sizes[file]):
            return None
        return self._starts[file] + row

    def in_words(self, place: int) -> str:
        """The file and the row of a place, in words."""
        file = int(np.searchsorted(self._starts, place, side="right")) - 1
        return f"row {place - self._starts[file]} of file {file}"
