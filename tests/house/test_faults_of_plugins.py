"""What plug-ins from elsewhere can get wrong or have changed under them, in the whole flow."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from command import Ended, selector, write_policy
from conftest import text_of, write_jsonl
from selector.engine.store import Store
from selector.exact import keyed
from selector.manifest import Manifest

NUM_DOCUMENTS = 60


@dataclass(frozen=True)
class Desk:
    """A corpus of 60 documents in three parts, a table that a plug-in may name, and the command."""

    folder: Path
    model: Path

    @property
    def table(self) -> Path:
        return self.folder / "table.jsonl"

    def grade(self, numbers: Sequence[int]) -> None:
        """Writes the table, which gives each of these documents its number as grade."""
        rows = [{"doc_id": keyed.digest(text_of(n, 8).encode()).hex(), "grade": float(n)} for n in numbers]
        write_jsonl(self.table, rows)

    def policy(self, **sections: Any) -> dict[str, Any]:
        return {
            "corpus": {"paths": [str(self.folder / "corpus.jsonl")], "rows_per_part": 20},
            "embed": {"model": str(self.model)},
            "select": {"budget": {"fraction": 1}},
            **sections,
        }

    def run(self, **sections: Any) -> Ended:
        path = write_policy(self.folder, self.policy(**sections))
        return selector("run", path, "--root", self.folder / "runs", "--executor", "local", "--json")

    def seals(self, family: str) -> list[str]:
        return list(Store.open(str(self.folder / "runs")).seals(f"{family}/"))


@pytest.fixture
def desk(tmp_path: Path, tiny_model: Path) -> Desk:
    write_jsonl(tmp_path / "corpus.jsonl", [{"text": text_of(n, 8), "edu": n} for n in range(NUM_DOCUMENTS)])
    return Desk(tmp_path, tiny_model)


def numbers_of(ended: Ended) -> set[int]:
    """The documents of a manifest."""
    assert ended.code == 0, ended
    manifest = Manifest.open(ended.json["manifest"])
    assert manifest.verify().ok
    return set(manifest.rows(0, len(manifest))["row"].to_pylist())


def uncached(ended: Ended) -> list[str]:
    assert ended.code == 0, ended
    return [step["name"] for step in ended.json["steps"] if not step["cached"]]


# ---------------------------------------------------------------- what was made is what is returned


def test_a_table_that_was_edited_gives_another_run_and_never_the_old_manifest(desk: Desk) -> None:
    naming = {"budget": {"fraction": 1}, "using": {"brittle:Keeping": {"named": str(desk.table)}}}
    desk.grade(range(5))
    first = desk.run(select=naming)
    assert numbers_of(first) == set(range(5))
    desk.grade(range(9))
    second = desk.run(select=naming)
    assert numbers_of(second) == set(range(9))
    assert uncached(second) == ["attach/select.using", "select", "order", "manifest"]
    desk.grade(range(5))
    again = desk.run(select=naming)
    assert uncached(again) == [] and again.json["digest"] == first.json["digest"]


def test_what_a_plain_rater_is_given_is_in_its_fingerprint(desk: Desk) -> None:
    model = Path(shutil.copytree(desk.model, desk.folder / "model"))
    rate = [{"brittle:Judged": {"grades": str(desk.table), "model": str(model)}, "as": "judged"}]
    best = {"budget": {"documents": 3}, "using": {"top": {"score": "judged"}}}
    desk.grade(range(10))
    assert numbers_of(desk.run(rate=rate, select=best)) == {7, 8, 9}
    desk.grade(range(12))
    assert numbers_of(desk.run(rate=rate, select=best)) == {9, 10, 11}, "its table"
    assert uncached(desk.run(rate=rate, select=best)) == []
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    other = desk.run(rate=rate, select=best)
    assert uncached(other) == ["rate/judged", "select", "order", "manifest"], "its model"


def test_an_optional_table_may_be_absent_or_empty_and_counts_once_it_is_there(desk: Desk) -> None:
    best = {"budget": {"documents": 3}, "using": {"top": {"score": "judged"}}}

    def rate(**options: Any) -> list[Any]:
        return [{"brittle:Judged": options, "as": "judged"}]

    assert len(numbers_of(desk.run(rate=rate(), select=best))) == 3, "left out"
    named = rate(grades=str(desk.table))
    assert len(numbers_of(desk.run(rate=named, select=best))) == 3, "not there"
    desk.table.write_text("")
    assert len(numbers_of(desk.run(rate=named, select=best))) == 3, "empty"
    desk.grade(range(4))
    assert numbers_of(desk.run(rate=named, select=best)) == {1, 2, 3}


def test_a_table_that_lacks_a_column_or_holds_no_ids_is_refused_before_any_work(desk: Desk) -> None:
    rate = [{"brittle:Judged": {"grades": str(desk.table)}, "as": "judged"}]
    for row, said in (
        (
            {"doc_id": "00" * 16, "grad": 1.0},
            "rate.judged.grades: the table .* has no column 'grade'. Did you mean 'grad'",
        ),
        ({"doc_id": "first", "grade": 1.0}, "has a column 'doc_id' that is not 32 hex digits"),
        ({"doc_id": "00" * 16, "grade": "good"}, "has a column 'grade' that is not double"),
    ):
        write_jsonl(desk.table, [row])
        ended = desk.run(rate=rate)
        assert ended.code == 2 and re.search(said, ended.err + ended.out), ended
    assert not (desk.folder / "runs").exists()


def test_one_rater_can_be_used_twice_under_two_names(desk: Desk) -> None:
    column = {"column": "edu", "higher_is": "better"}
    desk.grade(range(10))
    table = {"grades": str(desk.table)}
    ended = desk.run(
        rate=[
            {"column": column},
            {"brittle:Judged": table, "as": "plain"},
            {"brittle:Judged": {**table, "bonus": "edu"}, "as": "more"},
        ],
        select={"budget": {"documents": 3}, "using": {"top": {"score": "more"}}},
        manifest={"difficulty": "plain", "quality": "more"},
    )
    assert numbers_of(ended) == {57, 58, 59}
    manifest = Manifest.open(ended.json["manifest"])
    rows = manifest.rows(0, 3)
    assert set(rows["difficulty"].to_pylist()) == {-1.0} and set(rows["quality"].to_pylist()) == {56.0, 57.0, 58.0}
    assert {step["name"] for step in ended.json["steps"]} >= {"rate/plain", "rate/more", "rate/edu"}


def test_a_signal_that_few_documents_have_drops_none_and_a_score_that_is_used_drops_those_without(desk: Desk) -> None:
    lines = [{"text": text_of(n, 8), **({"edu": n} if n % 20 == 0 else {})} for n in range(NUM_DOCUMENTS)]
    write_jsonl(desk.folder / "corpus.jsonl", lines)
    column = {"column": {"column": "edu", "higher_is": "better"}}
    judged = {"brittle:Judged": {"bonus": "edu"}, "as": "judged"}
    everything = {"budget": {"fraction": 1}, "using": {"top": {"score": "judged"}}}
    assert numbers_of(desk.run(rate=[column, judged], select=everything)) == set(range(NUM_DOCUMENTS))
    everything = {"budget": {"fraction": 1}, "using": {"top": {"score": "edu"}}}
    assert numbers_of(desk.run(rate=[column, judged], select=everything)) == {0, 20, 40}


# ---------------------------------------------------------------- a contract that is broken

KEEPING = "brittle:Keeping"
BROKEN: dict[str, tuple[dict[str, Any], str, str]] = {
    "a selector that overspends": (
        {"select": {"budget": {"documents": 18}, "using": KEEPING}},
        "The selector 'brittle:Keeping' kept 60 documents with .* budget is 18 documents. .* selector, brittle.Keeping",
        "select",
    ),
    "a selector that overlooks a document": (
        {"select": {"budget": {"fraction": 1}, "using": {KEEPING: {"but": "one"}}}},
        "The selector 'brittle:Keeping' answered with 59 verdicts for 60 documents. .* fault of the selector, brittle",
        "select",
    ),
    "an order that forgets a document": (
        {"order": {"using": "brittle:Forgetful"}},
        "The order 'brittle:Forgetful' forgets 1 of 60 documents, .* This is a fault of the order, brittle.Forgetful",
        "order",
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if "document" in name else name for name in BROKEN]
)
def test_an_answer_that_breaks_its_contract_is_never_sealed_and_is_its_makers_fault(name: str, desk: Desk) -> None:
    sections, said, family = BROKEN[name]
    ended = desk.run(**sections)
    assert ended.code == 1 and re.search(said, ended.err + ended.out), ended
    assert desk.seals(family) == [] and not list((desk.folder / "runs").glob("*/manifest"))
    assert desk.run().code == 0, "and what came before it stays"
