"""Most orders: documents sorted by (group, key, id), then put in their places by arithmetic on ranks.

Think of a card game. The documents of a group are one pile, sorted by key; `place` says for each card of each pile,
from its rank and the size of the pile alone, when it is dealt. So an order of a hundred million documents is one
distributed sort and a prefix sum, and its author writes only the keys.
"""

import abc
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import exact, tables
from selector.exact import Ints, UInt64, keyed
from selector.order._contract import Order, Positions, numbered
from selector.plugins.blame import blamed, fault
from selector.plugins.families import name_of
from selector.plugins.options import columns_of
from selector.plugins.pool import Pool


class Dealt(Order):
    """Sorts visits by (group, key, id), then places them by their ranks. Only `drawn` must be written, which says what
    visits there are; where rows are just sorted, extend `Placed`.

    Every method but `summary` sees arrays or one batch, and gives the same answer however the pool is cut. A batch has
    doc_id, num_tokens, what `needs` and the options name, and `visit`: a document that is to be seen several times has
    a row for each time, counted from 0. The argument `summary` is what the method `summary` returned.
    """

    left_because: ClassVar[str] = "the order does not visit it"
    """The reason of a document that has no visit."""
    measured_in: ClassVar[Literal["visits", "tokens"]] = "visits"
    """In what `rank` and `sizes` are where places are asked for. With tokens, `rank` is twice the tokens before the
    middle of a row within its group, and `sizes` twice those of the group; equal places are told apart as ever."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "arrange" in vars(cls):
            kind = next(base.__name__ for base in cls.__mro__ if base.__module__ == __name__)
            raise TypeError(
                f"{cls.__qualname__} is a {kind}, which arranges by itself: extend Order, or leave arrange out"
            )

    def summary(self, chosen: Pool, seed: int) -> Any:
        """What visits need to know of the whole pool, found by `chosen.map`; small, and picklable."""
        return None

    @abc.abstractmethod
    def drawn(self, batch: pa.RecordBatch, summary: Any, seed: int) -> "Drawn":
        """The visits to the rows of a batch, each with its group and its key."""

    def place(self, group: Ints, rank: Ints, sizes: Ints) -> Ints:
        """The place of each row: the lowest comes first, and equal places are told apart by (group, rank).

        `rank` is counted from 0 within the group, and group g has `sizes[g]` rows. By default group follows group. Some
        of the rows are asked for at a time, so a row's place depends on nothing but its group, its rank and `sizes`.
        """
        return np.zeros(len(group), np.int64)

    def places(self, group: Ints, rank: Ints, sizes: Ints, summary: Any) -> Ints:
        """The same as `place`, for an order whose places follow from its summary too; it says this one instead."""
        return self.place(group, rank, sizes)

    def phases(self, group: Ints, summary: Any) -> tuple[Ints, Sequence[str]]:
        """The phase of each visit, as an index into the names of the phases: by its group alone."""
        return np.zeros(len(group), np.int64), ["main"]

    def phases_along(self, position: Ints, summary: Any) -> tuple[Ints, Sequence[str]] | None:
        """The same, by the position of each visit; None: `phases` says it."""
        return None

    def loss_weights(self, group: Ints, summary: Any) -> npt.NDArray[np.float32]:
        """The loss weight of each visit, by its group alone."""
        return np.ones(len(group), np.float32)

    def facts(self, sizes: Ints, summary: Any) -> Mapping[str, Any]:
        """What the manifest says of the order, by its name; `sizes` are those of its groups."""
        return {}

    def phase_facts(self, summary: Any) -> Mapping[str, Mapping[str, Any]]:
        """What the manifest says of phases, by their names."""
        return {}

    @final
    def arrange(self, chosen: Pool, seed: int) -> Positions:
        chosen = with_ranks(self, chosen, seed)
        summary = self.summary(chosen, seed)
        shards = chosen.map(Read(order=self, summary=summary, seed=seed), *columns_read(self, chosen))
        counts, ids, groups, keys, tokens = (np.concatenate(arrays) for arrays in zip(_NO_ROWS, *shards, strict=True))
        rows = np.repeat(np.arange(len(counts)), counts)

        by_key = exact.argsort(keys, ids)
        by_group = by_key[np.argsort(groups[by_key], kind="stable")]
        group, sizes = groups[by_group], np.bincount(groups)
        if self.measured_in == "tokens":
            totals = exact.tally(np.zeros(len(sizes), np.int64), groups, tokens)
            place = placed(self, group, middles(group, tokens[by_group], totals, 0), 2 * totals, summary)
        else:
            rank = np.arange(len(group)) - (np.cumsum(sizes) - sizes)[group]
            place = placed(self, group, rank, sizes, summary)
        dealt = np.argsort(place, kind="stable")

        order, group = by_group[dealt], group[dealt]
        phase, weights = labelled(self, group, np.arange(len(group)), summary)
        visits = pa.table([rows[order], numbered(ids[order]), phase, weights], schema=tables.VISITS)
        left = left_out(np.flatnonzero(counts == 0), self.left_because)
        return Positions(visits=visits, left=left, phases=self.phase_facts(summary), facts=self.facts(sizes, summary))


class Placed(Dealt):
    """Sorts the documents by (group, key, id), then places them by their ranks. Only `keys` must be written."""

    def visits(self, batch: pa.RecordBatch, summary: Any, seed: int) -> Ints | None:
        """How often each row is seen, 0 for not at all; None: once, so each document as often as select decided."""
        return None

    def groups(self, batch: pa.RecordBatch, summary: Any) -> Ints:
        """The group of each row: numbers from 0 on, of which the last is about as large as the number of groups."""
        return np.zeros(batch.num_rows, np.int64)

    @abc.abstractmethod
    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> UInt64:
        """The key of each row: within its group the lowest comes first, and equal keys are told apart by doc_id."""

    @final
    def drawn(self, batch: pa.RecordBatch, summary: Any, seed: int) -> "Drawn":
        counts, row = self.visits(batch, summary, seed), np.arange(batch.num_rows)
        if counts is not None:
            row = np.repeat(row, _natural(self, "visits", counts, batch.num_rows))
            taken = batch.take(pa.array(row))
            at = batch.schema.get_field_index("visit")
            batch = taken.set_column(at, "visit", pa.array(numbered(keyed.words(taken["doc_id"]))))
        groups, keys = self.groups(batch, summary), self.keys(batch, summary, seed)
        group = _natural(self, "groups", groups, len(row))
        return Drawn(row=row, group=group, key=_numbers(self, "keys", keys, len(row), "u").astype(np.uint64))


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The visits to a batch: of each the row that is visited, its group, and its key."""

    row: Ints
    group: Ints  # from 0 on, and the last is about as large as the number of groups
    key: UInt64  # within a group the lowest comes first, and equal keys are told apart by doc_id

    @classmethod
    def of(cls, draws: Iterable[tuple[Ints, int | Ints, UInt64]]) -> "Drawn":
        """Draw after draw: the rows, their groups or that of all, and their keys."""
        listed = [(row, np.broadcast_to(group, len(row)), key) for row, group, key in draws]
        none = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint64)
        row, group, key = (np.concatenate(columns) for columns in zip(none, *listed, strict=True))
        return cls(row=row, group=group, key=key)


