"""A part is too much work at once for a model: it is handed out in slices, whose results are put together again.

A slice is some consecutive places of a part, and where it begins and ends depends on nothing else. What a model
computes depends on its batch, so a slice is worked on, tried again and stored by itself, like a part.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from selector.engine.canonical import fingerprint
from selector.engine.part import Task
from selector.engine.step import Map
from selector.engine.store import PASSING, Store


def slices_of(step: Map, task: Task) -> list[Task]:
    """The task in slices of as many documents as the step asks for, or alone if it has no more."""
    most, part = step.resources.documents, task.part
    if most is None or part.num_rows <= most:
        return [task]
    return [
        replace(
            task,
            key=f"{folder_of(step, task.key)}/{first}-{most}",
            part=replace(part, first=first, num_rows=min(most, part.end - first)),
        )
        for first in range(part.first, part.end, most)
    ]


def folder_of(step: Map, key: str) -> str:
    """Where the results of the slices of a task with this key are kept in passing."""
    return f"{PASSING}{step.family}/{fingerprint(key)}"


@dataclass(frozen=True, kw_only=True)
class Join:
    """Stores the results of slices as that of their part: given the part's key, and those of its slices in order."""

    store: Store

    def __call__(self, keys: tuple[str, tuple[str, ...]]) -> None:
        whole, slices = keys
        seals = [self.store.sealed(key) for key in slices]
        names = [name for name in seals[0].tables if all(name in seal.tables for seal in seals)]
        tables = ((name, joined([self.store.table(seal, name) for seal in seals])) for name in names)
        self.store.seal(whole, tables)


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """The tables as one. A column that has no values in some of them has the type of the others."""
    first = tables[0]
    fields = [
        next((table.schema.field(name) for table in tables if table[name].null_count < table.num_rows), field)
        for name, field in zip(first.schema.names, first.schema, strict=True)
    ]
    lined_up = (_with_fields(table, fields) for table in tables)
    whole = pa.concat_tables(lined_up, promote_options="permissive")  # decimals: as many digits as any has
    return whole.unify_dictionaries().combine_chunks()


def _with_fields(table: pa.Table, fields: Sequence[pa.Field]) -> pa.Table:
    columns = [
        pa.nulls(table.num_rows, field.type) if table[field.name].null_count == table.num_rows else table[field.name]
        for field in fields
    ]
    return pa.table(columns, schema=pa.schema(fields, metadata=table.schema.metadata))
