"""What every cluster gets of a budget: in proportion to its size, or the same."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import pyarrow as pa

from selector.exact import Ints
from selector.exact.apportion import apportion
from selector.exact.spend import Budget
from selector.select._grouped import Grouped, Keys
from selector.select._ranked import Ranked


@dataclass(frozen=True, kw_only=True)
class InClusters(Ranked):
    """A selector that gives every cluster a quota: by largest remainder, `proportional` to its size or `equal` for all;
    what a small one has no documents for, the others get."""

    quota: Literal["proportional", "equal"] = "proportional"

    @property
    def grouped_by(self) -> str:
        return "cluster"

    def quotas(self, groups: Sequence[int | str], sizes: Ints, budget: Budget, summary: Any) -> Ints:
        return apportion(budget.amount, sizes if self.quota == "proportional" else np.ones_like(sizes), sizes)


@dataclass(frozen=True, kw_only=True)
class OneByOne(InClusters, Grouped):
    """A selector that works out by vectors which document of a cluster it takes after which, and can stop anywhere."""

    @property
    def needs(self) -> tuple[str, ...]:
        return (*super().needs, "embedding")

    @final
    def group_keys(self, group: pa.RecordBatch, given: pa.RecordBatch, seed: int) -> Keys:
        return self.first_keys(group, given, seed, None)

    @abstractmethod
    def first_keys(self, group: pa.RecordBatch, given: pa.RecordBatch, seed: int, most_taken: int | None) -> Keys: ...
