"""What a selector is asked, and what it answers."""

import abc
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.exact.spend import Budget
from selector.plugins.pool import Pool

Reason = str | tuple[str, Mapping[str, Any]]
"""A sentence, or a template with what stands in its braces: ("cluster {cluster}: beyond quota {quota}", {…})."""


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What a selector decided.

    `decide` gives the verdict (`tables.VERDICTS`) on each document of any batch with `columns`; it must be picklable.
    `pool` is the pool with what was added to it, where `decide` reads that. `known` are further columns of it, from
    which `decide` takes what it would else work out again; it answers the same without them. `facts` go into the
    manifest: quotas, weights per round, what could not be spent. `waiting` says what must happen before the rest can
    be decided ("round 2 needs feedback on 3,334 documents"); what is decided so far is then a manifest. `num_rounds` is
    how many rounds are decided, where such manifests lie behind: what a later round chose is arranged after all of the
    earlier ones, which stay in their places. `fills_budget` is given where it is not as the selector says of itself.
    """

    decide: Callable[[pa.RecordBatch], pa.RecordBatch]
    columns: tuple[str, ...]
    pool: Pool | None = None
    known: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    waiting: str | None = None
    num_rounds: int | None = None
    fills_budget: bool | None = None


class Selector(abc.ABC):
    """Chooses documents within a budget, and says why for each one."""

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()
    fills_budget: ClassVar[bool] = True
    """Whether it spends all that can be spent; False for one that ends early by its own rule, such as a threshold."""

    @property
    def looks_at_given(self) -> bool:
        """Whether `pool.given` makes a difference to it; where not, nobody gathers those documents."""
        return True

    @property
    def needs(self) -> tuple[str, ...]:
        """The pool's columns beside doc_id, num_tokens and the scores that options name."""
        return ()

    @property
    def named_values(self) -> Mapping[str, tuple[str, Collection[str]]]:
        """The values of columns that options name, as people write them: for each such option the column and the names.
        Names that no document of the pool has are said, with the nearest of those that there are."""
        return {}

    @abc.abstractmethod
    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        """A verdict on every document of the pool.

        The laws: what is kept fits the budget exactly (see `exact.take`), or ends early where `fills_budget` is False;
        the answer depends on the documents and not on how they are cut into shards; `pool.given` are never decided,
        and count as chosen; a reason is shared by many documents, never one per document; an inclusion probability is
        that of the design, 1 or 0 where nothing was drawn, and null where the method defines none.
        """


IsTaken = Callable[[pa.RecordBatch], npt.NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class Round:
    """A round that is to be taken: by `selector`, of the documents of `pool` that earlier rounds left, so that all
    rounds together spend `amount`.

    Whoever takes it says then, with `after`, what it took: which documents, by which columns of the pool, to which
    columns may have been added meanwhile. So a round can be held within limits that the selector knows nothing of, and
    the next ones go on from what was really taken.
    """

    pool: Pool
    number: int  # from 0 on
    amount: int
    is_last: bool
    selector: Selector
    after: Callable[[Pool, IsTaken, Sequence[str]], "Round | Ended"]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The end of the rounds: for good, or until that has happened which `waiting` says. As in `Decisions`."""

    facts: Mapping[str, Any]
    waiting: str | None = None
    num_rounds: int | None = None


class InRounds(Selector):
    """Chooses in rounds, each after what the ones before have shown. The law: `select` takes what the rounds take."""

    @abc.abstractmethod
    def first_round(self, pool: Pool, budget: Budget, seed: int) -> Round:
        """The round that begins the choice from a pool and a budget."""


def reasons(codes: npt.NDArray[Any], choices: Sequence[Reason]) -> dict[str, pa.Array]:
    """The columns `reason` and `arguments` of a verdict: `codes` are indices into `choices`, one per document."""
    pairs = [(reason, {}) if isinstance(reason, str) else reason for reason in choices]
    texts = [text for text, _ in pairs]
    filled = [json.dumps(dict(given), sort_keys=True, ensure_ascii=False) if given else None for _, given in pairs]
    indices = np.asarray(codes, np.int32)
    return {"reason": _labels(indices, texts), "arguments": _labels(indices, filled)}


def verdicts(kept: npt.NDArray[np.bool_], **columns: Any) -> pa.RecordBatch:
    """A batch of `tables.VERDICTS` from the columns that are known: one visit, round 0, and else null."""
    n = len(kept)
    filled: list[pa.Array] = []
    given: dict[str, Any] = {"kept": kept, "visits": np.ones(n, np.uint16), "round": np.zeros(n, np.uint16), **columns}
    for name in given:
        assert name in tables.VERDICTS.names, f"a verdict has no column {name!r}"
    for column in tables.VERDICTS:
        value = given.get(column.name)
        if value is None:
            value = tables.nulls(n, column.type)
        elif not isinstance(value, pa.Array):
            value = np.asarray(value)
            mask = np.isnan(value) if column.nullable and value.dtype.kind == "f" else None
            value = pa.array(value, mask=mask)
        filled.append(value if value.type == column.type else value.cast(column.type, safe=False))
    return pa.RecordBatch.from_arrays(filled, schema=tables.VERDICTS)


def _labels(indices: npt.NDArray[np.int32], values: Sequence[str | None]) -> pa.DictionaryArray:
    """A column of labels: each index into the values, null where the value is None; equal values have one label."""
    words = {value: i for i, value in enumerate(dict.fromkeys(value for value in values if value is not None))}
    codes = np.array([-1 if value is None else words[value] for value in values] or [-1], np.int32)[indices]
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), pa.array([*words], pa.string()))
