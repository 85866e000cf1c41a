"""A plug-in that breaks its contract is blamed for it by name in a whole run, and what it answered is never sealed."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from command import Ended, selector, write_policy
from conftest import text_of, write_jsonl
from runs import policy_of
from selector.engine.store import Store
from selector.exact import Ints, keyed
from selector.order import Order, Placed, Positions
from selector.order.shuffled import Shuffled
from selector.rate import Fit, HigherIs, Meaning, Rater
from selector.select import Budget, Decisions, Pool, Selector
from selector.select.random import Random
from testing.test_laws_of_orders import DropsAVisit
from testing.test_laws_of_orders import TellsNoJson as TellsNoJsonOfAnOrder
from testing.test_laws_of_selectors import (
    DecidesWhatIsGiven,
    EndsEarly,
    LosesADocument,
    OverspendsByOne,
    TellsNoJson,
)

pytestmark = pytest.mark.slow

# ---------------------------------------------------------------- selectors


@dataclass(frozen=True, kw_only=True)
class AnswersWithTheBatches(Selector):
    """What selectors answered with once."""

    def select(self, pool: Pool, budget: Budget, seed: int) -> Any:
        return list(pool.batches("doc_id"))


@dataclass(frozen=True, kw_only=True)
class DecidesByWhatIsNotThere(Selector):
    """Its verdicts read a column that it does not name."""

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        decisions = Random().select(pool, budget, seed)
        return replace(decisions, columns=(*decisions.columns, "cluster"))


@dataclass(frozen=True, kw_only=True)
class DecidesAboutOthers(Selector):
    """Its verdicts are about a pool of its own, with the documents the other way round."""

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        table = pool.table("doc_id", "num_tokens")
        back = Pool.of(table.take(pa.array(range(table.num_rows)[::-1])), 15)
        return replace(Random().select(back, budget, seed), pool=back, known=())


@dataclass(frozen=True, kw_only=True)
class DividesByNothing(Selector):
    """Fails at once."""

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        return Random().select(pool, replace(budget, amount=budget.amount // 0), seed)


@dataclass(frozen=True, kw_only=True)
class FailsAtVerdicts(Selector):
    """Fails when it is asked about documents."""

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        return Decisions(decide=functools.partial(_fails, "quota"), columns=("doc_id",))


def _fails(name: str, batch: pa.RecordBatch) -> pa.RecordBatch:
    raise LookupError(f"{name} of {batch.num_rows}")


@dataclass(frozen=True, kw_only=True)
class AnswersWithATable(Selector):
    """Its verdicts are a table."""

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        decisions = Random().select(pool, budget, seed)
        return replace(decisions, decide=functools.partial(_as_table, decisions.decide))


def _as_table(decide: Callable[[pa.RecordBatch], pa.RecordBatch], batch: pa.RecordBatch) -> Any:
    return pa.Table.from_batches([decide(batch)])


# ---------------------------------------------------------------- orders


@dataclass(frozen=True, kw_only=True)
class AnswersWithRows(Order):
    """Answers with row numbers."""

    def arrange(self, chosen: Pool, seed: int) -> Any:
        return list(range(chosen.num_documents))


@dataclass(frozen=True, kw_only=True)
class CannotArrange(Order):
    """Fails at once."""

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        raise IndexError("no such place.")


@dataclass(frozen=True, kw_only=True)
class VisitsTwice(Order):
    """Calls every visit a first one."""

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        positions = Shuffled().arrange(chosen, seed)
        return replace(positions, visits=pa.concat_tables([positions.visits, positions.visits]))


@dataclass(frozen=True, kw_only=True)
class Dealt(Placed):
    """What a broken order that only says keys breaks."""

    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> Any:
        return keyed.hashes(batch["doc_id"], seed, "dealt")


@dataclass(frozen=True, kw_only=True)
class HasKeysThatAreNone(Dealt):
    """Its keys are floats."""

    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> Any:
        return np.ones(batch.num_rows)


@dataclass(frozen=True, kw_only=True)
class CannotSum(Dealt):
    """Fails at what it asks of every shard."""

    def summary(self, chosen: Pool, seed: int) -> Any:
        return list(chosen.map(functools.partial(_fails, "sum"), "doc_id"))


@dataclass(frozen=True, kw_only=True)
class CannotSayKeys(Dealt):
    """Asks for a column that it does not name."""

    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> Any:
        return batch["cluster"].to_numpy()


@dataclass(frozen=True, kw_only=True)
class HasAPhaseTooFew(Dealt):
    """Counts its phases from 1."""

    def phases(self, group: Ints, summary: Any) -> tuple[Ints, list[str]]:
        return group + 1, ["main"]


@dataclass(frozen=True, kw_only=True)
class HasAPhaseWithoutAName(Dealt):
    """Has a phase without a name."""

    def phases(self, group: Ints, summary: Any) -> Any:
        return group, [None]


@dataclass(frozen=True, kw_only=True)
class UnlearnsAll(Dealt):
    """Weighs every visit less than nothing."""

    def loss_weights(self, group: Ints, summary: Any) -> Any:
        return np.full(len(group), -0.5)


# ---------------------------------------------------------------- fits and raters


@dataclass(frozen=True, kw_only=True)
class Fitting(Fit):
    """What a broken fit breaks."""

    higher_is = "harder"

    def fit(self, sample: Pool, seed: int) -> Any:
        return pa.table({"mean": [1.0]})

    def rater(self, fitted: pa.Table) -> Any:
        return Constant(higher="harder")


@dataclass(frozen=True, kw_only=True)
class Constant(Rater):
    """The same for every document."""

    higher: HigherIs

    def scores(self, name: str) -> dict[str, Meaning]:
        return {name: self.higher}

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"score": pa.array([1.0] * batch.num_rows)})


@dataclass(frozen=True, kw_only=True)
class LearnsANumber(Fitting):
    """Learns what is no table."""

    def fit(self, sample: Pool, seed: int) -> Any:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class LearnsWhatCannotBeStored(Fitting):
    """Learns a table of a kind that Parquet does not have."""

    def fit(self, sample: Pool, seed: int) -> Any:
        return pa.table({"mean": pa.array([(1, 2, 3)], pa.month_day_nano_interval())})


@dataclass(frozen=True, kw_only=True)
class CannotLearn(Fitting):
    """Asks for a column that it does not name."""

    def fit(self, sample: Pool, seed: int) -> Any:
        return sample.table("num_bytes")


@dataclass(frozen=True, kw_only=True)
class MakesNoRater(Fitting):
    """Makes what is no rater."""

    def rater(self, fitted: pa.Table) -> Any:
        return fitted


@dataclass(frozen=True, kw_only=True)
class CannotMakeARater(Fitting):
    """Looks for what it has not learned."""

    def rater(self, fitted: pa.Table) -> Any:
        return fitted["std"]


@dataclass(frozen=True, kw_only=True)
class MakesAnother(Fitting):
    """Makes a rater whose score means something else."""

    def rater(self, fitted: pa.Table) -> Any:
        return Constant(higher="better")


@dataclass(frozen=True, kw_only=True)
class LosesARow(Constant):
    """One row less than it was given."""

    higher: HigherIs = "harder"

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return super().rate(batch).slice(1)


# ---------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty documents of one file, in two parts."""
    folder = tmp_path_factory.mktemp("corpus")
    write_jsonl(folder / "0.jsonl", [{"text": text_of(n, 8)} for n in range(40)])
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def command(corpus: Path, root: Path, tiny_model: Path, tmp_path: Path) -> Callable[..., Ended]:
    """Runs a policy as the command line does, all of them below one root."""

    def do(**sections: Any) -> Ended:
        few: dict[str, Any] = {"rate": [], "select": {"budget": {"documents": 20}}, "order": {}, "manifest": {}}
        policy = write_policy(tmp_path, policy_of(corpus, tiny_model, **{**few, **sections}))
        return selector("run", policy, "--root", root, "--executor", "local", "--json")

    return do


