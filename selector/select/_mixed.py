"""Selectors that give every group of a column a share of the budget that the policy says."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from selector import exact
from selector.errors import PolicyError
from selector.exact import Floats, Ints, UInt64, keyed
from selector.exact.apportion import apportion
from selector.exact.spend import Budget
from selector.select._ranked import Ranked


@dataclass(frozen=True, kw_only=True)
class Mixed(Ranked):
    """Shares of the budget for the values of a column, renormalised over those that there are.

    `by` names the column: source, cluster, a label, `corpus.topic`. A group that is too small for its share gives the
    rest of it to the others by their weights, unless its documents may be visited more often (`visits`, at most so many
    times each). Inside a group documents are drawn, uniformly. A selector that extends it says its `purpose`, which
    keeps its draws apart from those of any other, and the weights.
    """

    purpose: ClassVar[str]
    fills_budget = False

    by: str = "source"
    visits: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.visits < 1 << 16:
            raise PolicyError(
                f"{self.purpose}.visits={self.visits} is not a number of visits. Write 1 for each document once at "
                "most, or up to 65,535."
            )

    @property
    def grouped_by(self) -> str:
        return self.by

    @abstractmethod
    def weigh(self, groups: Sequence[int | str | None], sizes: Ints) -> Sequence[float] | Floats:
        """How much each group weighs; `sizes` is what it has. 0: it gets nothing."""

    def most_visits(self) -> int:
        return self.visits

    def quotas(self, groups: Sequence[int | str], sizes: Ints, budget: Budget, summary: Any) -> Ints:
        shares = [rounded(float(weight)) for weight in self.weigh(groups, sizes)]
        return apportion(budget.amount, shares, self.visits * sizes)

    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> UInt64:
        return keyed.hashes(batch["doc_id"], seed, self.purpose)

    def log_weights(self, batch: pa.RecordBatch, summary: Any, cuts: UInt64) -> Floats | None:
        return np.zeros(batch.num_rows)


def rounded(weight: float) -> float:
    """A weight to nine digits, so that shares are dealt out in fractions of few digits."""
    return float(f"{weight:.9g}")


def weights_of(
    named: Mapping[str, float], groups: Sequence[int | str | None], otherwise: float = 0.0
) -> Sequence[float]:
    """The weight of each group, by its name as people write it."""
    return [named.get(str(group), otherwise) for group in groups]


def check_weights(named: Mapping[str, float] | None, where: str) -> None:
    """Raises PolicyError where these are no weights."""
    for name, weight in (named or {}).items():
        if not 0 <= weight < math.inf:
            raise PolicyError(f"{where}.{name}={weight} is not a weight, which is finite and at least 0.")
    if named is not None and not any(named.values()):
        raise PolicyError(f"{where} gives nothing to any group. Write a weight above 0, or leave {where} out.")


def tempered(weights: Sequence[float] | Floats, temperature: float) -> Floats:
    """The weights to the power 1 / temperature, beside the largest, with the same bits on every machine."""
    raw = np.asarray(weights, np.float64)
    is_some = raw > 0
    if not is_some.any():
        return raw
    relative = np.where(is_some, raw, raw.max()) / raw.max()
    return np.where(is_some, exact.expm1(exact.log(relative) / temperature) + 1, 0.0)
