"""The command line: what is on stdout, what a command ends with, and that all of it is documented."""

import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import typer
import typer.main
import yaml

from command import COMMAND, Ended, process, selector, with_value, write_policy
from conftest import text_of, write_jsonl
from selector import __version__, cli, errors
from selector.cli import app, doctor
from selector.engine.lease import Lease
from selector.storage.file import FileStorage

STEP_KEYS = ["name", "fingerprint", "cached", "rows_in", "rows_out", "seconds"]
STEPS = ["survey", "ingest", "dedup", "embed", "centroids", "cluster", "rate/readability", "rate/prototypicality"]
COMMANDS = sorted(
    str(command.name or command.callback.__name__) for command in app.registered_commands if command.callback
)
GROUPS = sorted(str(group.name) for group in app.registered_groups)


@dataclass(frozen=True)
class Made:
    """A finished run of a small policy."""

    folder: Path
    policy: Path
    ended: Ended

    @property
    def root(self) -> str:
        return str(self.folder / "runs")

    @property
    def uri(self) -> str:
        return self.ended.json["manifest"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Made:
    folder = tmp_path_factory.mktemp("made")
    rows = [{"text": text_of(n % 70, 8), "source": ("web", "books")[n % 2]} for n in range(80)]
    policy = {
        "seed": 7,
        "corpus": {"paths": [str(write_jsonl(folder / "corpus.jsonl", rows))]},
        "embed": {"model": str(tiny_model), "precision": "float32", "max_tokens": 32},
        "cluster": {"num_clusters": 3},
        "rate": ["readability", "prototypicality"],
        "select": {"budget": {"documents": 20}, "where": "num_tokens > 12"},
        "order": {"using": {"by_score": {"score": "readability"}}},
        "manifest": {"difficulty": "readability"},
    }
    path = write_policy(folder, policy)
    ended = selector("run", path, "--root", folder / "runs", "--executor", "local", "--json")
    assert ended.code == 0, ended.err
    return Made(folder, path, ended)


def test_run_prints_one_json_document_with_the_keys_of_the_contract(made: Made) -> None:
    told = made.ended.json
    assert list(told) == ["manifest", "digest", "documents", "tokens", "seconds", "steps", "scores"]
    assert made.ended.out.count("\n") == 1
    assert re.fullmatch(r"[0-9a-f]{64}", told["digest"]) and Path(told["manifest"], "manifest/manifest.json").exists()
    assert (told["documents"], type(told["tokens"]), type(told["seconds"])) == (20, int, float)
    assert [step["name"] for step in told["steps"]] == [*STEPS, "select", "order", "manifest"]
    for step in told["steps"]:
        assert list(step) == STEP_KEYS and re.fullmatch(r"[0-9a-f]{32}", step["fingerprint"])
        assert [type(step[key]) for key in STEP_KEYS] == [str, str, bool, int, int, float]
    assert [step["cached"] for step in told["steps"]] == [False] * 11
    rows = {step["name"]: (step["rows_in"], step["rows_out"]) for step in told["steps"]}
    assert rows["ingest"] == (80, 80) and rows["dedup"] == (80, 70) and rows["order"] == (20, 20)


def test_run_tells_its_progress_on_stderr(made: Made) -> None:
    lines = made.ended.err.splitlines()
    assert [line.split()[0] for line in lines] == [step["name"] for step in made.ended.json["steps"]]
    assert re.fullmatch(r"ingest +[0-9a-f]{12} +80 in +80 out  [0-9.]+ s", lines[1])


def test_run_finds_a_finished_run_and_ends_with_three_commands_that_work(made: Made) -> None:
    again = selector("run", made.policy, "--root", made.root, "--executor", "local")
    assert again.code == 0 and made.ended.json["digest"] in again.out
    assert again.err.count("cached") == 11
    sections = ("where the rows went", "tokens by source", "through the order", "the order, measured", "order digest")
    for told in (*sections, "└── survey"):
        assert told in again.out
    commands = [shlex.split(line) for line in again.out.splitlines() if line.startswith("  selector ")]
    assert [command[1] for command in commands] == ["verify", "explain", "run"]
    for command in commands:
        assert selector(*command[1:]).code == 0


def test_the_command_to_try_next_is_the_last_one_with_half_the_budget(made: Made) -> None:
    command = ["run", made.policy, "--root", made.root, "--executor", "local", "--workers", "1"]
    command += ["--set", "select.where=num_tokens > 12 AND source = 'web'"]
    for budget in ("documents=10", "tokens=200", "fraction=0.5"):
        told = selector(*command, "--set", f"select.budget.{budget}")
        (again,) = [shlex.split(line) for line in told.out.splitlines() if line.startswith("  selector run ")]
        unit, _, amount = budget.partition("=")
        half = float(amount) / 2
        assert again[1:] == [*map(str, command), "--set", f"select.budget.{unit}={half:g}"]
        assert selector(*again[1:]).code == 0


def test_verify_prints_one_json_document_with_the_keys_of_the_contract(made: Made) -> None:
    digest = made.ended.json["digest"]
    assert selector("verify", made.uri, "--json").json == {"ok": True, "digest": digest, "problems": []}
    told = selector("verify", made.uri)
    assert (told.code, told.out, told.err) == (0, f"ok {digest}\n", "")


def test_verify_of_a_manifest_that_is_not_sound_ends_with_1_and_says_what_is_wrong(made: Made, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", made.uri, tmp_path / "run"], check=True)
    part = tmp_path / "run/manifest/parts/part-00000.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    told = selector("verify", tmp_path / "run", "--json")
    assert told.code == 1 and list(told.json) == ["ok", "digest", "problems"] and told.json["ok"] is False
    assert told.json["problems"] and "part-00000" in told.json["problems"][0]
    assert "part-00000" in selector("verify", tmp_path / "run").out


def test_plugins_prints_one_json_document_with_the_keys_of_the_contract() -> None:
    told = selector("plugins", "--json").json
    assert list(told) == ["raters", "selectors", "orders", "objectives", "executors", "targets"]
    found = {family: [member["name"] for member in members] for family, members in told.items()}
    assert {"column", "length"} <= {*found["raters"]} and {"local", "ray"} <= set(found["executors"])
    assert {"random", "top", "kmeans_quality"} <= set(found["selectors"])
    assert {"shuffled", "by_score", "interleaved"} <= set(found["orders"])
    for member in (member for members in told.values() for member in members):
        assert list(member) == ["name", "summary", "options"] and member["summary"].endswith(".")
        for option in member["options"].values():
            assert list(option) == ["type", "default", "required"]
    text = selector("plugins")
    assert text.err == "" and all(
        re.search(rf"^  {name} ", text.out, re.MULTILINE) for names in found.values() for name in names
    )


def test_plugins_says_all_of_one_that_is_named() -> None:
    text = selector("plugins", "prerequisites").out
    for words in (
        "orders",
        "The table `graph` has a row for every pair",
        "Evidence:",
        "score: ScoreName (required)",
        "graph: TablePath (before: string, after: string) (required)",
        "TablePath: a JSONL or Parquet file",
    ):
        assert words in text  # fmt: skip
    (told,) = selector("plugins", "random", "--json").json["selectors"]
    assert list(told) == ["name", "summary", "options", "docstring"] and told["docstring"].startswith(told["summary"])
    (dotted,) = selector("plugins", "selector.select.random:Random", "--json").json["selectors"]
    assert dotted["docstring"] == told["docstring"]
    refused = selector("plugins", "topp")
    assert refused.code == 2 and "There is no plug-in called 'topp'. Did you mean 'top'?" in refused.err
    assert selector("plugins", "no_such.module:Thing").code == 2


def test_show_lists_runs_and_describes_one(made: Made) -> None:
    run = Path(made.uri).name
    told = {entry["run"]: entry for entry in selector("show", "--root", made.root, "--json").json["runs"]}
    digest, tokens = made.ended.json["digest"], made.ended.json["tokens"]
    names = {"selector": "random", "order": "by_score"}
    assert told[run] == {"run": run, "digest": digest, "documents": 20, "tokens": tokens, **names}
    assert run in selector("show", "--root", made.root).out
    described = selector("show", made.uri, "--json").json
    measures = described["measures"]
    assert list(measures) == ["window", "difficulty", "quality", "diversity"] and measures["quality"] is None
    assert (measures["difficulty"]["displacement"], measures["difficulty"]["scored"]) == (0, 20)
    assert measures["difficulty"]["tau"] > 0.9 and set(measures["diversity"]) == {"source", "cluster"}
    assert (described["documents"], described["visits"]) == (20, 20) and len(described["difficulty"]) == 10
    shown = selector("show", made.uri).out
    assert "where the rows went" in shown
    for reason, count in described["reasons"].items():
        assert re.search(rf"^  {re.escape(reason)} +-{count}$", shown, re.MULTILINE), "in the words of `describe`"
    assert "where: num_tokens > 12" in described["reasons"]


def test_a_manifest_can_be_named_by_its_run(made: Made) -> None:
    name = Path(made.uri).name
    doc_id = selector("at", name, 0, "--root", made.root, "--json").json["doc_id"]
    for command in (["show", name], ["verify", name], ["when", name, doc_id], ["explain", name, doc_id]):
        told = selector(*command, "--root", made.root)
        assert (told.code, told.out) == (0, selector(command[0], made.uri, *command[2:]).out)
    assert selector("show", name, env={"SELECTOR_ROOT": made.root}).code == 0
    assert selector("show", "0123", "--root", made.root).err.startswith("error: There is no manifest at 0123: ")


@pytest.mark.parametrize("command", ["show", "gc"])
def test_a_root_with_nothing_in_it_is_not_found(command: str, tmp_path: Path) -> None:
    for root in (tmp_path / "elsewhere", tmp_path):
        ended = selector(command, "--root", root)
        assert (ended.code, ended.out) == (4, "")
        assert ended.err == f"error: There is nothing at {root}. Give as --root the folder in which your runs lie.\n"
    assert not (tmp_path / "elsewhere").exists()


def test_a_run_that_is_at_work_is_listed_as_such_and_gc_leaves_it_alone(tmp_path: Path) -> None:
    root, run = tmp_path / "runs", "0123456789abcdef"
    (root / run).mkdir(parents=True)
    (root / run / "plan.json").write_text("{}")
    assert re.search(rf"^{run} .*unfinished$", selector("show", "--root", root).out, re.MULTILINE)
    assert f"{run} is unfinished: its command finishes it" in selector("gc", "--root", root).err
    with Lease(FileStorage(str(root))) as lease:
        lease.name(run)
        assert re.search(rf"^{run} .*at work$", selector("show", "--root", root).out, re.MULTILINE)
        assert selector("show", "--root", root, "--json").json["runs"][0]["at_work"] is True
        told = selector("gc", "--root", root, "--delete", "--json").json
        assert (told["keys"], told["unfinished"], told["at_work"]) == ([], [], [run])
        assert f"{run} is at work: what it needs stays" in selector("gc", "--root", root).err
    assert selector("gc", "--root", root, "--delete", "--unfinished").err.startswith(f"{run} is given up\n")
    assert list(root.iterdir()) == [], "and no empty folder is left"


def test_at_when_and_explain_agree_about_a_document(made: Made) -> None:
    first = selector("at", made.uri, 0, "--json").json
    assert (first["position"], first["visit"], first["phase"]) == (0, 0, "main")
    doc_id = first["doc_id"]
    assert selector("when", made.uri, doc_id, "--json").json == {"doc_id": doc_id, "positions": [0]}
    assert selector("when", made.uri, doc_id).out == "0\n"
    told = selector("explain", made.uri, doc_id, "--json").json
    assert (told["outcome"], told["positions"], told["row"]) == ("kept", [0], first["row"])
    assert told["reason"] == first["reason"] and told["uri"] == str(made.folder / "corpus.jsonl")
    shown = selector("at", made.uri, 0).out
    assert re.search(rf"^doc_id +{doc_id}$", shown, re.MULTILINE)
    assert re.search(r"^uri +\S+\.jsonl$", shown, re.MULTILINE) and re.search(r"^text +\w", shown, re.MULTILINE)
    assert re.search(r"^outcome +kept$", selector("explain", made.uri, doc_id).out, re.MULTILINE)
    assert "None" not in selector("explain", made.uri, doc_id).out + selector("at", made.uri, 0).out


def test_when_of_a_document_that_was_left_out_says_so_and_ends_with_0(made: Made) -> None:
    decisions = pq.read_table(Path(made.uri, "decisions"), columns=["doc_id", "outcome"]).to_pylist()
    left = next(row["doc_id"].hex() for row in decisions if row["outcome"] == "left_out")
    assert selector("when", made.uri, left, "--json").json == {"doc_id": left, "positions": []}
    told = selector("when", made.uri, left)
    reason = selector("explain", made.uri, left, "--json").json["reason"]
    assert (told.code, told.out, told.err) == (0, "", f"It is not in the order (left_out): {reason}.\n")


def test_explain_shows_value_cut_and_rank(made: Made) -> None:
    command = ["run", made.policy, "--root", made.root, "--executor", "local", "--json", "--set"]
    uri = selector(*command, "select.using={top: {score: readability}}").json["manifest"]
    decisions = pq.read_table(Path(uri, "decisions")).filter(pc.field("value").is_valid()).to_pylist()
    ranked = sorted(decisions, key=lambda row: (-row["value"], row["doc_id"]))
    for place in (0, 19, 20, len(ranked) - 1):
        row, doc_id = ranked[place], ranked[place]["doc_id"].hex()
        told = selector("explain", uri, doc_id, "--json").json
        assert (told["value"], told["cut"], told["rank"]) == (row["value"], row["cut"], place + 1)
        lines = dict(line.split(maxsplit=1) for line in selector("explain", uri, doc_id).out.splitlines())
        assert lines["value"] == f"{row['value']:.6g}" and lines["cut"] == f"{row['cut']:.6g}"
        assert lines["rank"] == (f"{place + 1}" if told["of"] is None else f"{place + 1} of {told['of']}")
        assert lines["outcome"] == ("kept" if place < 20 else "left_out")
        assert ("positions" in lines) == (place < 20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nowhere"], "There is no manifest at nowhere"),
        (["verify", "nowhere"], "There is no manifest at nowhere"),
        (["at", "{uri}", "20"], r"There is no position 20 in this manifest: positions are 0 to 19\."),
        (["at", "{uri}", "--", "-1"], "There is no position -1 in this manifest"),
        (["at", "{uri}", "-1"], "There is no position -1 in this manifest"),
        (["at", "{uri}", str(10**26)], "There is no position 1000000000"),
        (["when", "{uri}", "0" * 32], f"There is no document {'0' * 32} in the corpus of this manifest"),
        (["explain", "{uri}", "0" * 32], f"There is no document {'0' * 32} in the corpus of this manifest"),
    ],
)
def test_what_is_not_there_ends_with_4(arguments: list[str], message: str, made: Made) -> None:
    ended = selector(*(argument.format(uri=made.uri) for argument in arguments))
    assert (ended.code, ended.out) == (4, "") and re.search(message, ended.err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runn"], "No such command 'runn'"),
        (["run"], "Missing argument 'POLICY'"),
        (["run", "policy.yaml", "--rooot", "x"], "No such option: --rooot"),
        (["at", "{uri}", "first"], "Invalid value for 'position'"),
        (["when", "{uri}", "42"], "'42' is not a doc_id. Give its 32 hex digits"),
        (["demo", "--documents", "3"], "Invalid value for '--documents'"),
        (
            ["run", "policy.yaml", "--executor", "local", "--actors", "3"],
            "error: --actors is not for the executor local, which takes --workers and --deadline.",
        ),
        (
            ["run", "policy.yaml", "--executor", "ray", "--workers", "3"],
            "error: --workers is not for the executor ray, which takes --address and --actors and --deadline.",
        ),
        (["run", "policy.yaml", "--actors", "0"], "Invalid value for '--actors'"),
        (["check", "s3://bucket/policy.yaml"], "'s3://bucket/policy.yaml' is an address, and this is read or written"),
        (["tune", "plan", "file:study.yaml"], "Write study.yaml, or ./file:study.yaml"),
        (["plugins", "apart", "--gallery", "s3:/bucket/x"], "'s3:/bucket/x' is no address"),
        (["feedback", "x", "{uri}", "--into", "s3://bucket/x.parquet"], "is an address, and this is read or written"),
        (["submit", "policy.yaml", "--on", "slurm", "--out", "gs://bucket/x"], "is an address, and this is read"),
        (["demo", "--folder", "C:\\x"], "drive of Windows"),
    ],
)
def test_what_cannot_be_meant_ends_with_2(arguments: list[str], message: str, made: Made) -> None:
    ended = selector(*(argument.format(uri=made.uri) for argument in arguments))
    assert (ended.code, ended.out) == (2, "") and message in ended.err and "Traceback" not in ended.err


