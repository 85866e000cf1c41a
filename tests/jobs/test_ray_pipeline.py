"""The whole flow on real Ray actors: the same bytes as in one process, whatever happens to the workers."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.executor import RayExecutor
from selector.engine.local import LocalExecutor
from selector.manifest import Manifest
from selector.pipeline import build
from selector.policy import Policy

pytestmark = pytest.mark.slow

Make = Callable[..., dict[str, Any]]

# A rater that notes every part that it finishes, and meets trouble at one document: the first time, or always.
TROUBLED = '''
import os, signal, time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from selector.rate import Rater


@dataclass(frozen=True, kw_only=True)
class Troubled(Rater):
    """The length of a text, from a worker with a weak spot."""

    folder: str
    trouble: str
    always: bool = False
    higher_is = "harder"

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = batch["text"].to_pylist()
        met = Path(self.folder, "met")
        if any(text.startswith("Document 77.") for text in texts) and (self.always or not met.exists()):
            met.touch()
            if self.trouble == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.trouble == "hangs":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif self.trouble == "raises":
                raise ArithmeticError("document 77 is too much")
        with Path(self.folder, "parts").open("a") as file:
            file.write(f"{texts[0] if texts else ''}\\n")
        return pa.record_batch({"score": pa.array([len(text) for text in texts], pa.float64())})
'''


@pytest.fixture(scope="module", autouse=True)
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A package elsewhere, importable here and in every worker of the Rays that are started below."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "troubled.py").write_text(TROUBLED, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        patch.syspath_prepend(folder)
        yield


def rate_of(folder: Path, trouble: str, *, always: bool = False) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return {"troubled:Troubled": {"folder": str(folder), "trouble": trouble, "always": always}}


def embedded(small_policy: Make, root: Path) -> None:
    """Does all that needs a model beforehand, so that the workers that fail are quick to start."""
    build(Policy.of(small_policy()), root=str(root), executor=LocalExecutor())


@pytest.mark.parametrize("actors", [1, 2, 3])
def test_any_number_of_actors_gives_the_manifest_of_one_process(
    actors: int, small_policy: Make, tmp_path: Path
) -> None:
    policy = Policy.of(small_policy())
    here = build(policy, root=str(tmp_path / "local"), executor=LocalExecutor()).manifest
    there = build(policy, root=str(tmp_path / "ray"), executor=RayExecutor(actors=actors)).manifest
    assert there.digest == here.digest and there.verify().ok


@pytest.mark.parametrize("trouble", ["dies", "hangs", "raises"])
def test_a_worker_that_fails_once_in_the_middle_of_a_part_changes_nothing(
    trouble: str, small_policy: Make, tmp_path: Path
) -> None:
    embedded(small_policy, tmp_path / "ray")
    policy = Policy.of(small_policy(rate=["readability", "prototypicality", rate_of(tmp_path / "work", trouble)]))
    outcome = build(policy, root=str(tmp_path / "ray"), executor=RayExecutor(actors=2, deadline=15))
    assert (tmp_path / "work/met").exists() and outcome.num_quarantined == 0
    finished = Counter((tmp_path / "work/parts").read_text().splitlines())
    again = {text for text, times in finished.items() if times > 1 and text}  # a trial of no rows has no text
    assert len(again) <= (trouble == "hangs"), "only the part at which a worker hung is done again, in pieces"
    undisturbed = build(policy, root=str(tmp_path / "local"), executor=LocalExecutor())
    assert outcome.manifest.digest == undisturbed.manifest.digest


def test_a_document_that_no_worker_survives_ends_in_quarantine_and_the_run_completes(
    small_policy: Make, tmp_path: Path
) -> None:
    rate = ["readability", "prototypicality", rate_of(tmp_path / "work", "dies", always=True)]
    policy = Policy.of(small_policy(rate=rate, select={"budget": {"fraction": 1.0}}))
    embedded(small_policy, tmp_path / "ray")
    outcome = build(policy, root=str(tmp_path / "ray"), executor=RayExecutor(actors=2))
    manifest = Manifest.open(outcome.uri)
    assert outcome.num_quarantined == 1 and manifest.verify().ok
    (lost,) = map(json.loads, Path(outcome.uri, "quarantine.jsonl").read_text().splitlines())
    assert lost["row"] == 77 and lost["step"] == "rate/Troubled" and lost["reason"] == "worker_died"
    counts = manifest.info["counts"]
    assert counts["kept"] == counts["documents"] - counts["duplicate"] - 1
