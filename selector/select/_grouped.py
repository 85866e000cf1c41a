"""Selectors that see a whole group at once: a key for each of its documents, then a quota for each group."""

import functools
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.errors import SelectorError
from selector.exact import Floats, UInt64
from selector.exact.sortkeys import floats
from selector.exact.spend import Budget
from selector.plugins.options import columns_of
from selector.plugins.pool import Pool
from selector.select._ranked import Ranked

_KEY, _VALUE, _OTHER = "group.key", "group.value", "group.other"
_ANSWER = pa.schema([(_KEY, pa.uint64()), (_VALUE, pa.float64()), (_OTHER, tables.DOC_ID)])


@dataclass(frozen=True, kw_only=True)
class Keys:
    """What is said of the documents of one group, in the order in which they were shown."""

    keys: UInt64  # the lowest first; ties by doc_id
    never: npt.NDArray[np.bool_] | None = None  # which ones are never taken, whatever is left of the budget
    values: Floats | None = None  # what was compared, the largest first; NaN: nothing
    others: pa.Array | None = None  # the doc_id of the document that decided each one's lot; null: none did


class Grouped(Ranked):
    """A key for every document, from all documents of its group at once; then the lowest keys are kept, as in `Ranked`.

    A group must fit in the memory of a worker, and be done in the time that a worker has: `largest_group` says how many
    documents that is, and a larger one is refused before any work. Where documents are never taken, `fills_budget` is
    False.
    """

    largest_group: ClassVar[int | None] = None
    """The most documents that a group may have; None: as many as there are."""

    @property
    def grouped_by(self) -> str:
        """The column whose values are the groups."""
        return "cluster"

    @property
    def looks_at_given(self) -> bool:
        return True

    @abstractmethod
    def group_keys(self, group: pa.RecordBatch, given: pa.RecordBatch, seed: int) -> Keys:
        """The keys of a group's documents, which are sorted by doc_id.

        `given` are those documents of the group that are chosen already (`pool.given`), with the same columns and
        sorted too; there may be none of them. They are context, and get no keys.

        The law: the answer depends on the documents of the group and the seed, and on nothing else.
        """

    def first_keys(self, group: pa.RecordBatch, given: pa.RecordBatch, seed: int, most_taken: int | None) -> Keys:
        """The same, where no more than so many of the group can be taken (None: nobody knows). What comes after them
        may stand in any order, so a selector that works out one document after another can stop there."""
        return self.group_keys(group, given, seed)

    @final
    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> UInt64:
        return batch[_KEY].fill_null(0).to_numpy(zero_copy_only=False)

    @final
    def allowed(self, batch: pa.RecordBatch, summary: Any) -> npt.NDArray[np.bool_]:
        return batch[_KEY].is_valid().to_numpy(zero_copy_only=False)

    @final
    def values(self, batch: pa.RecordBatch, summary: Any, seed: int) -> Floats:
        return floats(batch[_VALUE])

    @final
    def others(self, batch: pa.RecordBatch, summary: Any) -> pa.Array:
        return batch[_OTHER]

    def _columns(self) -> tuple[str, ...]:
        return ("doc_id", "num_tokens", self.grouped_by, *_ANSWER.names)

    def _prepared(self, pool: Pool, seed: int, budget: Budget | None) -> Pool:
        self._check_sizes(pool)
        columns = list(dict.fromkeys(("doc_id", "num_tokens", self.grouped_by, *columns_of(self))))
        given = {} if pool.given is None else _in_groups(pool.given.select(columns), self.grouped_by)
        work = functools.partial(_answer, self, given, seed, self._most_taken(pool, budget))
        return pool.exchange(self.grouped_by, work, *columns, returns=_ANSWER)

    def _most_taken(self, pool: Pool, budget: Budget | None) -> Mapping[Any, int]:
        """How many documents of each group can be taken, where that is known beforehand: a budget in documents of which
        every group has its quota, and leaves nothing of it."""
        is_asked = type(self).first_keys is not Grouped.first_keys
        if not is_asked or budget is None or budget.unit != "documents" or not self.fills_budget:
            return {}
        counts = self._counts(pool)
        names = sorted(counts, key=lambda name: (name is None, name))
        sizes = np.array([counts[name] for name in names], np.int64)
        return dict(zip(names, self.quotas(names, sizes, budget, None).tolist(), strict=True))

    def _counts(self, pool: Pool) -> Counter[Any]:
        """How many documents each group has."""
        counts: Counter[Any] = Counter()
        for counted in pool.map(functools.partial(_counted, self.grouped_by), self.grouped_by):
            counts.update(counted)
        return counts

    def _check_sizes(self, pool: Pool) -> None:
        """Raises SelectorError where a group is larger than the largest that can be looked at."""
        if self.largest_group is None or pool.num_documents <= self.largest_group:
            return
        name, most = max(self._counts(pool).items(), key=lambda pair: (pair[1], str(pair[0])))
        if most > self.largest_group:
            cure = "a larger cluster.num_clusters" if self.grouped_by == "cluster" else "a column with smaller groups"
            raise SelectorError(
                f"{type(self).__qualname__} looks at all documents of a group at once, {self.largest_group:,} at most, "
                f"and {self.grouped_by} {name} has {most:,}. Write {cure}."
            )


def _counted(by: str, batch: pa.RecordBatch) -> dict[Any, int]:
    """How many documents there are of each group."""
    counts = batch[by].value_counts()
    names, numbers = counts.field("values").to_pylist(), counts.field("counts").to_pylist()
    return dict(zip(names, numbers, strict=True))


def _in_groups(given: pa.Table, by: str) -> dict[Any, pa.RecordBatch]:
    """The documents that are chosen already, by the name of their group."""
    rows: dict[Any, list[int]] = {}
    ids, names = given["doc_id"].to_pylist(), given[by].to_pylist()
    for row in sorted(range(len(ids)), key=ids.__getitem__):
        rows.setdefault(names[row], []).append(row)
    return {name: given.take(chosen).combine_chunks().to_batches()[0] for name, chosen in rows.items()}


def _answer(
    selector: Grouped,
    given: Mapping[Any, pa.RecordBatch],
    seed: int,
    most_taken: Mapping[Any, int],
    group: pa.RecordBatch,
) -> pa.RecordBatch:
    name, n = group[selector.grouped_by][0].as_py(), group.num_rows
    keys = selector.first_keys(group, given.get(name, group.slice(0, 0)), seed, most_taken.get(name))
    columns = [
        pa.array(keys.keys, pa.uint64(), mask=keys.never),
        pa.nulls(n, pa.float64()) if keys.values is None else pa.array(keys.values, mask=np.isnan(keys.values)),
        pa.nulls(n, tables.DOC_ID) if keys.others is None else keys.others,
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_ANSWER)
