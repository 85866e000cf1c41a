"""Watching, reading and ending runs from the root alone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from command import COMMAND, selector, write_policy
from conftest import text_of, write_jsonl
from selector.engine import journal
from selector.manifest import Manifest
from selector.storage import open_storage

SLOW = """
import time
from dataclasses import dataclass
import pyarrow as pa
from selector.rate import Rater

@dataclass(frozen=True, kw_only=True)
class Slow(Rater):
    '''Waits, until a file is there.'''
    file: str
    higher_is = "harder"

    def rate(self, batch):
        import os
        while not os.path.exists(self.file):
            time.sleep(0.05)
        return pa.record_batch({"score": pa.array([1.0] * batch.num_rows)})
"""


def begun(folder: Path) -> tuple["subprocess.Popen[bytes]", Path, Path]:
    """A run that waits in its rater, as a process, with its root and policy."""
    write_jsonl(folder / "corpus.jsonl", [{"text": text_of(n, 8)} for n in range(40)])
    (folder / "slow_rater.py").write_text(SLOW, "utf-8")
    policy = {"corpus": {"paths": [str(folder / "corpus.jsonl")], "rows_per_part": 10}}
    policy |= {"rate": [{"slow_rater:Slow": {"file": str(folder / "go")}}], "select": {"budget": {"fraction": 0.5}}}
    path, root = write_policy(folder, policy), folder / "root"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    words = [*COMMAND, "run", str(path), "--root", str(root), "--executor", "local"]
    process = subprocess.Popen(words, env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    storage = open_storage(root)
    while not any(seen.step and seen.step.name.startswith("rate/") for seen in journal.read(storage)):
        assert process.poll() is None, "the run ended before it came to its rater"
    return process, root, path


@pytest.mark.slow
def test_a_run_is_seen_ended_and_found_dead_from_the_root(tmp_path: Path) -> None:
    """One story: watched at work, cancelled, gone on with, killed, found dead, finished."""
    process, root, _ = begun(tmp_path)
    try:
        (view,) = selector("runs", "--root", root, "--json").json["runs"]
        name = view["run"]
        assert view["state"] == "running" and view["step"]["name"] == "rate/Slow" and view["pid"] == process.pid
        lines = selector("watch", name[:6], "--root", root, "--once").out.splitlines()
        assert lines[0] == f"{name}  running" and lines[-1].startswith("rate/Slow")
        told = selector("cancel", name, "--root", root, "--json").json
        assert told["state"] == "cancelled" and process.wait(10) == 143
        assert selector("watch", name, "--root", root).code == 130
        assert "interrupted" in selector("logs", name, "--root", root).out
    finally:
        process.kill()
        process.wait()
    process, _, policy = begun_again(tmp_path, root)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    dead = selector("watch", name, "--root", root, "--json").json
    assert dead["state"] == "dead" and f"process {process.pid}" in dead["detail"] and "rate/Slow" in dead["detail"]
    (tmp_path / "go").touch()
    env = {"PYTHONPATH": str(tmp_path)}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        ended = selector("run", policy, "--root", root, "--executor", "local", "--json", env=env)
    assert ended.code == 0 and Manifest.open(ended.json["manifest"]).verify().problems == []
    assert selector("watch", name, "--root", root, "--json").json["state"] == "finished"


def begun_again(folder: Path, root: Path) -> tuple["subprocess.Popen[bytes]", Path, Path]:
    """As `begun`, once the journals of earlier runs are out of the way."""
    for path in root.glob("journals/**/*"):
        if path.is_file():
            path.unlink()
    return begun(folder)


@pytest.mark.parametrize("command", ["watch", "logs", "cancel"])
@pytest.mark.parametrize("name", ["selector-0123456789ab", "0123abcd", "selector-x", "../x", ""])
def test_a_run_that_is_not_there_is_said_in_words(command: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    ended = selector(command, name, "--root", tmp_path)
    assert ended.code in (2, 4) and "selector runs" in ended.err


def test_a_root_with_nothing_in_it_is_said_in_words(tmp_path: Path) -> None:
    assert selector("runs", "--root", tmp_path / "none").code == 4


def test_a_root_without_runs_lists_none(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    ended = selector("runs", "--root", tmp_path, "--json")
    assert ended.code == 0 and ended.json == {"runs": []}


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("nowhere", "There is no target called 'nowhere'"),
        ("ray", "address is missing"),
        ("ray=head:8265", "is not that of a server"),
        ("k8s=team", "image is missing"),
    ],
)
def test_a_target_that_is_none_is_refused(on: str, message: str, tmp_path: Path) -> None:
    policy = write_policy(tmp_path, {"corpus": {"paths": ["/c.jsonl"]}, "select": {"budget": {"documents": 1}}})
    ended = selector("submit", policy, "--on", on, "--root", tmp_path / "root")
    assert ended.code == 2 and message in ended.err


def test_pods_without_the_root_are_refused_and_without_the_corpus_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the files are only written."""
    policy = write_policy(tmp_path, {"corpus": {"paths": ["/c.jsonl"]}, "select": {"budget": {"documents": 1}}})
    words = ["submit", policy, "--on", "k8s=team", "--with", "image=x", "--root", tmp_path / "root"]
    ended = selector(*words, "--out", tmp_path / "out")
    assert ended.code == 2 and "pods have none" in ended.err and not (tmp_path / "out").exists()
    ended = selector(*words, "--with", "claim=data", "--with", f"mount={tmp_path}", "--out", tmp_path / "out")
    assert ended.code == 0 and "corpus.paths: /c.jsonl lies in no volume" in caplog.text
    assert (tmp_path / "out/rayjob.yaml").exists()


def test_an_option_that_a_target_has_not_is_refused(tmp_path: Path) -> None:
    policy = write_policy(tmp_path, {"corpus": {"paths": ["/c.jsonl"]}, "select": {"budget": {"documents": 1}}})
    ended = selector("submit", policy, "--on", "slurm", "--with", "node=4", "--root", tmp_path / "root")
    assert ended.code == 2 and "Did you mean 'nodes'?" in ended.err
    assert selector("submit", policy, "--on", "slurm", "--with", "nodes", "--root", tmp_path / "root").code == 2
