"""Arrow's own files, whether they are called files (with a footer) or streams: batches of rows, mapped into memory."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from selector.corpus.formats._checks import at_random
from selector.corpus.formats._columnar import Columnar, Groups

_MAGIC, _OLD_MAGIC = b"ARROW1", b"FEA1"


class Batches(Groups):
    """The batches of a file. Those of a packed one with a footer are unpacked one by one, when they are asked for."""

    def __init__(self, path: str) -> None:
        with at_random(path) as (file, is_far):
            self._map: Any = file if is_far else pa.memory_map(file)
        if not self._map.size():
            raise pa.ArrowInvalid("it is empty")
        magic = self._map.read(len(_MAGIC))
        if magic.startswith(_OLD_MAGIC):
            raise pa.ArrowInvalid("it is Feather of version 1, which Arrow reads no longer. Write it in version 2")
        has_footer = magic == _MAGIC
        if has_footer:
            file: Any = pa.ipc.open_file(self._map)
            self.schema: Any = file.schema
            self._batch, num_batches = file.get_batch, file.num_record_batches
        else:
            self._map.seek(0)
            stream: Any = pa.ipc.open_stream(self._map)
            self.schema, batches = stream.schema, list(stream)
            self._batch, num_batches = batches.__getitem__, len(batches)
        of_first = next((batch for batch in map(self._batch, range(num_batches)) if batch.num_rows), None)
        columns = of_first.columns if of_first is not None else []
        buffers = [buffer for column in columns for buffer in column.buffers() if buffer is not None and buffer.size]
        self.is_mapped = not is_far and all(map(self._is_in, buffers))
        counted = self._batch
        if has_footer and not self.is_mapped:  # rows are counted by the narrowest column
            narrowest = min(range(len(self.schema)), key=lambda index: _width(self.schema.field(index).type))
            counted = pa.ipc.open_file(self._map, options=pa.ipc.IpcReadOptions(included_fields=[narrowest])).get_batch
        self.num_rows = [counted(index).num_rows for index in range(num_batches)]

    def _is_in(self, buffer: pa.Buffer) -> bool:
        """Whether a buffer is part of the map."""
        self._map.seek(0)
        whole = self._map.read_buffer()
        return whole.address <= buffer.address < whole.address + whole.size

    def sizes(self) -> Sequence[int]:
        return [self._batch(index).get_total_buffer_size() for index in range(len(self.num_rows))]

    def read(self, group: int, columns: Sequence[str] | None) -> pa.Table:
        batch = self._batch(group)
        return pa.Table.from_batches([batch if columns is None else batch.select(list(columns))])

    def batches(self, groups: Sequence[int], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        yield from (self._batch(group).select(list(columns)) for group in groups)

    def close(self) -> None:
        self._map.close()  # what was read stays mapped


def _width(kind: pa.DataType) -> int:
    """Bits of a value; of one that has no width, more than of any other."""
    try:
        return kind.bit_width
    except ValueError:
        return 1 << 10


class ArrowFiles(Columnar):
    """A format of such files."""

    def open(self, path: str) -> Groups:
        return Batches(path)
