"""What a run does with what it cannot do: losses of the input and losses of the run are told apart, end to end."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from command import Ended, selector, write_policy
from conftest import text_of, write_jsonl
from selector.corpus import formats
from selector.engine.part import Part
from selector.engine.store import Store
from selector.manifest import Manifest

pytestmark = pytest.mark.slow

NUM_DOCUMENTS = 200  # in parts of 20
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """One Ray for all tests of this file, whose workers can import the tests' plug-ins."""
    from jobs.executor import RayExecutor

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
        with RayExecutor():
            yield


@dataclass(frozen=True)
class Desk:
    """A corpus of 200 documents, and the command that makes a manifest of it."""

    folder: Path
    model: Path
    executor: str

    @property
    def cure(self) -> Path:
        return self.folder / "cure"

    def policy(self, rate: Sequence[Any], **sections: Any) -> dict[str, Any]:
        return {
            "corpus": {"paths": [str(self.folder / "corpus.jsonl")], "rows_per_part": 20},
            "embed": {"model": str(self.model)},
            "rate": list(rate),
            "select": {"budget": {"fraction": 1}},
            **sections,
        }

    def write(self, lines: Sequence[Any]) -> None:
        write_jsonl(self.folder / "corpus.jsonl", list(lines))

    def run(self, policy: dict[str, Any], *, executor: str | None = None, root: str = "runs") -> Ended:
        path, name = write_policy(self.folder, policy), executor or self.executor
        actors = ["--actors", "2"] if name == "ray" else []
        return selector("run", path, "--root", self.folder / root, "--executor", name, "--json", *actors)

    def digest(self, policy: dict[str, Any]) -> str:
        """That of a run in which nothing goes wrong, in a root of its own."""
        return self.run(policy, executor="local", root="calm").json["digest"]

    def begin(self) -> None:
        """Does all that comes before a rater."""
        assert self.run(self.policy([]), executor="local").code in (0, 3)

    def rated(self) -> list[str]:
        """The keys of all that the raters have sealed."""
        store = Store.open(str(self.folder / "runs"))
        return [*store.seals("rate/"), *store.seals("steps/rate/")]

    def quarantine(self, ended: Ended) -> list[dict[str, Any]]:
        lines = Path(ended.json["manifest"], "quarantine.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]


def documents(first: int = 0, stop: int = NUM_DOCUMENTS) -> list[dict[str, Any]]:
    return [{"text": text_of(n, 8), "edu": n % 7} for n in range(first, stop)]


def desk_of(folder: Path, model: Path, executor: str) -> Desk:
    desk = Desk(folder, model, executor)
    desk.write(documents())
    return desk


@pytest.fixture
def desk(tmp_path: Path, tiny_model: Path) -> Desk:
    return desk_of(tmp_path, tiny_model, "local")


@pytest.fixture(params=["local", "ray"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path, tiny_model: Path) -> Desk:
    """A desk whose raters work in this process, or on Ray."""
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
    return desk_of(tmp_path, tiny_model, request.param)


def assert_at_fault(ended: Ended, *said: str, code: int = 1) -> None:
    """The run ended with its cause and without a manifest."""
    assert (ended.code, "Traceback" in ended.err) == (code, False), ended
    told = ended.err + ended.out
    assert all(text in told for text in said), told
    assert "fault of selector's" not in told


def assert_sound(ended: Ended, digest: str, code: int = 0) -> None:
    assert ended.code == code, ended
    assert ended.json["digest"] == digest and Manifest.open(ended.json["manifest"]).verify().ok


# ---------------------------------------------------------------- the run is at fault

READ = {
    "prepared": ["rate/model cannot begin: FileNotFoundError: ", "the same command again: finished parts are kept."],
    "asked": ["rate/model fails at ", "even when it is given none of these rows: FileNotFoundError: "],
    "rating": ["rate/model cannot do 20 of 200 rows: too many for it to be the documents."],
}


@pytest.mark.parametrize("read", READ)
def test_a_rater_whose_model_is_missing_ends_the_run_and_put_right_the_same_command_succeeds(
    read: str, anywhere: Desk
) -> None:
    anywhere.begin()
    policy = anywhere.policy(
        [{"brittle:Modelled": {"model": str(anywhere.folder / "weights"), "read": read}, "as": "model"}]
    )
    assert_at_fault(anywhere.run(policy), *READ[read], "No such file or directory")
    assert anywhere.rated() == [], "nothing of the step is sealed"
    (anywhere.folder / "weights").write_text("weights")
    again = anywhere.run(policy)
    assert_sound(again, anywhere.digest(policy))
    assert again.json["documents"] == NUM_DOCUMENTS and anywhere.quarantine(again) == []


def fragile(desk: Desk, at: Sequence[int], trouble: str = "raises") -> dict[str, Any]:
    return {"brittle:Fragile": {"at": list(at), "trouble": trouble, "cure": str(desk.cure)}, "as": "fragile"}


def test_a_tenth_of_a_steps_documents_ends_the_run_with_its_cause_and_put_right_none_is_lost(anywhere: Desk) -> None:
    anywhere.begin()
    policy = anywhere.policy([fragile(anywhere, range(0, 200, 10))])
    said = "rate/fragile cannot do 20 of 200 rows: too many for it to be the documents. The first one is row 0 of "
    assert_at_fault(anywhere.run(policy), said, "ArithmeticError: document 0 is too much. Put it right and run the")
    assert anywhere.rated() == [] and not list((anywhere.folder / "runs/attempts").rglob("*.json"))
    anywhere.cure.touch()
    again = anywhere.run(policy)
    assert_sound(again, anywhere.digest(policy))
    assert again.json["documents"] == NUM_DOCUMENTS


def test_a_document_that_a_rater_fails_at_is_quarantined_and_the_run_ends_with_3(anywhere: Desk) -> None:
    trouble, reason = ("dies", "worker_died") if anywhere.executor == "ray" else ("raises", "exception")
    anywhere.begin()
    policy = anywhere.policy([fragile(anywhere, [77], trouble)], order={"using": {"by_score": {"score": "fragile"}}})
    ended = anywhere.run(policy)
    manifest = Manifest.open(ended.json["manifest"])
    assert (ended.code, manifest.verify().ok, len(manifest)) == (3, True, NUM_DOCUMENTS - 1), ended
    (lost,) = anywhere.quarantine(ended)
    assert (lost["row"], lost["step"], lost["reason"]) == (77, "rate/fragile", reason)
    assert manifest.info["counts"]["reasons"] == {f"quarantined in rate/fragile: {reason}": 1}
    again = anywhere.run(policy)
    assert_sound(again, ended.json["digest"], code=3)
    assert all(step["cached"] for step in again.json["steps"]), "the loss is part of what was made"


BAD = [{"text": None}, {"text": ""}, {"no": "text"}, {"text": 5}, ["a list"]]


def test_losses_of_the_input_never_end_a_run_and_do_not_add_to_those_of_the_run(desk: Desk) -> None:
    """Half of all rows are bad, and so are all rows of some parts; the rater fails at a few of the others."""
    good = documents()
    desk.write(
        [row for n in range(100) for row in (good[n], BAD[n % 5])] + [BAD[n % 5] for n in range(60)] + good[100:]
    )
    ended = desk.run(desk.policy([fragile(desk, range(0, 200, 20))]))
    assert ended.code == 3, ended
    manifest = Manifest.open(ended.json["manifest"])
    counts, lost = manifest.info["counts"], desk.quarantine(ended)
    assert [row["step"] for row in lost].count("ingest") == 160
    assert [row["step"] for row in lost].count("rate/fragile") == 10 and len(lost) == 170
    assert counts["rows"] == 360 and counts["documents"] == 200 and counts["kept"] == 190
    assert counts["rows"] == counts["kept"] + counts["left_out"] + counts["duplicate"] + counts["quarantined"]
    assert manifest.verify().ok


def test_a_corpus_of_nothing_but_bad_rows_is_refused_with_their_reasons(desk: Desk) -> None:
    desk.write(BAD * 8)
    ended = desk.run(desk.policy([]))
    assert_at_fault(ended, "no row of ", "8 empty_text", "8 not_an_object", "is a document", code=2)


@pytest.mark.parametrize(
    ("trouble", "code", "said"),
    [
        ("ends the run", 5, "The judge does not answer."),
        (
            "answers too little",
            1,
            "The rater 'fragile' returned 19 rows for a batch of 20. This is a fault of the rater",
        ),
    ],
)
def test_an_error_about_the_run_is_no_documents_loss(trouble: str, code: int, said: str, anywhere: Desk) -> None:
    """A SelectorError that is raised at work on a part: nothing is tried again, and nobody is quarantined."""
    anywhere.begin()
    policy = anywhere.policy([fragile(anywhere, [5], trouble)])
    assert_at_fault(anywhere.run(policy), said, code=code)
    assert not list((anywhere.folder / "runs/attempts").rglob("*.json"))
    anywhere.cure.touch()
    assert_sound(anywhere.run(policy), anywhere.digest(policy))


def test_a_document_whose_columns_cannot_be_read_is_quarantined_and_a_tenth_of_them_end_the_run(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns is a step that every part has a say in; what it loses cannot be chosen, and the columns' type stays."""
    desk.write([*documents(), *documents(0, 20), {"text": None, "edu": "n/a"}])  # copies, and a row that is no document
    edu = {"column": {"column": "edu", "higher_is": "better"}}
    policy = desk.policy([edu], select={"budget": {"fraction": 1}, "using": {"top": {"score": "edu"}}})
    assert desk.run(desk.policy(["length"], select={"budget": {"fraction": 1}, "using": "random"})).code == 3
    read, lost = formats.rows, set(range(0, 220, 9))  # by the step alone: the texts, and no such column, are kept

    def rows(part: Part, names: Sequence[str], most: int, places: Any) -> Iterator[tuple[int, Any, formats.RowRead]]:
        for place, piece, row in read(part, names, most, places):
            if row.number in lost:
                raise ArithmeticError("a value is too much")
            yield place, piece, row

    monkeypatch.setattr(formats, "rows", rows)
    assert_at_fault(desk.run(policy), "columns cannot do 25 of 221 rows", "ArithmeticError: a value is too much.")
    assert list(Store.open(str(desk.folder / "runs")).seals("columns/")) == []

    lost.clear()
    lost.update({3, 50, 210})  # the last one is a copy
    ended = desk.run(policy)
    manifest = Manifest.open(ended.json["manifest"])
    assert ended.code == 3 and manifest.verify().ok and len(manifest) == NUM_DOCUMENTS - 2
    told = [(row["row"], row["step"]) for row in desk.quarantine(ended)]
    assert told == [(220, "ingest"), (3, "columns"), (50, "columns")], "nobody misses the columns of a copy"
    assert manifest.info["counts"]["quarantined"] == 3