def test_check_prints_a_policy_that_says_the_same(made: Made, tmp_path: Path) -> None:
    told = selector("check", f"file://{made.policy}")
    assert (told.code, told.err) == (0, "")
    (tmp_path / "resolved.yaml").write_text(told.out)
    again = selector("check", tmp_path / "resolved.yaml", "--json")
    assert again.json == selector("check", made.policy, "--json").json
    run = selector("run", tmp_path / "resolved.yaml", "--root", made.root, "--executor", "local", "--json")
    assert run.json["digest"] == made.ended.json["digest"] and all(step["cached"] for step in run.json["steps"])


def test_plan_says_what_is_cached_and_what_would_run_and_writes_nothing(made: Made, tmp_path: Path) -> None:
    plan = ["plan", made.policy, "--executor", "local", "--json", "--root"]
    fresh = selector(*plan, tmp_path / "runs").json["steps"]
    assert [step["name"] for step in fresh] == [*STEPS, "select", "order", "manifest"]
    assert {step["action"] for step in fresh} == {"run"} and not (tmp_path / "runs").exists()
    done = selector(*plan, made.root).json["steps"]
    assert {step["action"] for step in done} == {"cached"}
    for override, first in (
        ("manifest.quality=readability", "manifest"),
        ("order.using={by_score: {score: readability, direction: anti_curriculum}}", "order"),
        ("select.budget.documents=5", "select"),
        ("rate=[readability, prototypicality, length]", "rate/length"),
        ("cluster.num_clusters=2", "centroids"),
        ("corpus.max_document_bytes=1000", "ingest"),
    ):
        actions = [
            (step["name"], step["action"]) for step in selector(*plan, made.root, "--set", override).json["steps"]
        ]
        assert actions[[action for _, action in actions].index("run")] == (first, "run")
    text = selector("plan", made.policy, "--executor", "local", "--root", made.root)
    assert text.err == "" and text.out.count("cached") == 11


