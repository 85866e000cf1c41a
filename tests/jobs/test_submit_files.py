"""Handing runs to Kubernetes and to Slurm: the files that are written, and what is asked of their commands.

Neither is on this machine. Their commands are stand-ins here: `kubectl` answers from a file, and `sbatch` runs the
script at once, as Slurm would with nothing else to do.
"""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from command import selector, write_policy
from conftest import text_of, write_jsonl
from jobs.submit._parcel import files
from jobs.submit.k8s import KubernetesTarget
from jobs.submit.slurm import SlurmTarget
from selector.engine.job import Job
from selector.engine.target import Parcel
from selector.errors import UnreachableError, UsageError

JOB = Job(id="selector-0123456789ab", target="k8s", root="s3://bucket/runs", requires={"selector": "0.2.0"})
PARCEL = Parcel(files={"policy.json": b"{}", "mine/__init__.py": b"", "mine/rates.py": b"X = 1\n"})
ROOT = Path(__file__).parents[2]


def written(folder: Path) -> Path:
    write_jsonl(folder / "corpus.jsonl", [{"text": text_of(n, 8)} for n in range(40)])
    policy = {"corpus": {"paths": [str(folder / "corpus.jsonl")], "rows_per_part": 5}}
    return write_policy(folder, {**policy, "rate": ["length"], "select": {"budget": {"fraction": 0.5}}})


