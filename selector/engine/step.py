"""A step as data: what is done to a part, not where or how.

A stage is a frozen value, so it can be sent to any worker and its fields are its fingerprint. A task is
one part of one stage. `perform` is all that a worker does with the two, on every executor: work, seal the
result, return a receipt. Results travel through the store; only receipts travel back.
"""

import abc
import dataclasses
import functools
import importlib.metadata
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import pyarrow as pa

from selector import failpoint, tables
from selector.engine.part import Receipt, Task
from selector.engine.store import Store, fingerprint

APART: dict[str, Any] = {"apart": True}
"""Metadata of a stage's field that says where to find things and not what to do: no part of the fingerprint."""


class Stage(abc.ABC):
    """One kind of work on parts. Subclasses are frozen dataclasses; their fields are their options."""

    name: ClassVar[str]
    output: ClassVar[str]  # the table that has a row per document that came through
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()  # distributions whose version may change the result

    @property
    def wants_gpu(self) -> bool:
        """Whether a worker should hold a GPU where there are any."""
        return False

    @abc.abstractmethod
    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        """The tables of one part, the one called `output` with a row per document that came through.

        A pure function of the stage, the task and the artefacts that it names. Heavy things (a model) are
        loaded on first use and kept on the instance. A table called `quarantine` may say which rows did
        not come through, and why; anything raised is the supervisor's business.
        """

    def key(self, *inputs: Any) -> str:
        """Where a result is stored: a fingerprint of the stage and of all that it reads."""
        return f"{self.name}/{fingerprint([self.identity(), *inputs])}"

    def identity(self) -> dict[str, Any]:
        """Name, version, options and library versions: the stage's share of a fingerprint."""
        return {
            "step": self.name,
            "version": self.version,
            "options": {
                field.name: getattr(self, field.name)
                for field in dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
                if not field.metadata.get("apart")
            },
            "libraries": versions(self.libraries),
        }


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """The installed versions of those of the distributions that are there, without build tags."""
    found = {library: _version(library) for library in libraries}
    return {library: version for library, version in found.items() if version is not None}


@functools.cache
def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def perform(stage: Stage, task: Task, store: Store) -> Receipt:
    """Does the task and seals its result; a trial (`task.only`) is done and thrown away."""
    began = time.monotonic()
    failpoint.reach("part.before_work")
    result = stage.process(task, store)
    failpoint.reach("part.after_work")
    skipped = pa.Table.from_pylist(
        [
            {"doc_id": None, "row": lost.row, "step": stage.name, "reason": lost.reason, "detail": lost.detail}
            for lost in task.skipped
        ],
        schema=tables.QUARANTINE,
    )
    quarantine = pa.concat_tables([result.pop("quarantine", skipped.slice(0, 0)), skipped])
    if task.only is None:
        seal = store.seal(task.key, [*result.items(), ("quarantine", quarantine)])
        num_rows, num_quarantined = seal.tables[stage.output].num_rows, seal.tables["quarantine"].num_rows
    else:
        num_rows, num_quarantined = 0, 0
    return Receipt(key=task.key, num_rows=num_rows, num_quarantined=num_quarantined, seconds=time.monotonic() - began)
