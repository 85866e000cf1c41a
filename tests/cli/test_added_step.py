"""A step that is added to the flow, here by a test: whatever shows or stops steps knows it, and no list names it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from command import selector, write_policy
from conftest import text_of, write_jsonl
from runs import run, uncached
from selector import pipeline
from selector.engine.local import LocalExecutor
from selector.engine.part import Task
from selector.engine.step import APART, Done, Map, Step
from selector.engine.store import Store
from selector.policy import Policy
from selector.policy.resolve import Resolved, resolve
from selector.steps import survey
from selector.steps.survey import Survey

IDS = pa.schema([("doc_id", pa.binary(16)), ("is_long", pa.bool_())])


@dataclass(frozen=True, kw_only=True)
class Sieve(Map):
    """Which documents are long. Nothing is made of it; the order says that it reads it."""

    name: str = field(default="sieve", metadata=APART)
    reads: tuple[str, ...] = field(default=("ingest", "survey"), metadata=APART)
    output = "long"

    survey: Survey = field(metadata=APART)
    least: int

    def tasks(self, done: Done) -> Sequence[Task]:
        return [
            Task(key=self.key(seal.key), part=part, inputs={"documents": seal.key})
            for part, seal in zip(survey.parts(done, self.survey), done["ingest"].parts, strict=True)
        ]

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        documents = store.read(task.inputs["documents"], "documents")
        is_long = documents["num_tokens"].to_numpy() >= self.least
        return {"long": pa.table([documents["doc_id"], np.asarray(is_long)], schema=IDS)}


@pytest.fixture
def policy(tmp_path: Path) -> dict[str, Any]:
    """A policy that embeds nothing, over a corpus in two parts."""
    rows = [{"text": text_of(n, 8), "source": "web"} for n in range(20)]
    return {
        "corpus": {"paths": [str(write_jsonl(tmp_path / "corpus.jsonl", rows))], "rows_per_part": 10},
        "select": {"budget": {"documents": 8}, "using": "random"},
        "order": {"using": "shuffled"},
    }


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow with a sieve before select, which the order reads."""
    flow = pipeline.flow

    def with_sieve(policy: Resolved, executor: Any) -> list[Step]:
        steps: list[Step] = []
        for step in flow(policy, executor):
            if step.name == "select":
                (read,) = [step for step in steps if isinstance(step, Survey)]
                steps.append(Sieve(survey=read, least=30))
            steps.append(replace(step, reads=(*step.reads, "sieve")) if step.name == "order" else step)
        return steps

    monkeypatch.setattr(pipeline, "flow", with_sieve)


NAMES = ["survey", "ingest", "dedup", "sieve", "select", "order", "manifest"]


@pytest.mark.usefixtures("added")
def test_a_step_that_is_added_is_among_the_steps_of_a_policy(policy: dict[str, Any]) -> None:
    assert [step.name for step in pipeline.flow(resolve(Policy.of(policy)), LocalExecutor())] == NAMES


@pytest.mark.usefixtures("added")
def test_a_step_that_is_added_is_planned_run_printed_and_told_as_json(policy: dict[str, Any], tmp_path: Path) -> None:
    command = [write_policy(tmp_path, policy), "--root", tmp_path / "runs", "--executor", "local"]
    planned = selector("plan", *command, "--json").json["steps"]
    assert [(step["name"], step["action"]) for step in planned] == [(name, "run") for name in NAMES]
    assert re.search("^sieve +run", selector("plan", *command).out, re.MULTILINE)

    ended = selector("run", *command, "--json")
    told = {step["name"]: step for step in ended.json["steps"]}
    assert list(told) == NAMES and (told["sieve"]["rows_in"], told["sieve"]["rows_out"]) == (20, 20)
    assert re.search(rf"^sieve +{told['sieve']['fingerprint'][:12]} +20 in +20 out", ended.err, re.MULTILINE)

    tree = selector("run", *command).out
    assert re.search(r"^    [├└]── sieve .* 20 rows, .*, cached$", tree, re.MULTILINE), "below the order, beside select"
    assert re.search("^sieve +cached", selector("plan", *command).out, re.MULTILINE)
    info = pipeline.run(policy, root=str(tmp_path / "runs"), executor="local").info
    assert info["lineage"]["sieve"] == told["sieve"]["fingerprint"]


@pytest.mark.usefixtures("added")
def test_a_run_can_be_stopped_after_a_step_that_is_added_and_goes_on_from_there(
    policy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("SELECTOR_FAILPOINT", "step.sieve.done:raise")
        with pytest.raises(RuntimeError, match=r"failpoint step\.sieve\.done"):
            run(policy, tmp_path / "runs")
    assert uncached(run(policy, tmp_path / "runs")) == ["select", "order", "manifest"]


def test_a_step_that_nothing_reads_does_not_run(
    policy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selector.steps.plan import Plan

    sieve = Sieve(survey=Survey(rows_per_part=10), least=30)
    monkeypatch.setattr(Plan, "attached", [sieve])
    assert "sieve" not in [step.name for step in run(policy, tmp_path / "runs").steps]
