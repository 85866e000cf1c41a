"""Any row of a corpus, by file and row number: what a trainer reads, since an order jumps about in the corpus.

How that is done is the format's business: what is plain is read where it lies; what cannot be read at random is
unpacked once on each machine, into files that all processes share.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.corpus import formats
from selector.storage import local_path


class Rows:
    """The rows of the corpus whose files are listed in a table of `tables.FILES`. For one thread at a time.

    Safe to fork and to pickle.
    """

    def __init__(self, files: pa.Table) -> None:
        self._files = files
        self._cache = formats.Cache([str(word) for name in ("uri", "size") for word in files[name].to_pylist()])
        self._opened: dict[int, formats.ReadAt] = {}

    def __reduce__(self) -> tuple[type["Rows"], tuple[pa.Table]]:
        return Rows, (self._files,)

    def read(
        self,
        files: npt.ArrayLike,
        rows: npt.ArrayLike,
        columns: Sequence[str],
        byte_offsets: npt.ArrayLike | None = None,
        byte_lengths: npt.ArrayLike | None = None,
    ) -> list[dict[str, Any]]:
        """One dict for each pair (index of a file, row number), in the order asked for; shape (n,) each.

        It holds those of the columns that the row has. Where the bytes of the rows are known (-1: not of this one), no
        file is searched for its lines. Raises CorpusError, naming file and row, if a file is gone, has changed its
        size, or does not hold what a corpus file holds.
        """
        numbers, in_file = np.asarray(files, np.int64), np.asarray(rows, np.int64)
        offsets, lengths = (
            np.full(len(in_file), -1, np.int64) if given is None else np.asarray(given, np.int64)
            for given in (byte_offsets, byte_lengths)
        )
        values_of: list[dict[str, Any]] = [{}] * len(in_file)
        by_file = np.lexsort((in_file, numbers))
        for wanted in np.split(by_file, np.flatnonzero(np.diff(numbers[by_file])) + 1):
            if len(wanted):
                known = (offsets[wanted], lengths[wanted]) if (offsets[wanted] >= 0).all() else ()
                answers = self._open(int(numbers[wanted[0]]))(formats.Wanted(in_file[wanted], *known), columns)
                for index, answer in zip(wanted.tolist(), answers, strict=True):
                    values_of[index] = answer
        return values_of

    def _open(self, number: int) -> formats.ReadAt:
        if number not in self._opened:
            uri, form, size = (self._files[name][number].as_py() for name in ("uri", "format", "size"))
            self._opened[number] = formats.find(form, uri).rows_at(_path(uri), size, self._cache)
        return self._opened[number]


def _path(uri: str) -> str:
    """What formats take: a path, or the address of an object."""
    path = local_path(uri)
    return uri if path is None else str(Path(path))