def has_places(order: Dealt) -> bool:
    """Whether the order says places of its own; otherwise group follows group."""
    return type(order).place is not Dealt.place or type(order).places is not Dealt.places


def placed(order: Dealt, group: Ints, rank: Ints, sizes: Ints, summary: Any) -> Ints:
    """The place of each row, as the order says it."""
    with _blamed(order):
        place = order.places(group, rank, sizes, summary)
    return _numbers(order, "place", place, len(group), "iu").astype(np.int64)


def middles(group: Ints, tokens: Ints, totals: Ints, before: int) -> Ints:
    """For rows that follow each other in line, twice the tokens before the middle of each one within its group.

    `totals` are the tokens of all groups, `before` those of all rows in line before these.
    """
    return 2 * (before + np.cumsum(tokens) - (np.cumsum(totals) - totals)[group]) - tokens


def labelled(
    order: Dealt, group: Ints, position: Ints, summary: Any
) -> tuple[pa.DictionaryArray, npt.NDArray[np.float32]]:
    """The phase and the loss weight of visits of these groups, at these positions."""
    with _blamed(order):
        codes, names = order.phases_along(position, summary) or order.phases(group, summary)
        words, answer = pa.array(names, pa.string()), order.loss_weights(group, summary)
    phase = pa.DictionaryArray.from_arrays(
        _natural(order, "phases", codes, len(group), len(names)).astype(np.int32), words
    )
    if phase.dictionary.null_count:
        raise fault("order", name_of(order), order, f"answers with the phases {list(names)} in the method 'phases'")
    weights = _numbers(order, "loss_weights", answer, len(group), "iuf").astype(np.float32)
    wrong = weights[~np.isfinite(weights) | (weights < 0)]
    if len(wrong):
        raise fault("order", name_of(order), order, f"answers with the number {wrong[0]} in the method 'loss_weights'")
    return phase, weights


