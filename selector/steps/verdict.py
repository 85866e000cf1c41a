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
from selector.corpus.joined import state_columns
from selector.engine.part import Task
from selector.engine.store import Store
from selector.plugins.catalogue import KNOWN
from selector.policy.where import Rule
from selector.select import Reason
from selector.steps.gather import PartReader

Bools = npt.NDArray[np.bool_]

KEPT, LEFT_OUT, QUARANTINED = (tables.OUTCOMES.index(word) for word in ("kept", "left_out", "quarantined"))


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """Why documents are left out: an index into `tables.OUTCOMES`, and the reason."""

    outcome: int
    reason: Reason


DUPLICATE = Ruling(outcome=tables.OUTCOMES.index("duplicate"), reason="the same text as another document")
CLASH = Ruling(outcome=QUARANTINED, reason="quarantined in dedup: its key is another document's")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A part's documents that go on, and which of them cannot be chosen: `code` is an index into `rulings`, -1 for
    none."""

    live: pa.Table
    code: npt.NDArray[np.int32]
    rulings: Sequence[Ruling]

    @property
    def is_eligible(self) -> Bools:
        return self.code < 0


@dataclass(frozen=True, kw_only=True)
class Court:
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

    def judge(self, store: Store, task: Task) -> Verdict:
        """The verdict on a part."""
        asked = {column.name: column for column in (KNOWN["doc_id"], KNOWN["row"], *self.columns)}
        live = self.reader.read(store, task, [*asked.values(), *state_columns(self.used)])
        code = np.full(live.num_rows, -1, np.int32)
        rulings: list[Ruling] = []
        case = Case(court=self, store=store, task=task, live=live)
        for clause in CLAUSES:
            for which, ruling in clause(case):
                code[which & (code < 0)] = len(rulings)
                rulings.append(ruling)
        return Verdict(live=live, code=code, rulings=rulings)

    def read(self, store: Store, task: Task, columns: Sequence[Column]) -> pa.Table:
        """The documents of a part that go on, with these columns as whoever chooses sees them: the mean of a used score
        where there is none, if that is the policy."""
        live = self.reader.read(store, task, columns)
        for at, column in enumerate(columns):
            if column.meaning is not None and column.column in self.means:
                live = live.set_column(at, live.schema.field(at), live.column(at).fill_null(self.means[column.column]))
        return live


@dataclass(frozen=True, kw_only=True)
class Case:
    """The documents of one part that go on, before the court."""

    court: Court
    store: Store
    task: Task
    live: pa.Table


Clause = Callable[[Case], Iterator[tuple[Bools, Ruling]]]


def quarantined(case: Case) -> Iterator[tuple[Bools, Ruling]]:
    """What a step lost."""
    for step in case.court.raters:
        seal = case.store.sealed(case.task.inputs[step])
        if seal.tables["quarantine"].num_rows:
            lost = case.store.table(seal, "quarantine", ["row", "step", "reason"]).group_by(["step", "reason"])
            for group in lost.aggregate([("row", "list")]).to_pylist():
                said = {"step": group["step"], "reason": group["reason"]}
                which = np.isin(case.live["row"].to_numpy(), group["row_list"])
                yield which, Ruling(outcome=QUARANTINED, reason=("quarantined in {step}: {reason}", said))


def ruled_out(case: Case) -> Iterator[tuple[Bools, Ruling]]:
    """What the rule does not let pass."""
    rule = case.court.rule
    if rule is not None:
        passed = rule.test(case.live.select([column.name for column in rule.columns]))
        yield ~passed, Ruling(outcome=LEFT_OUT, reason=f"where: {rule.text}")


def without_score(case: Case) -> Iterator[tuple[Bools, Ruling]]:
    """What lacks a score that is used, where such documents are dropped."""
    for score in case.court.used if case.court.missing == "drop" else ():
        absent = case.live[score.name].is_null().to_numpy()
        if absent.any():
            states = case.live[tables.state_of(score.name)].combine_chunks()
            codes = states.indices.to_numpy(zero_copy_only=False)  # NaN where a table lost the document
            for index, state in enumerate(states.dictionary.to_pylist()):
                said = {"score": score.column, "state": state}
                yield absent & (codes == index), Ruling(outcome=LEFT_OUT, reason=("no score '{score}': {state}", said))


CLAUSES: Sequence[Clause] = (quarantined, ruled_out, without_score)
"""In the order in which a document meets them."""
