"""Columns: what rows of the corpus hold in the columns that a rule or a plug-in names, each in one type.

It reads the corpus again and nothing else depends on it, so a policy that names another column tokenises and embeds
nothing anew.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from selector.corpus import formats
from selector.corpus.columns import column, common
from selector.engine.part import Task
from selector.engine.step import APART, Done, Fold, Tables
from selector.engine.store import Store
from selector.steps import survey
from selector.steps.survey import Survey

TYPES = pa.schema([("name", pa.string()), ("type", pa.string())])


@dataclass(frozen=True, kw_only=True)
class Columns(Fold):
    """Per part and column a table of `place` and `value`, and apart from them `types`; of the whole corpus, the type of
    every column."""

    name: str = field(default="columns", metadata=APART)
    version = 2
    output = "rows"
    folded = "types"
    reads: tuple[str, ...] = field(default=("survey",), metadata=APART)

    survey: Survey = field(metadata=APART)
    names: tuple[str, ...]
    max_document_bytes: int

    def rows_in(self, done: Done) -> int:
        return sum(part.num_rows for part in survey.parts(done, self.survey))

    def tasks(self, done: Done) -> Sequence[Task]:
        parts = survey.parts(done, self.survey)
        return [Task(key=self.key(part.rows), part=part) for part in parts]

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        places: list[int] = []
        values: dict[str, list[Any]] = {name: [] for name in self.names}
        for place, _, read in formats.rows(task.part, self.names, self.max_document_bytes, task.places):
            if not isinstance(read.row, formats.Bad):  # ingest says what is wrong with it
                places.append(place)
                for name, held in values.items():
                    held.append(read.row.get(name))
        rows, columns = pa.array(places, pa.uint32()), {name: column(held) for name, held in values.items()}
        return {
            "rows": pa.table({"place": rows}),
            "types": _types_table({name: column.type for name, column in columns.items()}),
            **{f"column.{name}": pa.table({"place": rows, "value": column}) for name, column in columns.items()},
        }

    def fold(self, done: Done, parts: Iterator[Mapping[str, pa.Table]]) -> Tables:
        spelt: dict[str, set[str]] = {name: set() for name in self.names}
        for part in parts:
            for row in part["types"].to_pylist():
                spelt[row["name"]].add(row["type"])
        kinds = {name: sorted(map(unspell, kinds), key=str) for name, kinds in spelt.items()}
        yield "types", _types_table({name: common(kinds) for name, kinds in kinds.items()})


def _types_table(types: Mapping[str, pa.DataType]) -> pa.Table:
    rows = [{"name": name, "type": spell(kind)} for name, kind in types.items()]
    return pa.Table.from_pylist(rows, schema=TYPES)


def spell(kind: pa.DataType) -> str:
    """An Arrow type as text, whole: a timestamp with its unit and zone, a decimal with its digits."""
    return pa.schema([("value", kind)]).serialize().hex()


def unspell(spelt: str) -> pa.DataType:
    """The type that was spelt."""
    return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(spelt))).field("value").type


def types(done: Done) -> dict[str, pa.DataType]:
    """The type of every column of the corpus that was asked for."""
    return done.once("columns: types", lambda: read_types(done.store, done["columns"].seal.key))


def read_types(store: Store, key: str) -> dict[str, pa.DataType]:
    """The same, from the step's answer."""
    return {row["name"]: unspell(row["type"]) for row in store.read(key, "types").to_pylist()}
