"""Jobs on a real Slurm of two nodes, where its programs are installed: `apt install slurmctld slurmd slurm-client`.

What cannot be had on one machine is a Ray over two nodes: `ray symmetric-run` runs on one of them here.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from command import process, selector, write_policy
from conftest import text_of, write_jsonl
from lookout import listening
from slurm import Slurm, free_ports, is_apart_possible, missing, slurm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=f"Slurm is not installed here: there is no {missing()}"),
]
ROOT = Path(__file__).parents[2]
GATE = """import time
from dataclasses import dataclass
from pathlib import Path
import pyarrow as pa
from selector.rate import Rater

@dataclass(frozen=True, kw_only=True)
class Gate(Rater):
    higher_is = "harder"
    at: str

    @property
    def needs(self):
        return ("num_tokens",)

    def prepare(self):
        while not Path(self.at).exists():
            time.sleep(0.05)

    def rate(self, batch):
        return pa.record_batch({"score": batch["num_tokens"]})
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(tmp_path_factory.mktemp("slurm") / "s") as running:
        yield running


@pytest.fixture
def submit(cluster: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    return handing_over(cluster, tmp_path, monkeypatch)


def handing_over(cluster: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Hands a policy over: one whose rater waits for the file `open`."""
    (tmp_path / "gate.py").write_text(GATE, "utf-8")
    write_jsonl(tmp_path / "corpus.jsonl", [{"text": text_of(n, 8)} for n in range(40)])
    policy = {"corpus": {"paths": [str(tmp_path / "corpus.jsonl")], "rows_per_part": 5}}
    policy |= {"rate": [{"gate:Gate": {"at": str(tmp_path / "open")}}], "select": {"budget": {"fraction": 0.5}}}
    written = write_policy(tmp_path, policy)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{cluster.env['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def submitted(*options: str) -> Any:
        words = ["submit", written, "--on", "slurm=long", "--root", tmp_path / "root", "--out", tmp_path / "files"]
        for option in ("cpus=1", "memory=1G", "time=10", *options):
            words += ["--with", option]
        ended = selector(*words, "--apply", "--json")
        assert ended.code == 0, ended.err
        return ended.json

    return submitted


def until(folder: Path, job: str, state: str) -> Any:
    """What is seen of a job once it is so."""
    view: Any = None
    for _ in range(600):
        view = selector("watch", job, "--root", folder / "root", "--json").json
        if view["state"] == state:
            return view
        assert not view["is_over"], (view, logs(folder))
        time.sleep(0.1)
    raise AssertionError((view, logs(folder)))


def logs(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8")[-3000:] for path in sorted((folder / "files").glob("slurm-*.log"))}


def test_its_daemons_listen_on_loopback_alone(cluster: Slurm) -> None:
    addresses = [one for daemon in cluster.processes for one in listening(Path(f"/proc/{daemon.pid}"))]
    assert len(addresses) >= 3 and {one.partition(":")[0] for one in addresses} == {"0100007F"}


def test_an_array_over_two_nodes_shares_the_parts_and_a_last_job_selects(
    submit: Callable[..., Any], cluster: Slurm, tmp_path: Path
) -> None:
    first = submit("shares=2")
    assert first["new"]
    view = until(tmp_path, first["job"], "running")
    assert not submit("shares=2")["new"]  # a second submit finds the first
    assert {*cluster.ask("squeue", "--noheader", "--states=R,PD", "--format", "%j").split()} == {first["job"]}
    (tmp_path / "open").touch()
    view = until(tmp_path, first["job"], "finished")
    assert [row["name"] for row in view["done"]][-1] == "manifest" and view["done"][0]["cached"]
    members = [json.loads(path.read_bytes()) for path in tmp_path.glob(f"root/journals/{first['job']}/*/progress.json")]
    assert [member["ended"] for member in members] == ["finished"] * 3, logs(tmp_path)
    again = submit("shares=2")
    assert not again["new"] and again["state"] == "finished"


def test_a_job_that_is_cancelled_ends_cleanly_and_the_same_command_goes_on(
    submit: Callable[..., Any], cluster: Slurm, tmp_path: Path
) -> None:
    job = submit("shares=1")["job"]
    until(tmp_path, job, "running")
    ended = process("cancel", job, "--root", tmp_path / "root", "--wait", "60", "--json")
    assert ended.code == 0, (ended.err, logs(tmp_path))
    assert until(tmp_path, job, "cancelled")["state"] == "cancelled"
    assert cluster.ask("squeue", "--noheader", "--name", job, "--states=PD,R,CG") == ""  # the one that selects too
    assert "Terminated. Finished parts are kept" in "".join(logs(tmp_path).values())
    (tmp_path / "open").touch()
    second = submit("shares=1")
    assert second["job"] == f"{job}-a2" and until(tmp_path, second["job"], "finished")["manifest"]


def test_a_member_is_told_before_its_time_is_over_and_the_last_job_goes_on(
    submit: Callable[..., Any], tmp_path: Path
) -> None:
    job = submit("shares=1", "time=1")["job"]  # a minute, and it is told a minute before
    for _ in range(900):
        if "Terminated. Finished parts are kept" in "".join(logs(tmp_path).values()):
            break
        time.sleep(0.1)
    assert not (tmp_path / "open").exists() and "Terminated" in "".join(logs(tmp_path).values())
    (tmp_path / "open").touch()
    done = {row["name"]: row["cached"] for row in until(tmp_path, job, "finished")["done"]}
    assert done["ingest"] and done["dedup"] and not done["rate/Gate"]


def test_why_a_job_waits_is_said_and_it_is_taken_back(
    submit: Callable[..., Any], cluster: Slurm, tmp_path: Path
) -> None:
    job = submit("nodes=3")["job"]
    view = until(tmp_path, job, "queued")
    assert "pending because" in view["detail"]
    assert process("cancel", job, "--root", tmp_path / "root", "--json").code == 0
    assert cluster.ask("squeue", "--noheader", "--name", job, "--states=PD,R,CG") == ""


@pytest.mark.skipif(not is_apart_possible(), reason="symmetric-run stops every Ray that it sees: no way to hide others")
def test_ray_runs_within_a_job_and_its_token_is_gone_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").touch()
    before = {*Path("/tmp").glob("selector-????????")}
    with slurm(tmp_path / "s", is_apart=True) as cluster:
        submit = handing_over(cluster, tmp_path, monkeypatch)
        job = submit("nodes=1", "cpus=2", f"port={free_ports(1)[0]}")["job"]
        for _ in range(1200):
            if not cluster.ask("squeue", "--noheader", "--states=PD,R,CG"):
                break
            time.sleep(0.1)
        view = until(tmp_path, job, "finished")
    assert view["done"][-1]["name"] == "manifest" and not [*tmp_path.glob("files/ray-token-*")]
    assert {*Path("/tmp").glob("selector-????????")} <= before, logs(tmp_path)  # nor is what Ray wrote there