def test_plan_says_who_puts_right_what_is_damaged(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.root, tmp_path / "runs")
    for seal in (tmp_path / "runs/artifacts/seals/steps").rglob("*.json"):
        seal.write_bytes(b"{}")
    ended = selector("plan", made.policy, "--root", tmp_path / "runs", "--executor", "local", "--json")
    assert ended.code == 1 and ended.json["error"]["kind"] == "DamagedError"
    assert "its seal cannot be read. `selector run` with the same policy and root makes it anew." in ended.err


def test_doctor_says_what_it_found_and_ends_with_1_if_something_is_missing(made: Made) -> None:
    told = selector("doctor", "--root", made.root, "--json")
    assert told.code == 0 and told.json["ok"] is True
    assert {finding["name"] for finding in told.json["findings"]} >= {"python", "ray", "torch", "model", "storage"}
    bad = selector("doctor", "--root", made.policy)
    assert bad.code == 1 and re.search(r"^BAD +storage .*cannot be used", bad.out, re.MULTILINE)


def test_doctor_names_two_faiss_that_overwrite_each_other() -> None:
    both = {"faiss-cpu": "1.15.1", "faiss-gpu": "1.15.1"}
    clash = doctor._faiss(both, "cuda")  # pyright: ignore[reportPrivateUsage]
    assert not clash.ok and "faiss-cpu 1.15.1 and faiss-gpu 1.15.1 are both installed" in clash.detail
    assert clash.detail.endswith("pip uninstall -y faiss-cpu faiss-gpu && pip install faiss-gpu")
    for installed, device, words in (
        ({}, "cpu", "not installed; it is needed for clusters on GPUs only"),
        ({"faiss-gpu": "1.15.1"}, "cuda", "faiss-gpu 1.15.1"),
        (
            {"faiss-cpu": "1.15.1"},
            "cuda",
            "faiss-cpu 1.15.1: clusters are assigned on CPUs. For GPUs type: pip install",
        ),
    ):
        sound = doctor._faiss(installed, device)  # pyright: ignore[reportPrivateUsage]
        assert sound.ok and sound.detail.startswith(words)


