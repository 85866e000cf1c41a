"""The documents of a part that go on, and their texts: what every later step that reads text begins with."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.corpus import read, render
from selector.engine.part import Part, Task
from selector.engine.store import Store
from selector.exact import keyed


def live_documents(task: Task, store: Store) -> pa.Table:
    """The documents of a task's part that go on, without those that a worker could not survive."""
    documents = store.read(task.inputs["live"], "documents")
    return documents.filter(pa.array(task.mask(documents["row"].to_numpy())))


def texts_of(part: Part, documents: pa.Table, text: str, max_bytes: int) -> list[str]:
    """The texts of these documents of a part, in their order."""
    numbers = set(documents["row"].to_pylist())
    return [
        render.render(row, text)
        for _, row in read.rows(part, render.columns(text), max_bytes, numbers)
        if not isinstance(row, read.Bad)
    ]


def align(ids: pa.ChunkedArray | pa.Array, table: pa.Table) -> npt.NDArray[np.int64]:
    """For each id, the row of `table` with that doc_id, or -1 where a later step lost the document."""
    wanted, there = keyed.words(ids), keyed.words(table["doc_id"])
    if wanted.shape == there.shape and (wanted == there).all():
        return np.arange(len(wanted), dtype=np.int64)
    position = {pair: index for index, pair in enumerate(map(tuple, there.tolist()))}
    return np.array([position.get(pair, -1) for pair in map(tuple, wanted.tolist())], np.int64)
