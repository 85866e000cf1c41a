"""Orders that divide the visits into parts, one after another, each arranged by an order of its own.

Think of a book of several authors: who writes which chapter is settled first, then each writes as if there were no
other. Which rows a part has follows from each document alone, so nobody holds them all.
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy as np
import pyarrow as pa

from selector import exact, tables
from selector.exact import Ints, keyed
from selector.order._contract import Order, Positions, numbered
from selector.order._placed import columns_read, left_out
from selector.plugins.pool import Pool


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part: what it is called, and how it is arranged."""

    name: str
    order: Order
    seed: int


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """What an order said of a part: the facts, and for each of its phases what is told of it and its mixture, the
    tokens by group."""

    facts: Mapping[str, Any]
    phases: Mapping[str, tuple[Mapping[str, Any], Mapping[str, int]]]


class Parted(Order):
    """Divides the visits into parts, one after another, each arranged by an order of its own.

    Every method but `summary` sees one batch, and gives the same answer however the pool is cut.
    """

    left_because: ClassVar[str]
    """The reason of a document that no part visits."""

    @property
    @abc.abstractmethod
    def orders(self) -> Sequence[Order]:
        """The orders that may arrange a part."""

    @abc.abstractmethod
    def summary(self, chosen: Pool, seed: int) -> Any:
        """What the other methods need to know of the whole pool, found by `chosen.map`; small, and picklable."""

    @abc.abstractmethod
    def parts(self, summary: Any, seed: int) -> Sequence[Part]:
        """The parts, first to last."""

    @abc.abstractmethod
    def rows(self, batch: pa.RecordBatch, summary: Any) -> Sequence[Ints]:
        """For each part the rows of a batch that it has, ascending, each as often as it is to be visited."""

    @abc.abstractmethod
    def groups(self, batch: pa.RecordBatch, summary: Any) -> Ints:
        """The group of each row, of which the manifest says how many tokens of it a phase has."""

    @abc.abstractmethod
    def group_names(self, summary: Any) -> Sequence[str]:
        """What the groups are called."""

    @abc.abstractmethod
    def facts(self, parts: Mapping[str, Arrangement], summary: Any) -> Mapping[str, Any]:
        """What the manifest says of the order; `parts` are those that have a row, by name."""

    @abc.abstractmethod
    def phase_facts(
        self, part: str, inner_facts: Mapping[str, Any], mixture: Mapping[str, int], summary: Any
    ) -> Mapping[str, Any]:
        """What the manifest says of a phase of a part, by what the order of the part said of it, and its mixture."""

    @final
    def arrange(self, chosen: Pool, seed: int) -> Positions:
        summary = self.summary(chosen, seed)
        columns = columns_read(self, chosen)
        table = chosen.table(*columns)
        whole = table.to_batches()[0] if table.num_rows else pa.RecordBatch.from_pylist([], table.schema)
        groups, names = self.groups(whole, summary), self.group_names(summary)
        tokens, ids = whole["num_tokens"].to_numpy().astype(np.int64), keyed.words(whole["doc_id"])
        visits, arrangements = [tables.VISITS.empty_table()], dict[str, Arrangement]()
        for part, rows in zip(self.parts(summary, seed), self.rows(whole, summary), strict=True):
            if not len(rows):
                continue
            pool = replace(Pool.of(table.take(pa.array(rows)), len(rows)), training=chosen.training)
            positions = part.order.arrange(pool, part.seed)
            of_part = rows[positions.visits["document"].to_numpy()]
            phase = positions.visits["phase"].unify_dictionaries().combine_chunks()
            mixtures = mixtures_of(phase, groups[of_part], tokens[of_part], names)
            arrangements[part.name] = arrangement(positions.facts, positions.phases, mixtures)
            visit, weight = np.zeros(len(of_part), np.uint16), positions.visits["loss_weight"]
            visits.append(pa.table([of_part, visit, phases_of_part(part.name, phase), weight], schema=tables.VISITS))
        joined = pa.concat_tables(visits).unify_dictionaries().combine_chunks()
        at = tables.VISITS.get_field_index("visit")
        visit = pa.array(numbered(ids[joined["document"].to_numpy()]))
        facts, phases = self.all_facts(arrangements, summary)
        rows = np.flatnonzero(np.bincount(joined["document"].to_numpy(), minlength=len(ids)) == 0)
        return Positions(
            visits=joined.set_column(at, tables.VISITS.field(at), visit),
            left=left_out(rows, self.left_because),
            phases=phases,
            facts=facts,
        )

    @final
    def all_facts(
        self, parts: Mapping[str, Arrangement], summary: Any
    ) -> tuple[dict[str, Any], dict[str, Mapping[str, Any]]]:
        """What the manifest says of the order, and of its phases."""
        phases = {
            phase_name(name, phase): self.phase_facts(name, inner_facts, mixture, summary)
            for name, part in parts.items()
            for phase, (inner_facts, mixture) in part.phases.items()
        }
        return dict(self.facts(parts, summary)), phases


def phase_name(part: str, phase: str) -> str:
    """The name in the whole order of a phase of a part. The one phase of an order without phases is the part."""
    return part if phase == "main" else f"{part}/{phase}"


def phases_of_part(part: str, phase: pa.DictionaryArray) -> pa.DictionaryArray:
    """The phases of visits to a part, by the names that they have in the whole order."""
    words = [phase_name(part, word) for word in phase.dictionary.to_pylist()]
    return pa.DictionaryArray.from_arrays(phase.indices, pa.array(words, pa.string()))


def mixtures_of(
    phase: pa.DictionaryArray, group: Ints, tokens: Ints, names: Sequence[str]
) -> dict[str, dict[str, int]]:
    """For each phase the tokens of each group; phases and groups without a visit are not named."""
    words = phase.dictionary.to_pylist()
    cell = phase.indices.to_numpy().astype(np.int64) * len(names) + group
    counts = np.bincount(cell, minlength=len(words) * len(names))
    amounts = exact.tally(np.zeros(len(counts), np.int64), cell, tokens)
    mixtures = dict[str, dict[str, int]]()
    for number in np.flatnonzero(counts).tolist():
        word, of_group = divmod(number, len(names))
        mixture = mixtures.setdefault(words[word], {})
        mixture[names[of_group]] = mixture.get(names[of_group], 0) + int(amounts[number])
    return mixtures


def arrangement(
    facts: Mapping[str, Any], phases: Mapping[str, Mapping[str, Any]], mixtures: Mapping[str, Mapping[str, int]]
) -> Arrangement:
    """What an order said of a part, by the mixtures of the phases that it has."""
    return Arrangement(
        facts=facts, phases={phase: (phases.get(phase, {}), mixture) for phase, mixture in mixtures.items()}
    )
