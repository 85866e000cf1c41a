"""What becomes of a document before any selector sees it: an ordered list of clauses, each of which may leave some out.

The first clause that a document meets decides, and says why. Duplicates had theirs in dedup; what no clause leaves out
is the pool.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.corpus.columns import Column
from selector.corpus.joined import PLACE, state_columns
from selector.engine.part import Task
from selector.engine.store import Store
from selector.plugins.catalogue import KNOWN
from selector.policy.where import Rule
from selector.select import Reason
from selector.steps.gather import PartReader

Bools = npt.NDArray[np.bool_]

KEPT, LEFT_OUT, QUARANTINED = (tables.OUTCOMES.index(word) for word in ("kept", "left_out", "quarantined"))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Why documents are left out: an index into `tables.OUTCOMES`, and the reason."""

    outcome: int
    reason: Reason


DUPLICATE = Outcome(outcome=tables.OUTCOMES.index("duplicate"), reason="the same text as another document")
CLASH = Outcome(outcome=QUARANTINED, reason="quarantined in dedup: its key is another document's")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A part's documents that go on, and which of them cannot be chosen: `code` is an index into `outcomes`, -1 for
    none."""

    live: pa.Table
    code: npt.NDArray[np.int32]
    outcomes: Sequence[Outcome]

    @property
    def is_eligible(self) -> Bools:
        return self.code < 0


@dataclass(frozen=True, kw_only=True)
class Eligibility:
    """Says the verdict on the documents of a part."""

    reader: PartReader
    raters: tuple[str, ...]  # the steps whose quarantine counts
    used: tuple[Column, ...]  # scores without which a document cannot be chosen, under their long names
    rule: Rule | None
    missing: Literal["drop", "last", "impute"]
    means: Mapping[str, pa.Scalar] = field(default_factory=dict[str, pa.Scalar])  # of used scores, if they are imputed

    @property
    def columns(self) -> tuple[Column, ...]:
        """What it must know of a document."""
        return (*self.used, *(self.rule.columns if self.rule else ()))

    def identity(self) -> dict[str, Any]:
        """What decides a verdict, beside the documents."""
        return {
            "rule": self.rule.text if self.rule else None,
            "used": [column.name for column in self.used],
            "missing": self.missing,
            "means": {name: str(mean) for name, mean in self.means.items()},
        }

    def verdict(self, store: Store, task: Task, columns: Sequence[Column] = ()) -> Verdict:
        """The verdict on a part; its documents come with these columns as `read` gives them."""
        known = {column.name: column for column in (KNOWN["doc_id"], PLACE, *self.columns)}
        live = self.reader.read(store, task, [*known.values(), *state_columns(self.used), *columns])
        code = np.full(live.num_rows, -1, np.int32)
        outcomes: list[Outcome] = []
        for clause in CLAUSES:
            for which, outcome in clause(Live(eligibility=self, store=store, task=task, documents=live)):
                code[which & (code < 0)] = len(outcomes)
                outcomes.append(outcome)
        return Verdict(live=self._imputed(live, columns), code=code, outcomes=outcomes)

    def read(self, store: Store, task: Task, columns: Sequence[Column]) -> pa.Table:
        """The documents of a part that go on, with these columns as whoever chooses sees them: the mean of a used score
        where there is none, if that is the policy."""
        return self._imputed(self.reader.read(store, task, columns), columns)

    def _imputed(self, live: pa.Table, columns: Sequence[Column]) -> pa.Table:
        for column in columns:
            if column.meaning is not None and column.column in self.means:
                at = live.schema.get_field_index(column.name)
                live = live.set_column(at, live.schema.field(at), live.column(at).fill_null(self.means[column.column]))
        return live


@dataclass(frozen=True, kw_only=True)
class Live:
    """The documents of one part that go on, and where more is known of them."""

    eligibility: Eligibility
    store: Store
    task: Task
    documents: pa.Table


Clause = Callable[[Live], Iterator[tuple[Bools, Outcome]]]


def quarantined(live: Live) -> Iterator[tuple[Bools, Outcome]]:
    """What a step lost."""
    for step in live.eligibility.raters:
        seal = live.store.sealed(live.task.inputs[step])
        if seal.tables["quarantine"].num_rows:
            lost = live.store.table(seal, "quarantine", ["place", "step", "reason"]).group_by(["step", "reason"])
            for group in lost.aggregate([("place", "list")]).to_pylist():
                filled = {"step": group["step"], "reason": group["reason"]}
                which = np.isin(live.documents["place"].to_numpy(), group["place_list"])
                yield which, Outcome(outcome=QUARANTINED, reason=("quarantined in {step}: {reason}", filled))


def ruled_out(live: Live) -> Iterator[tuple[Bools, Outcome]]:
    """What the rule does not let pass."""
    rule = live.eligibility.rule
    if rule is not None:
        passed = rule.test(live.documents.select([column.name for column in rule.columns]))
        yield ~passed, Outcome(outcome=LEFT_OUT, reason=f"where: {rule.text}")


def without_score(live: Live) -> Iterator[tuple[Bools, Outcome]]:
    """What lacks a score that is used, where such documents are dropped."""
    for score in live.eligibility.used if live.eligibility.missing == "drop" else ():
        absent = live.documents[score.name].is_null().to_numpy()
        if absent.any():
            states = live.documents[tables.state_of(score.name)].combine_chunks()
            codes = states.indices.to_numpy(zero_copy_only=False)  # NaN where a table lost the document
            for index, state in enumerate(states.dictionary.to_pylist()):
                filled = {"score": score.column, "state": state}
                yield (
                    absent & (codes == index),
                    Outcome(outcome=LEFT_OUT, reason=("no score '{score}': {state}", filled)),
                )


CLAUSES: Sequence[Clause] = (quarantined, ruled_out, without_score)
"""In the order in which a document meets them."""