def name_of(cls: type[Any]) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def sealed(root: Path, family: str) -> list[str]:
    return [key for key in Store.open(str(root)).seals() if key.startswith(f"{family}/")]


def assert_blamed(ended: Ended, kind: str, told: str, cls: type[Any], problem: str) -> None:
    """The command failed, and said whose fault it is."""
    error = ended.json["error"]
    assert (ended.code, error["exit_code"], error["kind"]) == (1, 1, "SelectorError"), ended
    assert error["message"].startswith(f"The {kind} {told!r} {problem}"), error["message"]
    assert error["message"].endswith(f"This is a fault of the {kind}, {cls.__module__}.{cls.__qualname__}.")
    assert f"error: {error['message']}\n" in ended.err and "fault of selector's" not in ended.err


SELECTORS: list[tuple[type[Selector], str]] = [
    (OverspendsByOne, "kept 21 documents with "),
    (EndsEarly, "kept 10 documents with "),
    (LosesADocument, "answered with 39 verdicts for 40 documents."),
    (TellsNoJson, "tells facts that are not JSON (Out of range float values are not JSON compliant"),
    (AnswersWithTheBatches, "answered with a list instead of `Decisions`."),
    (DecidesByWhatIsNotThere, "decides by the column 'cluster', which its pool does not have: it has doc_id, num_tok"),
    (DecidesAboutOthers, "decides about other documents than those of its pool."),
    (DividesByNothing, "failed with ZeroDivisionError: integer division or modulo by zero."),
    (FailsAtVerdicts, "failed with LookupError: quota of 40."),
    (AnswersWithATable, "answered with a Table instead of a pyarrow.RecordBatch of `tables.VERDICTS`."),
]


