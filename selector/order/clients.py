"""A curriculum inside every client of federated training, and clients that join one after another."""

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from selector.exact import Ints
from selector.order import Direction, Groups, GroupSummary, InGroups, Pool, ScoreName
from selector.order._groups import mean_order
from selector.order._pacing import Pacing, available, check_pacing

_WHOLE = 1 << 30  # how many parts the time of the order has, to which places are rounded


@dataclass(frozen=True, kw_only=True)
class Opening(GroupSummary):
    """The clients in their order, and when each of them opens, in parts of the whole time."""

    opens: Ints


@dataclass(frozen=True, kw_only=True)
class Clients(InGroups):
    """Opens one client after another, and from then on visits its documents evenly until the end, easy ones first.

    A client is all documents with one value of the column `by` (source, cluster, a label, corpus.x). Clients are in the
    order of their mean of `score`, or of `clients_by`, such as the loss of the model on each document: easy ones first
    or hard ones first as `direction` says, ties by name. At each of `steps` steps the schedule `pacing` says which
    share of the clients is open, rounded up: from the share `start` to all of them once the share `full` of the steps
    is over (see `paced`). Every document is visited once, so a client that opens late goes through its own faster.
    Documents without a client come last.

    Evidence: the federated sequel of arXiv 2012.03107 (ICCV 2023, image classification, of which we read the abstract):
    an order by difficulty inside every client helps more, the more clients differ; it has an order of clients too. That
    documents are spread evenly from the opening on is ours: there a client trains whenever it is drawn. With one
    process and one loader nothing of this was compared.

    When: clients differ in what they have, and training takes from each of them in turn. Where it does not, it is a
    mixture whose shares change; compare with `mixed` and with `shuffled`.
    """

    chance = "clients"

    score: ScoreName = field()  # no default, unlike that of the class that it extends
    clients_by: ScoreName | None = None
    pacing: Pacing = "linear"
    start: float = 0.2
    full: float = 0.8
    steps: int = 20
    direction: Direction = "curriculum"

    def __post_init__(self) -> None:
        check_pacing("clients", self.start, self.full, self.steps)

    def summary(self, chosen: Pool, seed: int) -> Opening:
        groups = self.named_groups(chosen)
        names = mean_order(groups, chosen, self.clients_by or self.score, self.direction)
        in_order = Groups(by=self.by, names=tuple(names))
        return Opening(groups=in_order, higher_is=chosen.higher_is(self.score), opens=self.opens(len(names)))

    def opens(self, num_clients: int) -> Ints:
        """When each client opens, and last, when those without one are visited."""
        opens, num_open = np.full(num_clients + 1, _WHOLE, np.int64), 0
        for step in range(self.steps):
            share = available(self.pacing, Fraction(step, self.steps), self.start, self.full)
            upto = num_open_at(share, num_clients)
            opens[num_open:upto] = step * _WHOLE // self.steps
            num_open = max(num_open, upto)
        return opens

    def places(self, group: Ints, rank: Ints, sizes: Ints, summary: Opening) -> Ints:
        opens = summary.opens[group]
        return opens + (_WHOLE - opens) * (2 * rank + 1) // (2 * sizes[group])


def num_open_at(share: float, num_clients: int) -> int:
    """How many clients are open: rounded up, and a billionth more than a whole number is that number."""
    return min(int(np.ceil(share * num_clients - 1e-9)), num_clients)