def test_gc_lists_and_removes_what_no_manifest_needs_and_nothing_else(made: Made, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    subprocess.run(["cp", "-r", made.root, root], check=True)
    assert list(selector("gc", "--root", root, "--json").json) == ["deleted", "bytes", "keys", "unfinished", "at_work"]
    passing = {key.split("/")[2] for key in selector("gc", "--root", root).out.split() if "/seals/" in key}
    handed_over = {family for family in passing if "." in family or family == "shards"}  # from one step to the next
    assert passing == handed_over - {"dedup.parts", "select.shards", "order.shards"}, passing
    assert selector("gc", "--root", root, "--delete").code == 0
    before = selector("gc", "--root", root)
    assert before.out == "" and "0 objects" in before.err
    (root / "0123456789abcdef").mkdir()
    (root / "0123456789abcdef/plan.json").write_text("{}")
    (root / "artifacts/seals/survey/unused.json").write_text("{}")
    listed = selector("gc", "--root", root)
    assert listed.out.split() == ["0123456789abcdef/plan.json", "artifacts/seals/survey/unused.json"]
    refused = selector("gc", "--root", root, "--delete")
    assert (refused.code, refused.out) == (2, "") and "1 run has no manifest yet (0123456789abcdef)" in refused.err
    told = selector("gc", "--root", root, "--delete", "--unfinished", "--json").json
    assert (told["deleted"], len(told["keys"]), told["unfinished"]) == (True, 2, ["0123456789abcdef"])
    assert selector("gc", "--root", root, "--json").json["keys"] == []
    assert selector("verify", root / Path(made.uri).name).code == 0


def test_the_root_can_come_from_the_environment(made: Made) -> None:
    told = selector("show", "--json", env={"SELECTOR_ROOT": made.root})
    assert Path(made.uri).name in [run["run"] for run in told.json["runs"]]


# ---------------------------------------------------------------- when it does not go well

ELSEWHERE = """
import dataclasses, os, pathlib, time
import numpy as np
import pyarrow as pa
from selector import tables
from selector.order import Order, Positions
from selector.rate import Rater
from selector.select import Decisions, Selector, reasons, verdicts

@dataclasses.dataclass(frozen=True, kw_only=True)
class Short(Rater):
    "Says too little."
    higher_is = "harder"
    def rate(self, batch):
        return pa.record_batch({"score": [1.0]})

@dataclasses.dataclass(frozen=True, kw_only=True)
class Loud(Rater):
    "Prints."
    higher_is = "harder"
    def rate(self, batch):
        print("I am here")
        return pa.record_batch({"score": [1.0] * batch.num_rows})

@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaves0(Rater):
    "Ends its process as if all were well."
    higher_is = "harder"
    def rate(self, batch):
        raise SystemExit(0)

@dataclasses.dataclass(frozen=True, kw_only=True)
class Gone(Rater):
    "Ends its process, and Python does not hear of it."
    higher_is = "harder"
    def rate(self, batch):
        os._exit(0)

@dataclasses.dataclass(frozen=True, kw_only=True)
class GoneToo(Selector):
    "Ends its process, in the driver."
    def select(self, pool, budget, seed):
        os._exit(0)

@dataclasses.dataclass(frozen=True, kw_only=True)
class Forks(Rater):
    "Asks a child of its own."
    higher_is = "harder"
    def rate(self, batch):
        child = os.fork()
        if not child:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        return pa.record_batch({"score": [1.0] * batch.num_rows})

@dataclasses.dataclass(frozen=True, kw_only=True)
class Stuck(Rater):
    "Is told to stop when it has rated so many parts, and counts them."
    higher_is = "harder"
    def rate(self, batch):
        calls = pathlib.Path(os.environ["CALLS"])
        calls.joinpath(str(time.monotonic_ns())).touch()
        if len(list(calls.iterdir())) > int(os.environ["MOST"]):
            time.sleep(100)
        return pa.record_batch({"score": [float(len(text)) for text in batch["text"].to_pylist()]})

def half(batch):
    kept = np.array([doc_id[0] < 128 for doc_id in batch["doc_id"].to_pylist()], bool)
    return verdicts(kept, **reasons(np.where(kept, 0, 1), ["round 1", "round 2"]))

@dataclasses.dataclass(frozen=True, kw_only=True)
class Waits(Selector):
    "Takes half of the documents, and waits."
    fills_budget = False
    def select(self, pool, budget, seed):
        return Decisions(
            decide=half, columns=("doc_id",), waiting="round 2 needs feedback on 3,334 documents"
        )

@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaves(Order):
    "Leaves all but the first three."
    def arrange(self, chosen, seed):
        rows = np.arange(chosen.num_documents)
        said = reasons(np.zeros(len(rows) - 3, int), [("its window {window} is full", {"window": 3})])
        left = pa.table({"document": rows[3:], **said}).cast(tables.LEFT)
        return dataclasses.replace(Positions.of(rows[:3]), left=left)

@dataclasses.dataclass(frozen=True, kw_only=True)
class LeavesAll(Order):
    "Leaves all of them."
    def arrange(self, chosen, seed):
        rows = np.arange(chosen.num_documents)
        left = pa.table({"document": rows, **reasons(np.zeros(len(rows), int), ["it is late"])}).cast(tables.LEFT)
        return dataclasses.replace(Positions.of(rows[:0]), left=left)
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with a module of plug-ins, `plugins_of_a_test`."""
    (tmp_path / "plugins_of_a_test.py").write_text(ELSEWHERE)
    (tmp_path / "calls").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def policy_with(made: Made, folder: Path, rater: str) -> Path:
    policy = yaml.safe_load(made.policy.read_text())
    for key, value in {
        "rate": [rater],
        "order": {"using": "shuffled"},
        "manifest": {},
        "corpus.rows_per_part": 16,
    }.items():
        policy = with_value(policy, key, value)
    return write_policy(folder, policy)


def test_a_budget_that_is_not_spent_is_said_on_the_screen_and_as_json(made: Made) -> None:
    command = ["run", made.policy, "--root", made.root, "--executor", "local", "--set", "select.where=num_tokens > 33"]
    told = selector(*command, "--json").json
    spent = told["documents"]
    assert 0 < spent < 20 and list(told)[6:] == ["shortfall", "scores"]
    why = "every document that may be chosen is"
    assert told["shortfall"] == {"unit": "documents", "budget": 20, "spent": spent, "reason": why}
    said = f"budget: {spent} of 20 documents are spent, {20 - spent} are left: {why}"
    assert said in selector(*command).out and said in selector("show", told["manifest"]).out
    assert "budget:" not in selector("show", made.uri).out, "all of it is spent there"


def test_a_selector_that_waits_ends_with_0_and_what_it_waits_for_is_said(made: Made, elsewhere: Path) -> None:
    policy = policy_with(made, elsewhere, "readability")
    command = ["run", policy, "--root", made.root, "--executor", "local", "--set"]
    command += ["select.using=plugins_of_a_test:Waits", "--set", "select.budget.documents=60"]
    ended = selector(*command, "--json")
    assert ended.code == 0 and list(ended.json)[6:] == ["shortfall", "waiting", "scores"]
    assert ended.json["waiting"] == "round 2 needs feedback on 3,334 documents"
    said = (
        "waiting: round 2 needs feedback on 3,334 documents. What is decided so far is here; the same command goes on."
    )
    assert said in selector(*command).out and said in selector("show", ended.json["manifest"]).out


def test_visits_that_the_order_does_not_make_are_said_with_their_reason(made: Made, elsewhere: Path) -> None:
    policy = policy_with(made, elsewhere, "readability")
    command = [
        "run",
        policy,
        "--root",
        made.root,
        "--executor",
        "local",
        "--set",
        "order.using=plugins_of_a_test:Leaves",
    ]
    ended = selector(*command)
    assert ended.code == 0 and "order: 17 visits are not made: its window 3 is full" in ended.out
    rows = ended.out.partition("where the rows went")[2].partition("\n\n")[0]
    assert "chosen, and not in the order: its window 3 is full" in rows
    in_corpus, *left, in_manifest = [int(number) for number in re.findall(r" (-?[0-9]+)$", rows, re.MULTILINE)]
    assert in_corpus + sum(left) == in_manifest
    assert re.search(r"^in the manifest \([0-9]+ tokens\) +3$", ended.out, re.MULTILINE)


def test_an_order_that_visits_nothing_is_a_failure_unless_the_policy_allows_it(made: Made, elsewhere: Path) -> None:
    policy = policy_with(made, elsewhere, "readability")
    command = ["run", policy, "--root", made.root, "--executor", "local", "--json"]
    command += ["--set", "order.using=plugins_of_a_test:LeavesAll"]
    ended = selector(*command)
    assert ended.code == 1 and "would be empty: the order makes no visit" in ended.json["error"]["message"]
    assert selector(*command, "--set", "select.allow_empty=true").code == 0


def test_what_a_plug_in_prints_is_not_our_output(made: Made, elsewhere: Path) -> None:
    policy = policy_with(made, elsewhere, "plugins_of_a_test:Loud")
    ended = selector("run", policy, "--root", made.root, "--executor", "local", "--json")
    assert ended.code in (0, 3) and ended.json["digest"] and "I am here" in ended.err


def test_a_plug_in_that_leaves_does_not_take_the_run_for_finished(made: Made, elsewhere: Path) -> None:
    policy = policy_with(made, elsewhere, "plugins_of_a_test:Leaves0")
    ended = selector("run", policy, "--root", made.root, "--executor", "local", "--json")
    assert ended.code == 1 and "SystemExit" in ended.json["error"]["message"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rate=[plugins_of_a_test:Gone]", "select.using=plugins_of_a_test:GoneToo"])
def test_a_plug_in_that_ends_the_process_fails_like_any_other(name: str, made: Made, elsewhere: Path) -> None:
    policy = policy_with(made, elsewhere, "readability")
    command = ["run", policy, "--root", elsewhere / "runs", "--executor", "local", "--json", "--set", name]
    ended = process(*command, env={"PYTHONPATH": f"{elsewhere}:{os.environ.get('PYTHONPATH', '')}"})
    assert ended.code == 1 and "os._exit(0) was called" in ended.json["error"]["message"]


def test_a_process_that_a_plug_in_forks_may_end_as_it_likes(made: Made, elsewhere: Path) -> None:
    policy = policy_with(made, elsewhere, "plugins_of_a_test:Forks")
    ended = selector("run", policy, "--root", made.root, "--executor", "local", "--json")
    assert ended.code == 0 and ended.json["documents"] == 20


def test_sys_exit_in_the_driver_is_a_failure_whatever_it_says(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(_: str) -> Any:
        raise SystemExit(0)

    monkeypatch.setattr("selector.manifest.manifest.Manifest.open", leave)
    ended = selector("verify", made.uri, "--json")
    assert ended.code == 1 and ended.json["error"]["kind"] == "SystemExit"


def test_a_run_that_fails_ends_with_1_and_a_message(made: Made, elsewhere: Path) -> None:
    policy = policy_with(made, elsewhere, "plugins_of_a_test:Short")
    ended = selector("run", policy, "--root", made.root, "--executor", "local")
    assert (ended.code, ended.out) == (1, "") and "Traceback" not in ended.err
    assert re.search(r"^error: .*The rater 'Short' returned 1 rows for a batch of [0-9]+\.", ended.err, re.MULTILINE)


def test_a_fault_of_ours_is_called_one_and_shows_where_if_asked(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(uri: str) -> Any:
        raise ZeroDivisionError(uri)

    monkeypatch.setattr("selector.manifest.manifest.Manifest.open", broken)
    ended = selector("verify", made.uri)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == (
        f"error: ZeroDivisionError: {made.uri}\nThis is a fault of selector's. Run with -v to see where.\n"
    )
    assert "Traceback" in selector("verify", made.uri, "-v").err
    assert selector("verify", made.uri, "--json").json == {
        "error": {"kind": "ZeroDivisionError", "message": made.uri, "exit_code": 1}
    }


@pytest.mark.parametrize(
    ("arguments", "kind", "code", "message"),
    [
        (["show", "nowhere"], "NotFoundError", 4, "There is no manifest at nowhere"),
        (["when", "{uri}", "42"], "UsageError", 2, "'42' is not a doc_id"),
        (["run", "{policy}", "--set", "seed=x"], "PolicyError", 2, "seed: write a whole number"),
        (["run"], "UsageError", 2, "Missing argument 'POLICY'"),
        (["run", "{policy}", "--rooot", "x"], "UsageError", 2, "No such option: --rooot"),
        (["runn"], "UsageError", 2, "No such command 'runn'"),
        ([], "UsageError", 2, "There is no command"),
        (["--no"], "UsageError", 2, "No such option: --no"),
        (["show", "{uri}", "--json=yes"], "UsageError", 2, "Option '--json' does not take a value"),
        (["at", "{uri}", "-1"], "NotFoundError", 4, "There is no position -1"),
    ],
)
def test_a_failure_is_one_json_document_if_asked(
    arguments: list[str], kind: str, code: int, message: str, made: Made
) -> None:
    words = [argument.format(uri=made.uri, policy=made.policy) for argument in arguments]
    ended = selector(*words, "--json")
    assert ended.code == code and list(ended.json) == ["error"] and ended.out.count("\n") == 1
    error = ended.json["error"]
    assert (list(error), error["kind"], error["exit_code"]) == (["kind", "message", "exit_code"], kind, code)
    assert message in error["message"] and message in ended.err
    assert selector("--json", *words).out == ended.out, "before the command or after it"


def needed(command: str) -> list[str]:
    """Words for everything that a command cannot do without."""
    words: list[str] = []
    for parameter in getattr(typer.main.get_command(app), "commands")[command].params:  # noqa: B009
        if parameter.required:
            value = str(next(iter(typing.get_args(parameter.type_descriptor.annotation)), "0"))
            words += [value] if parameter.param_type_name == "argument" else [parameter.opts[0], value]
    return words


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_where_it_failed_if_asked(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(callback: Any) -> Any:
        @functools.wraps(callback)
        def fail(**_: Any) -> None:
            raise errors.SelectorError("it failed")

        return fail

    for info in app.registered_commands:
        monkeypatch.setattr(info, "callback", failing(info.callback))
    words = [command, *needed(command)]
    assert selector(*words).err == "error: it failed\n"
    for asked in ([*words, "-v"], [*words, "--verbose"], ["-v", *words]):
        told = selector(*asked)
        assert told.code == 1 and told.err.startswith("Traceback") and told.err.endswith("error: it failed\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code", "kind"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")]
)
def test_an_interrupted_run_says_how_to_resume_and_the_same_command_finishes_it(
    sent: signal.Signals, code: int, kind: str, made: Made, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_with(made, elsewhere, "plugins_of_a_test:Stuck")
    command = ["run", str(policy), "--root", str(elsewhere / "runs"), "--executor", "local", "--json"]
    calls = elsewhere / "calls"
    environment = {**os.environ, "PYTHONPATH": str(elsewhere), "CALLS": str(calls), "MOST": "2"}
    child = subprocess.Popen(
        [*COMMAND, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    until = time.monotonic() + 90
    while len(list(calls.iterdir())) < 3 and child.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    child.send_signal(sent)
    out, err = child.communicate(timeout=30)
    assert child.returncode == code, err
    assert json.loads(out)["error"] == {"kind": kind, "message": err.splitlines()[-1], "exit_code": code}
    assert err.endswith(f"{kind}. Finished parts are kept: the same command goes on from here.\n")
    assert "Traceback" not in err
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setenv("MOST", "1000")
    told = selector(*command).json
    assert len(list(calls.iterdir())) == 3 + 3, "five parts: two were finished, one was interrupted"
    fresh = selector(*command[:3], elsewhere / "fresh", *command[4:]).json
    assert told["digest"] == fresh["digest"]


@pytest.mark.parametrize("more", [[], pytest.param(["--json"], marks=pytest.mark.slow)], ids=["text", "JSON"])
def test_a_reader_that_has_seen_enough_is_no_error(more: list[str], made: Made) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        ended = subprocess.run(
            [*COMMAND, "show", made.uri, *more], stdout=closed, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ended.returncode, ended.stderr) == (0, "")


READS = """
import os, sys
from selector.engine.store import Store
from selector.manifest import Manifest
manifest, store = Manifest.open(sys.argv[1]), Store.open(os.path.dirname(sys.argv[1]))
before = len(os.listdir("/proc/self/task"))
manifest.files, manifest.rows(0, 20), manifest.verify(), manifest.describe()
doc_id = manifest.at(0)["doc_id"]
manifest.when(doc_id), manifest.explain(doc_id)
seals = [store.find(key) for key in store.seals()]
print(sum(len(store.table(seal, name)) for seal in seals for name in seal.tables))
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_what_reads_parquet_leaves_no_thread_that_could_outlive_the_interpreter(made: Made) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", READS, made.uri], capture_output=True, text=True, check=True, timeout=60
    )
    num_rows, num_threads = map(int, ended.stdout.split())
    assert num_rows > 300 and num_threads == 0


def test_a_process_of_its_own_says_the_same(made: Made) -> None:
    told = process("run", made.policy, "--root", made.root, "--executor", "local", "--json")
    assert told.code == 0 and told.json["digest"] == made.ended.json["digest"]
    refused = process("run", made.policy, "--root", made.root, "--set", "seed=x")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == "error: seed: write a whole number; it is 'x'.\n"


# ---------------------------------------------------------------- documentation


def test_the_command_alone_shows_what_there_is() -> None:
    ended = selector()
    assert ended.code == 2
    for command in (*COMMANDS, *GROUPS):
        assert re.search(rf"^│ {command} ", ended.out + ended.err, re.MULTILINE), command
    assert selector("--version").out == f"{__version__}\n"


@pytest.mark.parametrize("command", [*COMMANDS, *GROUPS])
def test_every_command_has_help_and_every_option_a_sentence(command: str) -> None:
    ended = selector(command, "--help", env={"COLUMNS": "200"})
    assert (ended.code, ended.err) == (0, "")
    group: Any = typer.main.get_command(app)
    for described in leaves(group.commands[command]):
        assert described.help and described.help.endswith(".")
        assert all(option.help for option in described.params if option.opts[0].startswith("-"))
        assert {"--json", "--verbose"} <= {name for option in described.params for name in option.opts}


def leaves(command: Any) -> list[Any]:
    """The commands that a command has below it, or itself."""
    return list(getattr(command, "commands", {"": command}).values())


def test_every_documented_command_exists_and_every_command_is_documented() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    blocks = "\n".join(re.findall(r"```console\n(.*?)```", readme, re.DOTALL))
    documented = re.findall(r"(?:^|&& )selector ([a-z-]+)(.*)$", blocks, re.MULTILINE)
    assert {name for name, _ in documented} == {*COMMANDS, *GROUPS}
    group: Any = typer.main.get_command(app)
    for name, rest in documented:
        known = {word for leaf in leaves(group.commands[name]) for option in leaf.params for word in option.opts}
        options = re.findall(r"(?<= )--?[a-z-]+", rest.partition("#")[0])
        assert set(options) <= known, f"selector {name}{rest}"


EXIT_CODES = (
    "Exit codes: 0 done, 1 the run failed, 2 bad usage or policy, 3 done with quarantined input, 4 not found, "
    "5 cluster or storage unreachable, 130 interrupted, 143 terminated."
)


def test_the_exit_codes_are_documented() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    codes = {cls.exit_code for cls in classes if issubclass(cls, errors.SelectorError)}
    for place in ((Path(__file__).parents[2] / "README.md").read_text("utf-8"), cli.__doc__ or ""):
        assert EXIT_CODES in " ".join(place.split())
    documented = {int(code) for code in re.findall(r"\b[0-9]+\b", EXIT_CODES)}
    assert documented == codes | {0, cli.QUARANTINED, cli.INTERRUPTED, cli.TERMINATED}
