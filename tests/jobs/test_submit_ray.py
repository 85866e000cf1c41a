"""Handing runs to a Ray cluster's job server, which here is one of our own that answers like it."""

import io
import json
import os
import threading
import zipfile
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from command import process, selector, write_policy
from conftest import text_of, write_jsonl
from dashboard import Dashboard, dashboard
from jobs.submit._rest import checked
from jobs.submit.ray import RayTarget
from selector.engine import job as jobs
from selector.engine.job import Job
from selector.engine.target import Parcel
from selector.errors import UnreachableError, UsageError
from selector.storage import open_storage

TOKEN = "a-token-that-nobody-may-see-7f3a"
PARCEL = Parcel(files={"policy.json": b"{}"})


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Dashboard]:
    """A cluster that holds all jobs, and runs none."""
    with dashboard(tmp_path / "board", holds=True) as board:
        yield board


@pytest.fixture(autouse=True)
def without_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "SELECTOR_JOB"):
        monkeypatch.delenv(name, raising=False)


def written(folder: Path, **sections: Any) -> Path:
    write_jsonl(folder / "corpus.jsonl", [{"text": text_of(n, 8)} for n in range(40)])
    policy = {"corpus": {"paths": [str(folder / "corpus.jsonl")], "rows_per_part": 10}}
    policy |= {"rate": ["length"], "select": {"budget": {"fraction": 0.5}}, **sections}
    return write_policy(folder, policy)


def job_of(number: int = 0, **values: Any) -> Job:
    return Job(id=f"selector-{number:012x}", target="ray=http://x", root="/root", **values)


def submitted(board: Dashboard, policy: Path, *more: object) -> dict[str, Any]:
    ended = selector(
        "submit", policy, "--on", f"ray={board.address}", "--root", policy.parent / "root", "--json", *more
    )
    assert ended.code == 0, ended.out
    return ended.json


@contextmanager
def in_state(board: Dashboard, job_id: str, **values: Any) -> Generator[None]:
    """The job as if this had become of it."""
    board.jobs[job_id] |= values
    yield


def test_a_second_submit_of_the_same_policy_attaches(board: Dashboard, tmp_path: Path) -> None:
    policy = written(tmp_path)
    first, second = submitted(board, policy), submitted(board, policy)
    assert first["new"] and not second["new"] and first["job"] == second["job"] == first["run"]
    assert list(board.jobs) == [first["job"]] and second["state"] == "queued"
    assert submitted(board, policy, "--set", "seed=8")["job"] != first["job"]


def test_a_job_that_is_to_explain_its_resources_is_no_other_one(board: Dashboard, tmp_path: Path) -> None:
    policy = written(tmp_path)
    first = submitted(board, policy, "--explain-resources")
    assert not submitted(board, policy)["new"]
    assert board.jobs[first["job"]]
    (package,) = board.packages.values()
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        assert "--explain-resources" in json.loads(archive.read("start.json"))
    ended = selector("run", policy, "--root", tmp_path / "root", "--executor", "local", "--explain-resources")
    assert ended.code == 2 and "the executor local has none" in ended.err


def test_an_id_is_short_and_begins_with_a_letter_whatever_its_digits() -> None:
    ids = [Job.id_of(number, "/root", {}) for number in range(64)]
    assert {job_id[len(jobs.PREFIX)] for job_id in ids} >= {"a", "0"}
    for job_id in ids:
        job = Job(id=job_id, target="", root="/root")
        assert job_id.startswith("selector-") and len(job_id) == 21 and len(job.attempt(1000).id) <= 47
        assert jobs.number_of(job_id) == 1 and jobs.number_of(job.attempt(12).id) == 12
        assert job.attempt(2).attempt(1) == job


def test_what_is_typed_next_is_printed(board: Dashboard, tmp_path: Path) -> None:
    policy = written(tmp_path)
    out = selector("submit", policy, "--on", f"ray={board.address}", "--root", tmp_path / "root").out
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    job_id = lines["run"]
    assert lines["job"] == f"{job_id}  is handed over"
    for verb in ("watch", "logs", "cancel"):
        assert lines[verb] == f"selector {verb} {job_id} --root {tmp_path / 'root'}"


def test_twenty_at_once_make_one_job(board: Dashboard, tmp_path: Path) -> None:
    target, storage = RayTarget(address=board.address), open_storage(tmp_path / "root")
    from selector.engine.submission import submit

    start = threading.Barrier(20)

    def one(_: int) -> bool:
        start.wait()
        return submit(storage, target, job_of(), PARCEL, reopened=lambda _: target).is_new

    with ThreadPoolExecutor(20) as threads:
        assert sum(threads.map(one, range(20))) == 1
    assert list(board.jobs) == [job_of().id]