def tool(folder: Path, name: str, body: str) -> Path:
    """A command of this name, in Python; `calls` beside it lists what it was called with."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    head = f"#!{sys.executable}\nimport json, os, subprocess, sys\nargs = sys.argv[1:]\n"
    head += f"open({str(folder / 'calls')!r}, 'a').write(json.dumps([{name!r}, *args]) + '\\n')\n"
    path.write_text(head + body, "utf-8")
    path.chmod(0o755)
    return path


def calls(folder: Path) -> list[list[str]]:
    path = folder / "calls"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def documents(target: KubernetesTarget, job: Job = JOB) -> tuple[Any, Any]:
    files = target.written(job, PARCEL)
    assert files is not None
    config, *_, ray_job = yaml.safe_load_all(files.files["rayjob.yaml"])
    return config, ray_job


def test_a_ray_job_carries_its_files_and_mounts_them_in_every_pod() -> None:
    config, ray_job = documents(KubernetesTarget(image="registry/selector:0.2.0", gpus=1, queue="team-a"))
    cluster = ray_job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    for pod in (cluster["headGroupSpec"]["template"]["spec"], workers["template"]["spec"]):
        volume = next(volume for volume in pod["volumes"] if volume["name"] == "job")
        by_path = {item["path"]: item["key"] for item in volume["configMap"]["items"]}
        assert base64.b64decode(config["binaryData"][by_path["mine/rates.py"]]) == b"X = 1\n"
        assert {"policy.json", "start.py", "job.json"} <= set(by_path)
        assert pod["securityContext"]["runAsNonRoot"] and pod["terminationGracePeriodSeconds"] == 60
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert ray_job["metadata"]["name"] == ray_job["spec"]["jobId"] == JOB.id and len(JOB.id) <= 47
    assert ray_job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert ray_job["spec"]["shutdownAfterJobFinishes"] and cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert all(re.fullmatch(r"[-._a-zA-Z0-9]+", key) for key in config["binaryData"])


@pytest.mark.parametrize(
    ("claim", "mount", "root", "message"),
    [
        (None, "/shared", "/shared/runs", "pods have none of this machine's"),
        ("data", "/shared", "/else/runs", "does not lie below /shared"),
        ("data", "/else", "/elsewhere/runs", "does not lie below /else"),
    ],
)
def test_a_root_that_pods_do_not_have_is_refused(claim: str | None, mount: str, root: str, message: str) -> None:
    target = KubernetesTarget(image="image", claim=claim, mount=mount)
    with pytest.raises(UsageError, match=message):
        target.check(Job(id=JOB.id, target="k8s", root=root), PARCEL)


@pytest.mark.parametrize(
    ("claim", "path", "is_warned"),
    [
        (None, "/shared/c.jsonl", True),
        ("data", "/shared/*.jsonl", False),
        ("data", "/shared", False),
        ("data", "/shared2/c.jsonl", True),
        ("data", "/shared/../c.jsonl", True),
    ],
)
def test_a_path_that_pods_do_not_have_is_warned_of(
    claim: str | None, path: str, is_warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    parcel = Parcel(files={}, paths=(("corpus.paths", path),))
    KubernetesTarget(image="image", claim=claim).check(JOB, parcel)
    warnings = [record.getMessage() for record in caplog.records]
    assert [warning.startswith(f"corpus.paths: {path} lies in no volume") for warning in warnings] == [True] * is_warned


def test_what_is_too_large_for_a_config_map_is_refused() -> None:
    parcel = Parcel(files={"big.py": bytes(1_000_000)}, carries=("big",))
    with pytest.raises(UsageError, match="Install big in the image"):
        KubernetesTarget(image="image").check(JOB, parcel)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (KubernetesTarget, {"image": "a; rm -rf /"}),
        (KubernetesTarget, {"image": "a", "namespace": "A b"}),
        (KubernetesTarget, {"image": "a", "memory": "lots"}),
        (KubernetesTarget, {"image": "a", "workers": 0}),
        (KubernetesTarget, {"image": "a", "queue": "x\ny: z"}),
        (SlurmTarget, {"partition": "a\n#SBATCH --uid=0"}),
        (SlurmTarget, {"time": "$(reboot)"}),
        (SlurmTarget, {"venv": "/a'; reboot"}),
        (SlurmTarget, {"nodes": 0}),
        (SlurmTarget, {"memory": "1G\n"}),
    ],
)
def test_an_option_that_would_be_read_as_something_else_is_refused(make: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--on"):
        make(**options)


STATES: list[tuple[Mapping[str, Any], list[Mapping[str, Any]], str, str]] = [
    ({}, [], "queued", "its cluster starts"),
    ({"jobDeploymentStatus": "Suspended"}, [], "queued", "a queue holds it"),
    (
        {"jobDeploymentStatus": "Initializing"},
        [{"status": {"conditions": [{"reason": "Unschedulable", "message": "0/3 nodes have nvidia.com/gpu"}]}}],
        "queued",
        "pending because 0/3 nodes have nvidia.com/gpu",
    ),
    ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, [], "running", ""),
    ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, [], "finished", ""),
    (
        {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": "it failed"},
        [
            {
                "metadata": {"name": "head"},
                "status": {"containerStatuses": [{"lastState": {"terminated": {"reason": "OOMKilled"}}}]},
            }
        ],
        "failed",
        "the pod head was killed for memory",
    ),
    ({"jobDeploymentStatus": "Failed", "message": "it failed"}, [], "failed", "it failed"),
]


@pytest.mark.parametrize(("status", "pods", "word", "detail"), STATES)
def test_kubernetes_tells_why_a_job_waits_or_failed(
    status: Mapping[str, Any],
    pods: list[Mapping[str, Any]],
    word: str,
    detail: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = json.dumps({"rayjob": {"status": status}, "pods": {"items": pods}})
    tool(tmp_path / "bin", "kubectl", f"print(json.dumps(json.loads({answers!r})[args[1]]))\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    state = KubernetesTarget(image="image").state(JOB.id)
    assert state is not None and state.word == word and detail in state.detail


def test_kubectl_creates_a_job_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "there"
    body = f"there = {str(there)!r}\n"
    body += "if args[0] == 'get' and not os.path.exists(there): sys.exit('Error (NotFound)')\n"
    body += "if args[0] == 'get': print('{}')\nif args[0] == 'create': open(there, 'x').write(sys.stdin.read())\n"
    tool(tmp_path / "bin", "kubectl", body)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    target = KubernetesTarget(image="image", namespace="team")
    target.start(JOB, PARCEL, None)
    target.start(JOB, PARCEL, None)
    assert [call[2] for call in calls(tmp_path / "bin") if call[2] != "pods"] == ["rayjob", "-f", "rayjob"]
    assert JOB.id in there.read_text("utf-8")


def test_kubectl_deletes_all_that_a_job_is_made_of_and_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tmp_path / "bin", "kubectl", "")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    target = KubernetesTarget(image="image", namespace="team")
    target.kill(JOB.id)
    ((_, verb, kinds, *words),) = calls(tmp_path / "bin")
    written = target.written(JOB, PARCEL)
    assert written is not None and verb == "delete" and words[:4] == ["-l", f"selector/job={JOB.id}", "-n", "team"]
    created = list(yaml.safe_load_all(written.files["rayjob.yaml"]))
    assert {document["kind"].lower() for document in created} == {*kinds.split(",")}
    assert all(document["metadata"]["labels"]["selector/job"] == JOB.id for document in created)


def test_a_cluster_whose_command_is_not_here_is_exit_code_5(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for target in (KubernetesTarget(image="image"), SlurmTarget()):
        with pytest.raises(UnreachableError, match="is not installed here"):
            target.state(JOB.id)


def slurm(folder: Path) -> Path:
    """Commands of a Slurm that has one node and nothing else to do: a script runs as it is handed over."""
    state = folder / "jobs.json"
    state.parent.mkdir(exist_ok=True)
    state.write_text("[]", "utf-8")
    runs = (
        f"state = {str(state)!r}\njobs = json.load(open(state))\n"
        "script = open(args[-1]).read()\n"
        "options = dict(line[len('#SBATCH --'):].split('=', 1) for line in script.splitlines()\n"
        "    if line.startswith('#SBATCH --') and '=' in line)\n"
        "number = len(jobs) + 1\n"
        "members = int(options['array'].split('-')[1]) if 'array' in options else 0\n"
        "codes = []\n"
        "for member in range(1, members + 1) or [0]:\n"
        "    env = {**os.environ, 'SLURM_SUBMIT_DIR': os.getcwd(), 'SLURM_JOB_ID': str(number)}\n"
        "    if member:\n"
        "        env |= {'SLURM_ARRAY_TASK_ID': str(member), 'SLURM_ARRAY_TASK_COUNT': str(members)}\n"
        "    with open(f'slurm-{number}-{member}.log', 'wb') as log:\n"
        "        codes.append(subprocess.run(['bash', args[-1]], env=env, stdout=log, stderr=log).returncode)\n"
        "jobs.append([options['job-name'], 'FAILED' if any(codes) else 'COMPLETED'])\n"
        "json.dump(jobs, open(state, 'w'))\nprint(number)\n"
    )
    tool(folder, "sbatch", runs)
    tool(folder, "squeue", "")
    told = f"name = args[args.index('--name') + 1]\nfor one, word in json.load(open({str(state)!r})):\n"
    tool(folder, "sacct", told + "    if one == name: print(word)\n")
    return folder


@pytest.mark.slow
def test_slurms_array_shares_the_parts_and_the_last_job_selects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_, root, folder = slurm(tmp_path / "bin"), tmp_path / "root", tmp_path / "files"
    monkeypatch.setenv("PATH", f"{bin_}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    words = ("submit", written(tmp_path), "--on", "slurm", "--with", "shares=2", "--root", root, "--out", folder)
    told = selector(*words, "--apply", "--json").json
    logs = {path.name: path.read_text("utf-8") for path in folder.glob("slurm-*.log")}
    assert set(logs) == {"slurm-1-1.log", "slurm-1-2.log", "slurm-2-0.log"}
    view = selector("watch", told["job"], "--root", root, "--json").json
    assert view["state"] == "finished", logs
    assert [row["cached"] for row in view["done"]][:4] == [True] * 4  # the members did them
    members = [json.loads(path.read_bytes()) for path in root.glob(f"journals/{told['job']}/*/progress.json")]
    assert len(members) == 3 and {member["ended"] for member in members} == {"finished"}
    again = selector(*words, "--apply", "--json").json
    assert not again["new"] and again["state"] == "finished"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    other = selector(*words, "--with", "shares=3", "--apply", "--json")
    assert not other.json["new"] and "handed over to slurm shares=2, and not again to slurm shares=3" in other.err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert sum(call[0] == "sbatch" for call in calls(bin_)) == 2


@pytest.mark.parametrize("arguments", [(), ("--share", "2/8"), ("--executor", "local")])
def test_what_limits_a_policy_of_somebody_elses_travels_with_it(arguments: tuple[str, ...], tmp_path: Path) -> None:
    options = {"allowed": ["/data", "s3://bucket"], "no-foreign-plugins": True, "deadline": 60.0}
    contents = files(Job(id=JOB.id, target="slurm", root="/r", options=options), PARCEL)
    contents["selector/__init__.py"] = b""
    contents["selector/__main__.py"] = b"import sys\ndef main():\n    print(*sys.argv)\n"
    for name, data in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, tmp_path / "start.py", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    limits = f"{tmp_path}/policy.json --json --allowed /data --allowed s3://bucket --deadline 60.0 --no-foreign-plugins"
    verb = "work" if "--share" in arguments else "run"
    assert ended.stdout.split() == ["selector", verb, *limits.split(), *arguments]


def test_actors_are_refused_where_shares_work_without_ray() -> None:
    job = Job(id=JOB.id, target="slurm", root="/r", options={"actors": 3})
    with pytest.raises(UsageError, match="--actors is for workers on Ray"):
        SlurmTarget(shares=2).check(job, PARCEL)
    SlurmTarget().check(job, PARCEL)


def test_what_slurm_is_handed_is_written_and_said_without_apply(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    ended = selector(
        "submit", written(tmp_path), "--on", "slurm=long", "--with", "nodes=4", "--with", "gpus=2", "--root",
        tmp_path / "root", "--out", folder,
    )  # fmt: skip
    assert ended.code == 0 and "is written, and not started" in ended.out and not (tmp_path / "root").exists()
    script = (folder / "run.sbatch").read_text("utf-8")
    for line in (
        "--partition=long",
        "--nodes=4",
        "--gpus-per-node=2",
        "--signal=B:TERM@60",
        "--requeue",
        "--exclusive",
    ):
        assert f"#SBATCH {line}\n" in script
    assert script.count("srun --kill-on-bad-exit=1 bash -c ") == script.count("; ray symmetric-run --address") == 1
    for name in ("run.sbatch", "submit.sh"):
        assert subprocess.run(["bash", "-n", folder / name], check=False).returncode == 0
    words = ("submit", tmp_path / "policy.yaml", "--on", "slurm=long", "--root", tmp_path / "root", "--out", folder)
    for shares, scripts in ((4, ["select", "work"]), (2, ["select", "work"]), (0, ["run"])):
        ended = selector(*words, "--with", f"shares={shares}")
        assert "The files for slurm=long" in ended.err and "are replaced" in ended.err
        assert sorted(path.stem for path in folder.glob("*.sbatch")) == scripts
        assert not shares or f"--array=1-{shares}\n" in (folder / "work.sbatch").read_text("utf-8")
    assert selector(*words, "--with", "shares=0").err == ""


@pytest.mark.parametrize(
    ("queued", "accounted", "word", "detail"),
    [
        ("PENDING|Resources", "", "queued", "pending because Resources"),
        ("PENDING|Dependency\nRUNNING|None", "", "running", ""),
        ("", "OUT_OF_MEMORY", "failed", "killed for memory"),
        ("", "CANCELLED by 0", "cancelled", ""),
        ("", "COMPLETED", "finished", ""),
    ],
)
def test_slurm_tells_why_a_job_waits_or_failed(
    queued: str, accounted: str, word: str, detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tmp_path / "bin", "squeue", f"print({queued!r})\n")
    tool(tmp_path / "bin", "sacct", f"print({accounted!r})\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    state = SlurmTarget().state(JOB.id)
    assert state is not None and state.word == word and detail in state.detail


def test_a_slurm_job_is_ended_by_its_own_numbers_and_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tmp_path / "bin", "squeue", "print('7_1|RUNNING\\n7_2|PENDING\\n8|PENDING')\n")
    tool(tmp_path / "bin", "scancel", "")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    SlurmTarget().stop(JOB.id)
    cancelled = [call[1:] for call in calls(tmp_path / "bin") if call[0] == "scancel"]
    assert cancelled == [["--batch", "--signal=TERM", "7_1"], ["7_2"], ["8"]]
    assert all(call[call.index("--name") + 1] == JOB.id for call in calls(tmp_path / "bin") if call[0] == "squeue")
