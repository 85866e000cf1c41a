"""Plug-ins with a weak spot, for the tests of what becomes of a run that meets it."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.errors import UnreachableError
from selector.exact import Budget
from selector.order import Order, Positions
from selector.rate import Columns, ModelPath, Rater, SignalName, TablePath
from selector.select import Decisions, Pool, Selector, reasons, verdicts

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Modelled(Rater):
    """The length of a text, which takes a model: a file that is read when the rater is prepared, asked, or at a row."""

    model: str
    read: Literal["prepared", "asked", "rating"] = "prepared"
    higher_is = "harder"

    def prepare(self) -> None:
        if self.read == "prepared":
            self._load()

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if self.read == "asked":
            self._load()
        return lengths([text for text in batch["text"].to_pylist() if self.read != "rating" or self._load()])

    def _load(self) -> bytes:
        return Path(self.model).read_bytes()


@dataclass(frozen=True, kw_only=True)
class Fragile(Rater):
    """The length of a text, from a rater that meets trouble at some documents until there is a cure."""

    at: tuple[int, ...]  # by the number in their text
    trouble: Literal["raises", "dies", "ends the run", "answers too little"]
    cure: str
    higher_is = "harder"

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = batch["text"].to_pylist()
        for number in () if Path(self.cure).exists() else self.at:
            if any(text.startswith(f"Document {number}.") for text in texts):
                if self.trouble == "dies":
                    os.kill(os.getpid(), signal.SIGKILL)
                elif self.trouble == "raises":
                    raise ArithmeticError(f"document {number} is too much")
                elif self.trouble == "ends the run":
                    raise UnreachableError("The judge does not answer.")
                return lengths(texts[1:])
        return lengths(texts)


@dataclass(frozen=True, kw_only=True)
class Judged(Rater):
    """The grade that a table gives a document, by the weights of a model, with another score where it has one."""

    grades: Annotated[TablePath, Columns(doc_id="doc_id", grade="float64")] | None = None
    model: ModelPath | None = None
    bonus: SignalName | None = None
    higher_is = "better"

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        grades = np.nan_to_num(batch["grades.grade"].to_numpy(zero_copy_only=False).astype(np.float64), nan=-1.0)
        if self.bonus is not None:
            grades = grades + batch[self.bonus].fill_null(0).to_numpy()
        return pa.record_batch({"score": pa.array(grades)})


@dataclass(frozen=True, kw_only=True)
class Keeping(Selector):
    """Keeps all documents, or those that a table names, or all but one: whatever the budget says."""

    named: Annotated[TablePath, Columns(doc_id="doc_id", grade="float64")] | None = None
    but: Literal["none", "one"] = "none"
    fills_budget = False

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        return Decisions(decide=self.decide, columns=("doc_id", *(["named.grade"] if self.named else [])))

    def decide(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        kept: Bools = np.ones(batch.num_rows - (self.but == "one"), np.bool_)
        if self.named:
            kept = batch["named.grade"].is_valid().to_numpy(zero_copy_only=False)
        return verdicts(kept, **reasons(np.where(kept, 0, 1), ["it is kept", "no table names it"]))


@dataclass(frozen=True, kw_only=True)
class Forgetful(Order):
    """Forgets the last document."""

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        return Positions.of(np.arange(chosen.num_documents - 1))


def lengths(texts: Sequence[str]) -> pa.RecordBatch:
    return pa.record_batch({"score": pa.array([len(text) for text in texts], pa.float64())})