def test_twenty_posts_of_one_id_make_one_job_and_no_error(board: Dashboard) -> None:
    """Where not even the root is shared: Ray answers all but one of them 500."""
    target, start = RayTarget(address=board.address), threading.Barrier(20)

    def one(_: int) -> None:
        start.wait()
        target.start(job_of(), PARCEL, None)

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(one, range(20)))
    assert list(board.jobs) == [job_of().id]


@pytest.mark.parametrize("ended", [{"status": "FAILED", "driver_exit_code": 1}, {"status": "STOPPED"}])
def test_after_a_failed_or_stopped_job_the_same_command_begins_the_next_attempt(
    ended: dict[str, Any], board: Dashboard, tmp_path: Path
) -> None:
    policy = written(tmp_path)
    first = submitted(board, policy)["job"]
    with in_state(board, first, **ended):
        second = submitted(board, policy)
    assert second["new"] and second["job"] == f"{first}-a2" and second["run"] == first
    assert not submitted(board, policy)["new"]
    with in_state(board, f"{first}-a2", **ended):
        assert submitted(board, policy)["job"] == f"{first}-a3"


def test_a_finished_job_is_begun_again_only_on_request(board: Dashboard, tmp_path: Path) -> None:
    policy = written(tmp_path)
    first = submitted(board, policy)["job"]
    with in_state(board, first, status="SUCCEEDED", driver_exit_code=0):
        attached = submitted(board, policy)
        assert not attached["new"] and attached["state"] == "finished"
        assert submitted(board, policy, "--again")["job"] == f"{first}-a2"


def test_a_job_that_waits_is_cancelled_by_our_mark(board: Dashboard, tmp_path: Path) -> None:
    """Ray neither stops nor deletes it; once it has its turn, it ends before it has begun."""
    policy = written(tmp_path)
    first = submitted(board, policy)["job"]
    ended = selector("cancel", first, "--root", tmp_path / "root", "--wait", 0, "--json")
    assert ended.json["state"] == "cancelled" and board.jobs[first]["status"] == "PENDING"
    assert selector("watch", first, "--root", tmp_path / "root").code == 143
    env = {"SELECTOR_JOB": first}
    begun = process("run", policy, "--root", tmp_path / "root", "--executor", "local", env=env)
    assert begun.code == 143 and not list((tmp_path / "root").glob("*/plan.json"))
    assert submitted(board, policy)["job"] == f"{first}-a2"


@pytest.mark.parametrize(
    ("trouble", "num_jobs"), [(["reset"], 1), (["503"], 1), (["429", "reset"], 1), (["", "", "", "lost reply"], 1)]
)
def test_a_server_that_stumbles_is_asked_again(trouble: list[str], num_jobs: int, board: Dashboard) -> None:
    board.trouble = trouble
    RayTarget(address=board.address).start(job_of(), PARCEL, None)
    assert len(board.jobs) == num_jobs


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (["503"] * 9, "does not answer .it answered 503"),
        (["", "", "500"], "did not take the job's files .500.: RuntimeError: no agent"),
        (["redirect"], "sends us to another address"),
        (["401"], "does not let us in"),
    ],
)
def test_a_server_that_refuses_is_told_of_in_words(trouble: list[str], message: str, board: Dashboard) -> None:
    board.trouble = trouble
    with pytest.raises(UnreachableError, match=message):
        RayTarget(address=board.address).start(job_of(), PARCEL, None)
    assert not board.jobs


def test_what_a_cluster_did_not_take_the_same_command_hands_over_at_once(board: Dashboard, tmp_path: Path) -> None:
    policy = written(tmp_path)
    board.trouble = ["401"]
    refused = selector("submit", policy, "--on", f"ray={board.address}", "--root", tmp_path / "root")
    assert refused.code == 5 and not board.jobs and not selector("runs", "--root", tmp_path / "root").out
    assert submitted(board, policy)["new"] and len(board.jobs) == 1


def test_nobody_at_the_address_is_exit_code_5(tmp_path: Path) -> None:
    ended = selector("submit", written(tmp_path), "--on", "ray=http://127.0.0.1:9", "--root", tmp_path / "root")
    assert ended.code == 5 and "does not answer" in ended.err


