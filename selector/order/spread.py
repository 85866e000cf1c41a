"""Another order in which no window has more than a few documents of one cluster, source or label."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from selector.errors import PolicyError
from selector.exact import keyed
from selector.order import Order, Pool, Positions, groups_in
from selector.order._contract import batch_of
from selector.order._moved import kept_apart, moved_by
from selector.order._spacing import exceeded


@dataclass(frozen=True, kw_only=True)
class Spread(Order):
    """Another order, moved so that any `window` visits in a row have at most `most` of one group.

    A group is all documents with one value of the column `by`: source, cluster, a label such as the fact that
    paraphrases share, corpus.x. Documents without a value are alike with none. Every visit comes as early as it can;
    those of a group stay in their order, and none leaves its phase. Without a `window` it is the trainer's global batch
    (`training.global_batch_size`), and 512 where the policy does not say that.

    Where no order keeps to the cap, the facts of the manifest say so: `spread` has the number of visits that are one
    too many in the window that ends with them, and how far visits moved. The driver holds all visits; a million take
    five seconds or so.

    Evidence: knowledge that is seen in paraphrases is extracted, and without them is not (Physics of language models
    3.1, arXiv 2309.14316); that they should lie apart follows from what is known of repeats, and was not compared by
    itself. In 2605.30334 diverse batches are one of four principles of orders.

    When: documents that say the same in other words would stand together, as where another order sorts by topic.
    `shuffled` keeps them apart as well where they are few.
    """

    example: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"inner": {"blocked": {"by": "source"}}, "window": 512, "most": 200}
    )

    inner: Order
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

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        window = batch_of(chosen) if self.window is None else self.window
        positions = self.inner.arrange(chosen, seed)
        groups = groups_in(chosen, self.by)
        of_row = np.concatenate([np.empty(0, np.int64), *chosen.map(groups.of, self.by)])
        group = of_row[positions.visits["document"].to_numpy()]
        group[group == groups.count] = -1
        places = kept_apart(positions.visits["phase"], group, lambda _: window, self.most)
        ids = keyed.words(chosen.table("doc_id")["doc_id"])
        facts = {
            "by": self.by,
            "window": window,
            "most": self.most,
            "exceeding": exceeded(group[places], window, self.most),
            **moved_by(places),
        }
        return replace(positions.rearranged(places, ids), facts={**positions.facts, "spread": facts})