def left_out(rows: npt.NDArray[Any], because: str) -> pa.Table:
    """`tables.LEFT`: these rows are not visited, and why."""
    reason = pa.DictionaryArray.from_arrays(np.zeros(len(rows), np.int32), pa.array([because]))
    return pa.table([rows.astype(np.int64), reason, pa.nulls(len(rows), tables.LABEL)], schema=tables.LEFT)


def random_keys(batch: pa.RecordBatch, seed: int, purpose: str) -> UInt64:
    """One random key per row, of a keyed hash: another one for each visit of a document, so its visits lie apart."""
    return random_visits(batch["doc_id"], batch["visit"].to_numpy(), seed, purpose)


def random_visits(ids: pa.Array, visit: npt.NDArray[Any], seed: int, purpose: str) -> UInt64:
    """One random number per visit of these documents."""
    if not visit.any():
        return keyed.hashes(ids, seed, purpose)
    numbers, which = np.unique(visit, return_inverse=True)
    purposes = [f"{purpose}/{number}" if number else purpose for number in numbers.tolist()]
    return keyed.hashes_by(ids, seed, purposes, which)


_NO_ROWS = (
    np.empty(0, np.int64), np.empty((0, 2), np.uint64), np.empty(0, np.int64), np.empty(0, np.uint64),
    np.empty(0, np.int64),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Read:
    """What the sort needs of a batch: how often each row is seen; then for each visit its id, its group, its key, and
    its tokens where the order counts those."""

    order: Dealt
    summary: Any
    seed: int

    def __call__(self, batch: pa.RecordBatch) -> tuple[Ints, UInt64, Ints, UInt64, Ints]:
        ids, tokens = keyed.words(batch["doc_id"]), np.empty(0, np.int64)
        with _blamed(self.order):
            drawn = self.order.drawn(batch.append_column("visit", pa.array(numbered(ids))), self.summary, self.seed)
        by_row = np.argsort(drawn.row, kind="stable")
        row = drawn.row[by_row]
        if self.order.measured_in == "tokens":
            tokens = batch["num_tokens"].to_numpy().astype(np.int64)[row]
        return np.bincount(row, minlength=len(ids)), ids[row], drawn.group[by_row], drawn.key[by_row], tokens


def _blamed(order: Dealt) -> AbstractContextManager[None]:
    return blamed("order", name_of(order), order)


def columns_read(order: Order, chosen: Pool) -> list[str]:
    """The columns of the pool that the order may read: those of every order, and those that it names."""
    theirs = {"doc_id", "num_tokens", "round", "visits", "inclusion_probability"}
    wanted = {*theirs, *columns_of(order), *order.ranks}
    return [name for name in chosen.schema.names if name in wanted]


def with_ranks(order: Order, chosen: Pool, seed: int) -> Pool:
    """The pool with the further columns that the order reads (`ranks`)."""
    columns = dict[str, Ints]()
    for name, by in order.ranks.items():
        rows = by.arrange(chosen, seed).visits["document"].to_numpy()
        columns[name] = standing(rows, np.arange(len(rows)), chosen.num_documents)
    return chosen.with_columns(pa.table(columns)) if columns else chosen


def standing(rows: Ints, positions: Ints, num_rows: int) -> Ints:
    """The position of each of so many rows; one without a position has that of the row before."""
    whole = np.full(num_rows, -1, np.int64)
    whole[rows] = positions
    return whole[np.maximum.accumulate(np.where(whole >= 0, np.arange(num_rows), 0))]


def _numbers(order: Dealt, method: str, answer: npt.NDArray[Any], length: int, kinds: str) -> npt.NDArray[Any]:
    """The answer of an order's method, if it has a number of one of NumPy's `kinds` for every row."""
    if answer.shape != (length,) or answer.dtype.kind not in kinds:
        form = f"{answer.dtype} of shape {answer.shape}"
        raise fault("order", name_of(order), order, f"answers {length} rows with {form} in the method {method!r}")
    return answer


def _natural(order: Dealt, method: str, answer: npt.NDArray[Any], length: int, below: int = 2**62) -> Ints:
    """The answer of an order's method, if it has a whole number from 0 on, and below some limit, for every row."""
    numbers = _numbers(order, method, answer, length, "iu").astype(np.int64)
    wrong = numbers[(numbers < 0) | (numbers >= below)]
    if len(wrong):
        raise fault("order", name_of(order), order, f"answers with the number {wrong[0]} in the method {method!r}")
    return numbers
