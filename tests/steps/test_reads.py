"""What is read how often: ratings not at all by a run that finds all done, parts once or twice by a new selection."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runs import policy_of, run, uncached, write_corpus
from selector.engine.local import LocalExecutor
from selector.engine.store import Seal, Store
from selector.steps import shards

Reads = Counter[tuple[str, str]]


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


@pytest.mark.parametrize("missing", ["drop", "last", "impute"])
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


@pytest.mark.parametrize("overshoot", ["stop", "fill", "cross"])
@pytest.mark.parametrize("using", [{"kmeans_quality": {"score": "edu", "temperature": 0.5}}, "random"])
def test_a_new_selection_reads_a_parts_tables_twice_at_most_and_a_shards_columns_sixteen_times(
    using: Any, overshoot: str, make: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 60)
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
        at: n for at, n in counted.items() if at[0].startswith(("ingest/", "dedup.parts/", "rate/", "cluster/"))
    }
    assert of_parts and max(of_parts.values()) <= 2, of_parts
    of_shards = {at: n for at, n in counted.items() if at[0].startswith("shards")}
    assert len({key for key, _, _ in of_shards if key.startswith("shards/")}) > 1, "there are several shards"
    assert max(of_shards.values()) <= 16, of_shards
    assert {form for _, _, form in of_shards} == {"arrow"}, "they are read as they lie"
