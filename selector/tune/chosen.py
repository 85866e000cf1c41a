"""The documents that a manifest has, each once, with any columns that the flow knows of them.

What is asked for is computed where it is not there yet, once for all arms: vectors, clusters, scores.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from selector import pipeline
from selector.corpus.columns import Column
from selector.engine.executor import Executor
from selector.engine.lease import Lease
from selector.engine.part import Task
from selector.engine.runner import Progress, Runner
from selector.engine.step import Done
from selector.engine.store import Store
from selector.exact import keyed
from selector.manifest import Manifest
from selector.plugins.catalogue import KNOWN
from selector.policy import Policy
from selector.policy.resolve import Resolved, resolve
from selector.steps.gather import Gather
from selector.steps.plan import Plan


@contextmanager
def reading(
    resolved: Resolved, columns: Sequence[Column], root: str, executor: Executor, progress: Progress | None
) -> Generator[tuple[Done, Gather] | None]:
    """The finished steps that these columns come from, and how to read them part by part.

    Without anybody to watch nothing is done and nothing written: None where one of the steps is not finished yet.
    """
    whole = replace(resolved, columns={**resolved.columns, "objective": tuple(columns)})
    gather = Plan.of(whole, executor.device()).gather(columns)
    steps = pipeline.flow(whole, executor, gather.reads)
    opened = Store.open(root)
    if progress is None:
        with Runner(opened, executor) as runner:
            is_finished = all(step.action == "cached" for step in runner.plan(steps, {}))
            yield (runner.done, gather) if is_finished else None
        return
    with Lease.taken(opened.storage) as lease, Runner(opened, executor, progress, lease) as runner:
        yield runner.run(steps), gather


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Reads columns of the documents of a manifest, which has this policy."""

    policy: Policy
    manifest: Manifest
    root: str
    executor: Executor
    progress: Progress

    def __call__(self, names: Sequence[str]) -> pa.Table:
        """`doc_id` and these columns, sorted by doc_id. Raises PolicyError for a column that there is not."""
        resolved = resolve(self.policy)
        columns = [replace(resolved.catalogue.find(name, "objective"), name=name) for name in names]
        ids = np.unique(np.concatenate([_ids(self.manifest, i) for i in range(len(self.manifest.header.parts))]))
        columns = [KNOWN["doc_id"], *columns]
        with reading(resolved, columns, self.root, self.executor, self.progress) as finished:
            assert finished is not None, "somebody watches, so it was done"
            done, gather = finished
            asked_of = _Reading(store=done.store, gather=gather, ids=ids)
            documents = pa.concat_tables(done.map(asked_of, gather.tasks(done)), promote_options="permissive")
        words = keyed.words(documents["doc_id"])
        return documents.take(pa.array(np.lexsort((words[:, 1], words[:, 0])))).combine_chunks()


def _ids(manifest: Manifest, part: int) -> "np.ndarray[tuple[int], np.dtype[np.bytes_]]":
    return keyed.sortable(manifest.ids_of_part(part))


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """Reads the chosen documents of a part."""

    store: Store
    gather: Gather
    ids: "np.ndarray[tuple[int], np.dtype[np.bytes_]]"  # sorted

    def __call__(self, task: Task) -> pa.Table:
        columns: list[Column] = list(self.gather.columns)
        documents = self.gather.reader.read(self.store, task, columns)
        ids = keyed.sortable(documents["doc_id"])
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        documents = documents.filter(pa.array(self.ids[at] == ids if len(self.ids) else np.zeros(len(ids), np.bool_)))
        arrays = [
            column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in documents.columns
        ]
        return pa.Table.from_arrays(arrays, names=documents.schema.names)
