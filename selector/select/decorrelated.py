"""Documents whose features do not vary together."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import Floats, keyed
from selector.select import Budget, Group, Grouped, Keys, Pool, Reasons
from selector.select._alike import vectors

_BATCH = "decorrelated.batch"
_BATCHES = pa.schema([(_BATCH, pa.int32())])
_MOST_TERMS = 1 << 22  # products of one feature that are held at once


@dataclass(frozen=True, kw_only=True)
class Decorrelated(Grouped):
    """Takes, of every batch, the documents whose vectors' features are correlated least (DiSF).

    The corpus falls into batches of about `batch` documents by a keyed hash of their ids, never by where they stand. Of
    each, `picks` documents are taken one by one: the one next that makes the sum of the squared correlations between
    different features smallest, over those taken and itself. Features are centred and divided by their deviation (ddof
    1) over just these. The first is drawn. With two documents any two features correlate by 1 or -1, so the second is
    nearly always a tie; ties, to six places, go to the lowest keyed hash, so it is drawn too. What is chosen already
    is not looked at: a correlation is one of a batch.

    The share of the budget should be `picks` / `batch`, which published is 16 of 1,024; what goes beyond is left, and
    the manifest says so. A batch may have 8,192 documents. Every batch takes time with its size, with the number of
    features and with the cube of `picks`: half a second for 16 of 1,024 with 384 features.

    Source: arXiv 2504.20644. Setting: 1.5 % of SlimPajama, models up to 1.1 billion parameters. Reported: better than
    training on all of it. Measured on 5 % of 6,936 pages of Debian documentation (64 clusters, 5 seeds, of random 25;
    entropy of packages as a part of the largest): .719 ± .045 (13 of 256), random .688 ± .009. `random` is as good
    where the vectors say little of what is learnt.
    """

    version = 2
    fills_budget = False
    largest_group: ClassVar[int | None] = 1 << 13

    batch: int = 1024
    picks: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.picks <= self.batch <= 1 << 12 or self.picks**2 * self.batch > _MOST_TERMS:
            raise PolicyError(
                f"decorrelated.picks={self.picks} of decorrelated.batch={self.batch} cannot be worked out: a batch has "
                f"1 to 4,096 documents, at least as many as are picked, and batch x picks x picks is at most "
                f"{_MOST_TERMS:,}. Write e.g. batch: 1024, picks: 16."
            )

    @property
    def grouped_by(self) -> str:
        return _BATCH

    @property
    def looks_at_given(self) -> bool:
        return False

    @property
    def is_probability_defined(self) -> bool:
        return False

    @property
    def needs(self) -> tuple[str, ...]:
        return ("embedding",)

    def group_keys(self, group: pa.RecordBatch, given: pa.RecordBatch, seed: int) -> Keys:
        order = np.argsort(keyed.hashes(group["doc_id"], seed, "decorrelated"), kind="stable")
        picked = greedy(vectors(group)[order], min(self.picks, len(order)))
        place = np.arange(len(order), dtype=np.uint64) + np.uint64(len(order))
        place[order[picked]] = np.arange(len(picked))
        return Keys(keys=place, never=place >= len(order))

    def reasons(self, group: Group) -> Reasons:
        picks = f"among its {self.picks} least correlated"
        return Reasons(
            kept=f"batch {{group}}: {picks}",
            left_out=f"batch {{group}}: {picks}, beyond the budget",
            never=f"batch {{group}}: not {picks}",
        )

    def _prepared(self, pool: Pool, seed: int, budget: Budget | None) -> Pool:
        number = functools.partial(_batch_of, max(1, round(pool.num_documents / self.batch)), seed)
        extended = pool.extended(number, "doc_id", returns=_BATCHES)
        return super()._prepared(dataclasses.replace(extended, given=None), seed, budget)


def _batch_of(num_batches: int, seed: int, documents: pa.RecordBatch) -> pa.RecordBatch:
    """The batch of each document, by a keyed hash of its id."""
    drawn = keyed.hashes(documents["doc_id"], seed, "decorrelated batch")
    return pa.RecordBatch.from_arrays([pa.array((drawn % np.uint64(num_batches)).astype(np.int32))], schema=_BATCHES)


def greedy(rows: Floats, count: int) -> list[int]:
    """The places of so many rows: the first one, then again and again the one whose `correlations` with those taken are
    smallest, to six places; ties to the first."""
    taken = [0] if count else []
    while len(taken) < count:
        values = np.rint(correlations(rows, taken) * 1e6)
        values[taken] = np.inf
        taken.append(int(values.argmin()))
    return taken


def correlations(rows: Floats, taken: list[int]) -> Floats:
    """The sum of the squared correlations between different features over the taken rows and each one, (n,).

    With the standardised rows Z it is the sum of the squares of Z'Z / (m - 1) without its diagonal. The sum of all of
    them is that of Z Z', which is small. Feature by feature, in a fixed order: the same bits on every machine.
    """
    m, n = len(taken) + 1, len(rows)
    products = np.zeros((m, m, n))
    diagonal = np.zeros(n)
    for feature in rows.T:
        values = np.empty((m, n))
        values[:-1], values[-1] = feature[taken][:, None], feature
        mean = _sum(values) / m
        centred = values - mean
        variance = _sum(centred * centred) / (m - 1)
        standard = centred / np.sqrt(1e-8 + variance)
        products += standard[:, None] * standard[None]
        diagonal += (variance / (1e-8 + variance)) ** 2
    products = (products * products).reshape(m * m, n)
    return _sum(products) / (m - 1) ** 2 - diagonal


def _sum(rows: Floats) -> Floats:
    """The sum of rows, one after another."""
    total = np.zeros(rows.shape[1])
    for row in rows:
        total += row
    return total
