"""Orders that weigh the visits of another order: how much the loss of each counts, by its document and its number.

Think of `visit` as the epoch of a document: its first visit is in epoch 0. A weight says how a visit counts beside the
others. With `normalised` the mean over all visits of the manifest is 1, so that a loss is as large as without weights;
the mean of a batch is not 1, but a trainer that divides by `weight_per_rank` makes it so, and then what counts is how
the documents of one batch compare. Divide by the number of documents for weights that count from batch to batch too.
"""

import abc
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from selector import exact, tables
from selector.errors import PolicyError
from selector.exact import Floats, Ints, UInt64, keyed
from selector.order._around import Along, Around, Visits, in_one_piece
from selector.order._contract import Positions
from selector.order._placed import with_ranks
from selector.order._unmet import some_visits, with_unmet
from selector.plugins.families import name_of
from selector.plugins.pool import Pool

_LAST_EPOCH = 65_535  # the greatest number of a visit


@dataclass(frozen=True, kw_only=True)
class Weighted(Around):
    """The visits of another order, in their places, each with the weight that `weights` says.

    It is multiplied by the weight that the visit has already. A visit of which nothing is known weighs what the others
    do on average, and facts of the order's name say how many those are.
    """

    normalised: bool = True

    def summary(self, visits: Visits, seed: int) -> Any:
        """What weights need to know of all visits; picklable."""
        return None

    @abc.abstractmethod
    def weights(self, along: Along, summary: Any) -> Floats:
        """The weight of each visit, from 0 on; NaN: nothing is known of it. What tables say is in the summary."""

    @final
    def arrange(self, chosen: Pool, seed: int) -> Positions:
        positions = self.inner.arrange(chosen, seed)
        along, every = in_one_piece(self, with_ranks(self, chosen, seed), positions)
        weights, before = self.weights(along, self.summary(every, seed)), positions.visits["loss_weight"].to_numpy()
        known = Tally.of(weights[~np.isnan(weights)])
        product = multiplied(weights, before, known.mean)
        whole = Tally.of(product)
        by = divisor(self.normalised, whole)
        at = tables.VISITS.get_field_index("loss_weight")
        return replace(
            positions,
            visits=positions.visits.set_column(at, tables.VISITS.field(at), pa.array(divided(product, by))),
            facts={**positions.facts, name_of(self): weight_facts(name_of(self), known, whole, by)},
        )


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What weights add up to, exactly; those of some visits at a time add up to that of all."""

    count: int
    parts: Ints
    least: float
    greatest: float

    @classmethod
    def of(cls, weights: Floats) -> "Tally":
        least, greatest = float(weights.min(initial=np.inf)), float(weights.max(initial=-np.inf))
        return cls(count=len(weights), parts=exact.parts(weights), least=least, greatest=greatest)

    @classmethod
    def sum(cls, tallies: Iterable["Tally"]) -> "Tally":
        """What they add up to."""
        whole = cls.of(np.empty(0))
        for one in tallies:
            whole = cls(
                count=whole.count + one.count,
                parts=whole.parts + one.parts,
                least=min(whole.least, one.least),
                greatest=max(whole.greatest, one.greatest),
            )
        return whole

    @property
    def mean(self) -> float:
        """The mean, the same in whatever order the weights are; 1 of none."""
        return float(Fraction(exact.total(self.parts)) / self.count) if self.count else 1.0


def multiplied(weights: Floats, before: npt.NDArray[Any], unknown: float) -> Floats:
    """The weights of visits, by those that they have already; one that is not known weighs `unknown`."""
    return np.where(np.isnan(weights), unknown, weights) * before


def divided(weights: npt.NDArray[Any], by: float) -> npt.NDArray[np.float32]:
    """The weights as they are stored."""
    return (weights / by).astype(np.float32)


def divisor(is_normalised: bool, product: Tally) -> float:
    """What weights that add up to this are divided by."""
    return product.mean if is_normalised and product.mean > 0 else 1.0


def weight_facts(name: str, known: Tally, product: Tally, by: float) -> dict[str, Any]:
    """What the manifest says of the weights of the order of this name: `known` are those that are, `product` those of
    all visits before they are divided."""
    unknown, lines = product.count - known.count, list[str]()
    if unknown:
        visits = some_visits(unknown, "is of a document", "are of documents")
        lines.append(f"{visits} that {name} knows nothing of: they weigh what the others do on average")
    facts = {
        "unknown": unknown,
        "mean_before": round(product.mean, 6),
        "least": round(product.least / by, 6) if product.count else None,
        "greatest": round(product.greatest / by, 6) if product.count else None,
    }
    return with_unmet(facts, lines)


def released(ease: Floats, epoch: Ints, epochs: int) -> Floats:
    """The weight of documents of this ease (0 to 1) in an epoch: their ease at first, and 1 from epoch `epochs` on,
    with a straight line between."""
    share = np.minimum(epoch, epochs) / epochs
    return ease * (1 - share) + share


def check_epochs(name: str, option: str, epochs: int) -> None:
    """Raises PolicyError unless this is a number of epochs."""
    if epochs < 1:
        raise PolicyError(f"{name}.{option}={epochs} is no number of epochs: write a whole number from 1 on.")


def code_of(ids: UInt64, known: pa.Array) -> Ints:
    """For each visit the place of its document among the known ones; -1: it is not among them. `ids` are as in
    `Along`."""
    place: pa.Array = pc.index_in(keyed.ids(ids), value_set=known)  # pyright: ignore[reportAttributeAccessIssue] (made at run time)
    return place.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Reported:
    """What an earlier training reported of documents, document by document and epoch by epoch."""

    documents: pa.Array
    """The ids, each once."""
    document: Ints
    """Of each row the place of its document; they come in this order."""
    epoch: Ints
    surprise: Floats
    """1 - p of each row, where p is the probability that the model gave to the document (to its label, its answer)."""

    @classmethod
    def of(cls, table: pa.Table, name: str) -> "Reported":
        """The rows of a table with the columns `document`, `epoch` and `loss`, which is -log p; those without a value
        are not there. `name` is that of the order, for the message where the table is wrong."""
        loss = exact.floats(table["loss"])
        table = table.filter(pa.array(~np.isnan(loss))).drop_null()
        loss = exact.floats(table["loss"])
        encoded = table["document"].combine_chunks().dictionary_encode()
        document, epoch = encoded.indices.to_numpy().astype(np.int64), table["epoch"].to_numpy()
        order = np.lexsort((epoch, document))
        document, epoch, loss = document[order], epoch[order], loss[order]
        is_again = (document[1:] == document[:-1]) & (epoch[1:] == epoch[:-1])
        for wrong, problem in (
            (loss < 0, "has a loss below 0, which is no -log of a probability"),
            ((epoch < 0) | (epoch > _LAST_EPOCH), f"has an epoch that is not from 0 to {_LAST_EPOCH:,}"),
            (np.r_[False, is_again] if len(loss) else is_again, "has two rows for one document and epoch"),
        ):
            if wrong.any():
                doc_id = encoded.dictionary[int(document[np.argmax(wrong)])].as_py().hex()
                raise PolicyError(f"{name}.reported {problem}: see document {doc_id}.")
        return cls(documents=encoded.dictionary, document=document, epoch=epoch, surprise=-exact.expm1(-loss))

    @property
    def begins(self) -> Ints:
        """The first row of each document, and the number of rows."""
        return np.searchsorted(self.document, np.arange(len(self.documents) + 1))

    def latest(self, document: Ints, epoch: Ints) -> Ints:
        """The last row of each of these documents up to that epoch; -1: there is none."""
        if not len(self.document):
            return np.full(len(document), -1)
        width = int(self.epoch.max()) + 2
        keys = self.document * width + self.epoch
        row = np.searchsorted(keys, document * width + np.minimum(epoch, width - 1), side="right") - 1
        return np.where((document >= 0) & (row >= 0) & (self.document[row] == document), row, -1)


def ensembled(reported: Reported, momentum: float) -> Floats:
    """For every row the mean of the probabilities up to it, the later ones weighing more (temporal ensembling):
    t <- momentum t + (1 - momentum) p from 0, divided by 1 - momentum^n."""
    begins = reported.begins
    firsts, lengths = begins[:-1], np.diff(begins)
    running, corrected = np.zeros(len(reported.document)), np.zeros(len(reported.document))
    left = 1.0
    for number in range(int(lengths.max(initial=0))):
        rows = firsts[lengths > number] + number
        before = running[rows - 1] if number else 0.0
        running[rows] = momentum * before + (1 - momentum) * (1 - reported.surprise[rows])
        left *= momentum
        corrected[rows] = running[rows] / (1 - left)
    return corrected
