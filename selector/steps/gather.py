"""The parts of the corpus for the steps that look at all documents: any columns, part by part, in corpus order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from selector.corpus.columns import Column
from selector.corpus.joined import ATTACH, INGEST, LIVE, Reader
from selector.engine.part import Task
from selector.engine.step import Done
from selector.engine.store import Store
from selector.plugins.catalogue import corpus_names, steps_of
from selector.steps import columns as columns_step
from selector.steps import dedup, survey
from selector.steps.survey import Survey

TYPES = "columns: types"
"""The input that says the types of the corpus's own columns."""


@dataclass(frozen=True, kw_only=True)
class PartReader:
    """Reads columns of a part's documents, on any machine."""

    text: str
    max_document_bytes: int

    def read(self, store: Store, task: Task, columns: Sequence[Column]) -> pa.Table:
        """The documents of a part that go on, with these columns."""
        return self.opened(store, task, columns).read(store, task, columns)

    def opened(self, store: Store, task: Task, columns: Sequence[Column]) -> Reader:
        """What reads these columns of any part, once what parts have in common is read: this task's inputs name it,
        and those of all others name the same."""
        types = columns_step.read_types(store, task.inputs[TYPES]) if TYPES in task.inputs else {}
        keyed = {(column.step, column.table) for column in columns if column.step.startswith(ATTACH)}
        tables = {(step, name): store.read(task.inputs[step], name) for step, name in keyed}
        return Reader(text=self.text, max_document_bytes=self.max_document_bytes, types=types, attached=tables)


@dataclass(frozen=True, kw_only=True)
class Gather:
    """Which columns of documents are read, and where they come from."""

    survey: Survey
    columns: tuple[Column, ...]  # under the names that they are asked by
    reader: PartReader
    attach: str | None = None  # the step that stored the tables of whoever reads the columns

    @property
    def reads(self) -> tuple[str, ...]:
        """The steps whose results the columns come from."""
        steps = ("survey", INGEST, LIVE, *steps_of(self.columns), *([self.attach] if self.attach else []))
        return tuple(dict.fromkeys(steps))

    def tasks(self, done: Done) -> list[Task]:
        """One task per part, without a key, with the artefacts that the columns come from."""
        attached = [step for step in self.reads if step.startswith(ATTACH)]
        of_part = [INGEST] if any(column.name == "text" or column.step == INGEST for column in self.columns) else []
        of_part += [step for step in self.reads if step not in ("survey", INGEST, LIVE, *attached)]
        common = {step: done[step].seal.key for step in attached}
        if "columns" in of_part:
            common[TYPES] = done["columns"].seal.key
        of_parts = {step: _keys_of_parts(done, step) for step in of_part}
        return [
            Task(
                key="",
                part=part,
                inputs={LIVE: share["key"], **{step: keys[i] for step, keys in of_parts.items()}, **common},
            )
            for i, (part, share) in enumerate(zip(survey.parts(done, self.survey), dedup.shares(done), strict=True))
        ]

    def identities(self, done: Done) -> list[Any]:
        """What decides the columns of each part: the artefacts, and of the corpus's own columns only those that are
        read."""
        names = corpus_names(self.columns)
        kinds = columns_step.types(done) if names else {}
        is_of_ingest = any(column.step == INGEST for column in self.columns)
        is_of_files = any(column.name in ("file", "row") for column in self.columns)
        identities: list[Any] = []
        for i, task in enumerate(self.tasks(done)):
            inputs: dict[str, Any] = dict(task.inputs)
            if not is_of_ingest:  # its texts are those of the documents that go on
                inputs.pop(INGEST, None)
            if is_of_files:
                inputs["files"] = task.part.files
            if names:
                seal = done["columns"].parts[i]
                inputs.pop(TYPES)
                inputs["columns"] = [[seal.tables[f"column.{name}"].sha256, str(kinds[name])] for name in names]
            identities.append(inputs)
        return identities


def _keys_of_parts(done: Done, step: str) -> Sequence[str]:
    """Where a step has stored what it says of each part."""
    if done[step].answer is None or done[step].parts:
        return [seal.key for seal in done[step].parts]
    return done.once(f"{step}: shares", lambda: done.table(step, "parts", ["key"])["key"].to_pylist())
