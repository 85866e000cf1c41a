"""Another order in which no window has more than a few documents of one cluster, source or label."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from selector.errors import PolicyError
from selector.exact import Ints
from selector.order import Along, Groups, groups_in
from selector.order._around import Visits
from selector.order._contract import batch_of
from selector.order._moved import Moved, Moves, kept_apart
from selector.order._spacing import Numbers, exceeded
from selector.order._unmet import some_visits, with_unmet


@dataclass(frozen=True, kw_only=True)
class Spread(Moved):
    """Another order, moved so that any `window` visits in a row have at most `most` of one group.

    A group is all documents with one value of the column `by`: source, cluster, a label such as the fact that
    paraphrases share, corpus.x. Documents without a value are alike with none. Every visit comes as early as it can;
    those of a group stay in their order, and none leaves its phase. Without a `window` it is the trainer's global batch
    (`training.global_batch_size`), and 512 where the policy does not say that.

    Where no order keeps to the cap, the facts of the manifest say so: `spread` has the number of visits that are one
    too many in the window that ends with them, and how far visits moved. The driver holds the groups of all visits, up
    to 10 bytes a visit and 100 million visits; a million take seven seconds or so.

    Evidence: knowledge that is seen in paraphrases is extracted, and without them is not (Physics of language models
    3.1, arXiv 2309.14316); that they should lie apart follows from what is known of repeats, and was not compared by
    itself. In 2605.30334 diverse batches are one of four principles of orders.

    When: documents that say the same in other words would stand together, as where another order sorts by topic.
    `shuffled` keeps them apart as well where they are few.
    """

    example: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"inner": {"blocked": {"by": "source"}}, "window": 512, "most": 200}
    )

    by: str = "source"
    window: int | None = None
    most: int = 256

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise PolicyError(f"spread.window={self.window} is no number of visits: write 1 or more, e.g. 512.")
        if self.most < 1:
            raise PolicyError(f"spread.most={self.most} leaves no place to put a document: write 1 or more.")

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by,)

    @property
    def reads_batch(self) -> bool:
        return self.window is None

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.by,)

    def summary(self, visits: Visits, seed: int) -> "Kept":
        window = batch_of(visits.chosen) if self.window is None else self.window
        return Kept(groups=groups_in(visits.chosen, self.by), window=window)

    def groups(self, along: Along, summary: "Kept") -> Ints:
        group = summary.groups.of(along.batch)
        return np.where(group == summary.groups.count, -1, group)

    def laid(self, groups: Numbers, visits: Visits, summary: "Kept") -> Numbers:
        return kept_apart(groups, visits.begins, lambda _: summary.window, self.most)

    def facts(self, laid: Numbers, moved: Moves, visits: Visits, summary: "Kept") -> Mapping[str, Any]:
        count, lines = exceeded(laid, summary.window, self.most), list[str]()
        if count:
            allowed = f"at most {self.most:,} of one {self.by} in {summary.window:,} visits"
            beyond = f"beyond the cap of spread, {allowed}: no order keeps to it"
            lines.append(some_visits(count, f"is {beyond}", f"are {beyond}"))
        facts = {"by": self.by, "window": summary.window, "most": self.most, "exceeding": count, **moved.distances}
        return with_unmet(facts, lines)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The groups, and the window in which they keep to the cap."""

    groups: Groups
    window: int
