"""What is read how often: ratings not at all by a run that finds all done, parts once or twice by a new selection,
the corpus by no step after ingest."""

import builtins
import gzip
import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runs import policy_of, run, uncached, write_corpus
from selector.corpus.formats import _checks, _stream
from selector.engine.local import LocalExecutor
from selector.engine.runner import NoProgress
from selector.engine.step import Result
from selector.engine.store import Seal, Store
from selector.pipeline import build
from selector.policy import Policy
from selector.steps import shards

Reads = Counter[tuple[str, str]]
SUMMARIES = ("sums", "health")  # a few numbers that a step says of all its parts


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """How often a table of this name was read, of any artefact of this family."""
    counted: Reads = Counter()
    blob = Store.blob

    def noted(store: Store, seal: Seal, name: str) -> bytes:
        counted[seal.key.split("/")[0], name] += 1
        return blob(store, seal, name)

    monkeypatch.setattr(Store, "blob", noted)
    return counted


@pytest.fixture
def make(tiny_model: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    corpus = write_corpus(tmp_path / "corpus")

    def policy(missing: str) -> dict[str, Any]:
        using = {"top": {"score": "edu"}}
        return policy_of(
            corpus,
            tiny_model,
            rate=["readability", {"column": {"column": "edu", "higher_is": "better"}}],
            select={"budget": {"fraction": 0.4}, "using": using, "missing": missing},
            manifest={},
        )

    return policy


@pytest.mark.parametrize("missing", ["impute", *(pytest.param(m, marks=pytest.mark.slow) for m in ("drop", "last"))])
def test_a_run_that_finds_all_done_reads_no_rating(
    missing: str, make: Callable[..., dict[str, Any]], reads: Reads, tmp_path: Path
) -> None:
    run(make(missing), tmp_path / "root")
    assert reads["rate", "ratings"] > 0
    reads.clear()
    assert uncached(run(make(missing), tmp_path / "root")) == []
    assert reads["rate", "ratings"] == 0 and reads["rate", "sums"] <= 4
    assert not [name for family, name in reads if family in ("embed", "cluster", "columns.parts", "shards.columns")]


def test_the_types_of_the_corpus_are_found_without_its_values(
    make: Callable[..., dict[str, Any]], reads: Reads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELECTOR_FAILPOINT", "step.columns.done:raise")
    with pytest.raises(RuntimeError, match=r"failpoint step\.columns\.done"):
        run(make("drop"), tmp_path / "root")
    assert {name for family, name in reads if family.startswith("columns")} == {"types"}


@pytest.mark.slow
@pytest.mark.parametrize("overshoot", ["stop", "fill", "cross"])
@pytest.mark.parametrize("using", [{"kmeans_quality": {"score": "edu", "temperature": 0.5}}, "random"])
def test_a_new_selection_reads_a_parts_tables_twice_at_most_and_a_shards_columns_sixteen_times(
    using: Any, overshoot: str, make: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 60)
    monkeypatch.setattr("selector.engine.store.RECENT_BYTES", 0)  # so that each table that is asked for is read
    alone = LocalExecutor(workers=1)  # whose reads are all in this process
    budget = {"tokens": 400, "overshoot": overshoot}
    run(
        {**make("drop"), "select": {"where": "num_tokens > 3", "budget": budget, "using": using}},
        tmp_path / "root",
        alone,
    )
    counted: Counter[tuple[str, str, str]] = Counter()
    blob = Store.blob

    def noted(store: Store, seal: Seal, name: str) -> bytes:
        counted[seal.key, name, seal.tables[name].form] += 1
        return blob(store, seal, name)

    monkeypatch.setattr(Store, "blob", noted)
    run(
        {**make("drop"), "select": {"where": "num_tokens > 2", "budget": budget, "using": using}},
        tmp_path / "root",
        alone,
    )
    of_parts = {
        at: n
        for at, n in counted.items()
        if at[0].startswith(("ingest/", "dedup.parts/", "rate/", "cluster/")) and at[1] not in SUMMARIES
    }
    assert of_parts and max(of_parts.values()) <= 2, {at: n for at, n in of_parts.items() if n > 2}
    of_shards = {at: n for at, n in counted.items() if at[0].startswith("shards")}
    assert len({key for key, _, _ in of_shards if key.startswith("shards/")}) > 1, "there are several shards"
    assert max(of_shards.values()) <= 16, of_shards
    assert {form for _, _, form in of_shards} == {"arrow"}, "they are read as they lie"


class Opens(NoProgress):
    """How often files of a folder were opened, by step and name. What is before the first step is "check".

    Lines of JSON are opened by Python, and Python opens a file by its path in these ways only.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.counted: Counter[tuple[str, str]] = Counter()
        self._folder, self._patch = folder, patch
        self._step = "check"
        for module, name in ((builtins, "open"), (io, "open"), (io, "FileIO"), (os, "open")):
            patch.setattr(module, name, self._counting(getattr(module, name)))

    def began(self, name: str, num_parts: int) -> None:
        self._step = name
        self._patch.setattr(_stream, "_last_stream", None)  # else a file that the last step left open would not be seen

    def ended(self, result: Result) -> None:
        self._step = f"after {result.name}"

    def _counting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(file: Any, *args: Any, **options: Any) -> Any:
            if not isinstance(file, int):  # which is open already
                path = Path(os.fsdecode(file)).resolve()
                self.counted[self._step, path.name] += path.parent == self._folder
            return call(file, *args, **options)

        return counting


@pytest.mark.parametrize(
    ("keep_texts", "ending"),
    [
        (True, ".jsonl.gz"),
        (False, ".jsonl"),
        pytest.param(True, ".jsonl", marks=pytest.mark.slow),
        pytest.param(False, ".jsonl.gz", marks=pytest.mark.slow),
    ],
)
def test_a_corpus_file_is_read_three_times_and_by_no_step_after_ingest_where_texts_are_kept(
    keep_texts: bool, ending: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path / "corpus").resolve()
    if ending == ".jsonl.gz":
        for path in list(corpus.iterdir()):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    monkeypatch.setattr(_checks, "_TICK", 0)  # as if no file were so new that its times say little
    raters = [f"rater_{number}" for number in range(5)]
    policy = policy_of(
        corpus,
        tiny_model,
        corpus={"paths": [str(corpus)], "rows_per_part": 20, "keep_texts": keep_texts},
        rate=[{"readability": {}, "as": rater} for rater in raters],
        select={"budget": {"fraction": 0.4}, "where": "edu >= 0", "using": {"kmeans_quality": {"score": raters[0]}}},
        order={"using": {"by_score": {"score": raters[1]}}},
        manifest={},
    )
    with monkeypatch.context() as patch:
        opens = Opens(corpus, patch)
        alone = LocalExecutor(workers=1)  # whose opens are all in this process
        outcome = build(Policy.of(policy), root=str(tmp_path / "root"), executor=alone, progress=opens)
    readers = [f"rate/{rater}" for rater in raters]
    assert {"embed", *readers} <= set(uncached(outcome))
    wanted = {
        "check": 1,  # for its first rows
        "survey": 2,  # for its checksum and its cut
        "ingest": 1,
        **({} if keep_texts else dict.fromkeys(["embed", readers[0]], 1)),  # which rates for the others too
    }
    names = [f"{number}{ending}" for number in range(3)]
    assert +opens.counted == {(step, name): num for step, num in wanted.items() for name in names}
