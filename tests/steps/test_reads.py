"""What is not read: ratings by a run that finds all done, values of the corpus by whoever wants their types."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runs import policy_of, run, uncached, write_corpus
from selector.engine.store import Seal, Store

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
