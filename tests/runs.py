"""Whole runs of a small policy: here, or each in a process of its own that a failpoint may kill.

A process costs half a second, since it is forked from a server that has imported all that a run needs.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import text_of, use_one_thread, write_jsonl
from selector import failpoint
from selector.engine import gc
from selector.engine.local import LocalExecutor
from selector.engine.part import Receipt, Task
from selector.engine.step import Map
from selector.engine.store import Store
from selector.errors import NotFoundError
from selector.manifest import Manifest
from selector.pipeline import FinishedRun, build
from selector.policy import Policy

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "faiss",
        "hypothesis.strategies",
        "pyarrow.dataset",
        "pytest",
        "selector.pipeline",
        "selector.rate.prototypicality",
        "selector.rate.readability",
        "sentence_transformers.models",
        "transformers.models.bert.modeling_bert",
    ]
)


def corpus_rows(first: int, stop: int) -> list[dict[str, Any]]:
    """Rows with a short text that depends on their number alone."""
    return [
        {"text": text_of(n, 8), "source": ("web", "books", "code")[n % 3], "edu": n * 7 % 10}
        for n in range(first, stop)
    ]


def write_corpus(folder: Path) -> Path:
    """A folder of three files with 40 rows each: two of the second one have no text, eight of the third are copies."""
    write_jsonl(folder / "0.jsonl", corpus_rows(0, 40))
    write_jsonl(folder / "1.jsonl", [*corpus_rows(40, 78), {"text": None}, {"text": ""}])
    write_jsonl(folder / "2.jsonl", [*corpus_rows(80, 112), *corpus_rows(0, 8)])
    return folder


def policy_of(corpus: Path, model: Path, /, **sections: Any) -> dict[str, Any]:
    """A policy over such a folder, in six parts; keyword arguments replace whole sections."""
    return {
        "seed": 7,
        "corpus": {"paths": [str(corpus)], "rows_per_part": 20},
        "embed": {"model": str(model), "precision": "float32", "max_tokens": 32},
        "cluster": {"num_clusters": 4},
        "rate": ["readability", "prototypicality"],
        "select": {"budget": {"fraction": 0.4}, "using": {"kmeans_quality": {"score": "prototypicality"}}},
        "order": {"using": {"by_score": {"score": "readability"}}},
        "manifest": {"difficulty": "readability", "quality": "prototypicality"},
        **sections,
    }


@contextmanager
def importable(folder: Path, name: str, source: str) -> Generator[str]:
    """A module of this name, which can be imported meanwhile."""
    (folder / f"{name}.py").write_text(source, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield name
    sys.modules.pop(name, None)


@dataclass(frozen=True, kw_only=True)
class Noting(LocalExecutor):
    """The local executor, which also notes the key of every task that it is handed, a line each."""

    notes: Path

    def run(self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int | None = None) -> Iterator[Receipt]:
        with self.notes.open("a", encoding="utf-8") as file:
            file.writelines(f"{task.key}\n" for task in tasks)
        yield from super().run(step, tasks, store, num_rows)


def run(policy: Mapping[str, Any], root: Path, executor: LocalExecutor | None = None) -> FinishedRun:
    """Runs a policy in this process."""
    return build(Policy.of(policy), root=str(root), executor=executor or LocalExecutor())


def uncached(outcome: FinishedRun) -> list[str]:
    return [step.name for step in outcome.steps if not step.cached]


class Child:
    """A process that runs a policy into a root (or, without a policy, removes its garbage) and tells how that went."""

    def __init__(
        self,
        policy: Mapping[str, Any] | None,
        root: Path,
        told: Path,
        environment: Mapping[str, str] | None = None,
        start: Any = None,  # a barrier
    ) -> None:
        self._told = told
        arguments = (policy, str(root), str(told), dict(environment or {}), start)
        self._process = CONTEXT.Process(target=_work, args=arguments, daemon=True)
        self._process.start()

    def is_alive(self, seconds: float = 0) -> bool:
        """Whether it is still at work after so many seconds."""
        self._process.join(seconds)
        return self._process.is_alive()

    def wait(self, seconds: float = 120) -> int:
        """Its exit code; the negative number of the signal that killed it."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            self._process.kill()
            raise AssertionError(f"the child did not end within {seconds} seconds")
        return self._process.exitcode

    def told(self) -> dict[str, Any]:
        """What it told at its end: `digest` and `reached`, or `error`."""
        return json.loads(self._told.read_text("utf-8"))


def killed_at(name: str, hit: int, marker: Path) -> dict[str, str]:
    """The environment of a child that is to die at a failpoint; the marker will show that it got there."""
    return {"SELECTOR_FAILPOINT": f"{name}:kill:{hit}", "SELECTOR_FAILPOINT_ONCE": str(marker)}


def assert_killed(child: Child, marker: Path) -> None:
    assert child.wait() == -signal.SIGKILL, "the child was to be killed"
    assert marker.exists(), "and that by the failpoint"


def _work(policy: Mapping[str, Any] | None, root: str, told: str, environment: Mapping[str, str], start: Any) -> None:
    os.environ |= environment
    use_one_thread()
    reached: Counter[str] = Counter()
    if "SELECTOR_FAILPOINT" not in environment:

        def count(name: str) -> None:
            if not threading.current_thread().daemon:
                reached[name] += 1

        failpoint.reach = count
    if start is not None:
        start.wait()
    answer: dict[str, Any]
    try:
        if policy is None:
            store = Store.open(root)
            answer = {"removed": gc.remove(store, gc.find(store))}
        else:
            answer = {"digest": run(policy, Path(root)).manifest.digest}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    Path(told).write_text(json.dumps({**answer, "reached": reached}), "utf-8")


def assert_no_manifest_or_a_sound_one(root: Path) -> None:
    """What a reader of the root's only run finds."""
    try:
        manifest = Manifest.open(str(root))
    except NotFoundError:
        return
    assert manifest.verify().problems == []


def assert_sound(root: Path) -> None:
    """Every artefact below the root is as it was sealed."""
    store = Store.open(str(root))
    assert [key for key in store.seals() if not store.is_sound(key)] == []
