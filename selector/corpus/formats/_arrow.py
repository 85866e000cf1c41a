"""Arrow's own files, whether they are called files (with a footer) or streams: batches of rows, mapped into memory."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from selector.corpus.formats._columnar import Columnar, Groups

_MAGIC = b"ARROW1"


class Batches(Groups):
    """The batches of a file."""

    def __init__(self, path: str) -> None:
        self._map = pa.memory_map(path)
        if not self._map.size():
            raise pa.ArrowInvalid("it is empty")
        if self._map.read(len(_MAGIC)) == _MAGIC:
            file = pa.ipc.open_file(self._map)
            self._batches = [file.get_batch(index) for index in range(file.num_record_batches)]
            self.schema: Any = file.schema
        else:
            self._map.seek(0)
            stream = pa.ipc.open_stream(self._map)
            self._batches, self.schema = list(stream), stream.schema
        self._map.seek(0)
        whole = self._map.read_buffer()
        of_first = next((batch for batch in self._batches if batch.num_rows), None)
        columns = of_first.columns if of_first is not None else []
        buffers = [buffer for column in columns for buffer in column.buffers() if buffer is not None and buffer.size]
        self.is_mapped = all(whole.address <= one.address < whole.address + whole.size for one in buffers)
        self.num_rows = [batch.num_rows for batch in self._batches]
        self.num_bytes = [batch.get_total_buffer_size() for batch in self._batches]

    def read(self, group: int, columns: Sequence[str] | None) -> pa.Table:
        batch = self._batches[group]
        return pa.Table.from_batches([batch if columns is None else batch.select(list(columns))])

    def batches(self, groups: Sequence[int], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        yield from (self._batches[group].select(list(columns)) for group in groups)

    def close(self) -> None:
        self._map.close()  # what was read stays mapped


class ArrowFiles(Columnar):
    """A format of such files."""

    def open(self, path: str) -> Groups:
        return Batches(path)