@pytest.mark.parametrize(("cls", "problem"), SELECTORS)
def test_a_selector_that_breaks_its_contract_is_blamed_and_never_sealed(
    cls: type[Selector], problem: str, command: Callable[..., Ended], root: Path
) -> None:
    before = sealed(root, "select")
    ended = command(select={"budget": {"documents": 20}, "using": name_of(cls)})
    assert_blamed(ended, "selector", name_of(cls), cls, problem)
    assert sealed(root, "select") == before
    again = command(select={"budget": {"documents": 20}, "using": name_of(cls)})
    assert (again.code, again.json) == (1, ended.json), "nor does it pass the next time"


ORDERS: list[tuple[type[Order], str]] = [
    (DropsAVisit, "forgets 1 of 20 documents, the first "),
    (TellsNoJsonOfAnOrder, "tells phases or facts that are not JSON ("),
    (AnswersWithRows, "answers with a list instead of `Positions`."),
    (CannotArrange, "failed with IndexError: no such place."),
    (VisitsTwice, "calls position 20 visit 0 of the document "),
    (HasKeysThatAreNone, "answers 20 rows with float64 of shape (20,) in the method 'keys'."),
    (CannotSum, "failed with LookupError: sum of 20."),
    (CannotSayKeys, "failed with KeyError: "),
    (HasAPhaseTooFew, "answers with the number 1 in the method 'phases'."),
    (HasAPhaseWithoutAName, "answers with the phases [None] in the method 'phases'."),
    (UnlearnsAll, "answers with the number -0.5 in the method 'loss_weights'."),
]


@pytest.mark.parametrize(("cls", "problem"), ORDERS)
def test_an_order_that_breaks_its_contract_is_blamed_and_never_sealed(
    cls: type[Order], problem: str, command: Callable[..., Ended], root: Path
) -> None:
    before = sealed(root, "order"), sealed(root, "manifest")
    ended = command(order={"using": name_of(cls)})
    assert_blamed(ended, "order", name_of(cls), cls, problem)
    assert (sealed(root, "order"), sealed(root, "manifest")) == before
    assert sealed(root, "select"), "what was right is kept"


FITS: list[tuple[type[Rater | Fit], str, str]] = [
    (LearnsANumber, "fit", "returned a float instead of a pyarrow.Table."),
    (LearnsWhatCannotBeStored, "fit", "returned a table that cannot be stored: Unhandled type for Arrow to Parquet"),
    (CannotLearn, "fit", "failed with KeyError: "),
    (MakesNoRater, "fit", "made a Table instead of a rater."),
    (CannotMakeARater, "fit", "failed with KeyError: "),
    (MakesAnother, "rater", "made a Constant with the scores {'MakesAnother': 'better'}; the Fit declares "),
    (LosesARow, "rater", "returned 19 rows for a batch of 20."),
]


@pytest.mark.parametrize(("cls", "kind", "problem"), FITS)
def test_a_fit_or_a_rater_that_breaks_its_contract_is_blamed_and_never_sealed(
    cls: type[Rater | Fit], kind: str, problem: str, command: Callable[..., Ended], root: Path
) -> None:
    before = sealed(root, "fit"), sealed(root, "rate")
    ended = command(rate=[name_of(cls)])
    assert_blamed(ended, kind, cls.__qualname__, cls, problem)
    is_learned = cls in (MakesNoRater, CannotMakeARater, MakesAnother)
    assert len(sealed(root, "fit")) == len(before[0]) + is_learned
    assert sealed(root, "rate") == before[1]


def test_what_a_plug_in_was_given_is_not_its_fault(
    command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DecidesWhatIsGiven, "select", full)
    before = sealed(root, "select")
    ended = command(select={"budget": {"documents": 20}, "using": name_of(DecidesWhatIsGiven)})
    assert ended.code == 1 and "No space left on device" in ended.err and "The selector" not in ended.err
    assert sealed(root, "select") == before