@pytest.mark.parametrize("by", ["environment", "file"])
def test_a_token_goes_into_a_header_and_nowhere_else(by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "file":
        (tmp_path / "token").write_text(f"{TOKEN}\n", "utf-8")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    else:
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with dashboard(tmp_path / "board", holds=True, token=TOKEN) as board:
        policy = written(tmp_path)
        told = submitted(board, policy)
        selector("cancel", told["job"], "--root", tmp_path / "root", "--wait", 0)
        assert board.jobs and TOKEN not in json.dumps(told) + json.dumps(board.jobs) + "".join(board.requests)
        assert not any(TOKEN.encode() in body for body in [*board.bodies, *board.packages.values()])
    assert TOKEN not in "".join(path.read_text("utf-8") for path in (tmp_path / "root").rglob("*") if path.is_file())


HOSTILE = (
    "http://user:secret@head:8265", "http://:secret@head:8265", "http://head:8265?token=secret", "http://head#secret",
    "http://head:8265/../x", "ftp://head:8265", "file:///etc/passwd", "head:8265", "http://", "http://:8265", "//head",
    "http://head:8265/%2e%2e", "http://head:99999", "http://head:0", "http://he ad:8265", "http://head:8265\r\nX: y",
    "http://head\\@evil:8265", "http://head:8265//x", "gopher://head:8265", "http://hëad:8265",
)  # fmt: skip


@pytest.mark.parametrize("address", HOSTILE)
def test_an_address_that_is_more_than_a_server_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="address") as raised:
        checked(address, "http://head:8265")
    assert "secret" not in str(raised.value)
    with pytest.raises(UsageError):
        RayTarget(address=address)


def test_a_plug_in_of_ones_own_travels_with_the_modules_it_imports(
    board: Dashboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "mine_helps.py").write_text("SIGN = '!'\n", "utf-8")
    (modules / "mine_rates.py").write_text(
        "from dataclasses import dataclass\nimport pyarrow as pa\nimport pyarrow.compute as pc\n"
        "import mine_helps\nfrom selector.rate import Rater\n\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Signs(Rater):\n    '''Counts.'''\n"
        "    higher_is = 'rarer'\n    def rate(self, batch):\n"
        "        return pa.record_batch({'score': pc.count_substring(batch['text'], mine_helps.SIGN)})\n",
        "utf-8",
    )
    monkeypatch.syspath_prepend(modules)
    submitted(board, written(tmp_path, rate=["mine_rates:Signs"]))
    import io
    import zipfile

    (package,) = board.packages.values()
    names = zipfile.ZipFile(io.BytesIO(package)).namelist()
    assert {"mine_rates.py", "mine_helps.py", "policy.json", "start.py", "job.json"} <= set(names)
    assert not any(name.startswith(("selector/", "jobs/", "pyarrow")) for name in names)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"corpus": {"paths": ["corpus.jsonl"]}}, "corpus.paths: 'corpus.jsonl' is relative"),
        ({"select": {"budget": {"documents": 1}, "exclude": ["runs/2f1c"]}}, "exclude.0: 'runs/2f1c' is relative"),
        ({"embed": {"model": "./model"}}, "embed.model: './model' is relative"),
    ],
)
def test_a_relative_path_is_refused_with_the_whole_one(
    sections: dict[str, Any], message: str, board: Dashboard, tmp_path: Path
) -> None:
    ended = selector(
        "submit", written(tmp_path, **sections), "--on", f"ray={board.address}", "--root", tmp_path / "root"
    )
    assert ended.code == 2 and message in ended.err and os.getcwd() in ended.err and not board.requests


def test_a_root_that_is_not_on_this_machine_is_refused_before_anything_is_made(
    board: Dashboard, tmp_path: Path
) -> None:
    root = tmp_path / "not" / "mounted" / "runs"
    ended = selector("submit", written(tmp_path), "--on", f"ray={board.address}", "--root", root)
    assert ended.code == 2 and "is not on this machine" in ended.err and not root.parent.exists() and not board.jobs


@pytest.mark.slow
def test_a_job_goes_from_submit_to_its_manifest_and_is_watched_from_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster runs it with what travelled; afterwards the root alone tells all of it, but for the token."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    policy, root = written(tmp_path), tmp_path / "root"
    with dashboard(tmp_path / "board", token=TOKEN) as board:
        told = submitted(board, policy, "--actors", 1)
        assert not any(TOKEN.encode() in command for command in commands())
        ended = process("watch", told["job"], "--root", root)
        assert ended.code == 0 and "finished" in ended.out, board.log(told["job"])
        assert selector("logs", told["job"], "--root", root, "--printed").out.count('"digest"') == 1
    view = selector("watch", told["job"], "--root", root, "--json").json
    assert view["state"] == "finished" and Path(view["manifest"]).name == view["run"]
    assert [row["name"] for row in view["done"]][-3:] == ["select", "order", "manifest"]
    events = selector("logs", view["run"], "--root", root, "--json").json["events"]
    assert events[0]["event"] == "begun" and events[-1]["event"] == "finished"
    assert sum(event["event"] == "part" and event["step"] == "ingest" for event in events) == 4
    (listed,) = selector("runs", "--root", root, "--json").json["runs"]
    assert (listed["id"], listed["state"]) == (told["job"], "finished")
    assert jobs.the(open_storage(root), told["job"]).requires["selector"]
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 50 and not any(
        TOKEN.encode() in data for data in [*files, ended.out.encode(), ended.err.encode()]
    )


def commands() -> Iterator[bytes]:
    """The command line of every process of this machine."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except OSError:
            continue
