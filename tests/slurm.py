"""A real Slurm of two nodes on this machine, where its programs are installed: in a folder and on ports of its own.

It is never installed here, and no other Slurm is touched: what is started is ended by its own process, what is
submitted by its own number.
"""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

NODES = ("a", "b")
PROGRAMS = ("slurmctld", "slurmd", "slurmstepd", "sbatch", "squeue", "scancel", "scontrol", "srun")
APART = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
"""Begins a command that sees no processes but its own, so that what it ends is its own."""

_WAITED = 60.0  # seconds for the nodes to come up


def missing() -> str | None:
    """The first of the programs that is not installed here."""
    return next((name for name in PROGRAMS if _path(name) is None), None)


def is_apart_possible() -> bool:
    """Whether a command can be kept from seeing the processes of others."""
    try:
        return subprocess.run([*APART, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _path(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """A cluster that runs."""

    folder: Path
    env: Mapping[str, str]
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list["subprocess.Popen[bytes]"])

    def ask(self, *words: str) -> str:
        """What one of its commands prints."""
        env = {**os.environ, **self.env}
        return subprocess.run(words, env=env, capture_output=True, text=True, check=True, timeout=30).stdout

    def states(self) -> list[str]:
        """How each node is."""
        nodes = self.ask("scontrol", "--oneliner", "show", "nodes").splitlines()
        return [node.partition("State=")[2].split()[0] for node in nodes]

    def log(self) -> str:
        """What the daemons wrote, for when they do not come up."""
        return "\n".join(path.read_text("utf-8", "replace")[-2000:] for path in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def slurm(folder: Path, *, is_apart: bool = False) -> Generator[Slurm]:
    """Two nodes with two CPUs each, until it is left; on request their jobs see no processes but those of their
    node."""
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir(parents=True, mode=0o755)
    ports = free_ports(3)
    config = folder / "slurm.conf"
    config.write_text(_config(folder, ports), "utf-8")
    found = Path(_path("slurmd") or "").parent
    cluster = Slurm(folder=folder, env={"SLURM_CONF": str(config), "PATH": f"{os.environ['PATH']}:{found}"})
    env = {**os.environ, **cluster.env}
    commands = [[_path("slurmctld"), "-D", "-f", str(config), "-L", str(folder / "slurmctld.log")]]
    for node in NODES:
        command = [
            *(APART if is_apart else ()),
            _path("slurmd"),
            "-D",
            "-N",
            node,
            "-f",
            str(config),
            "-d",
            _path("slurmstepd"),
        ]
        commands.append([*command, "-L", str(folder / f"slurmd-{node}.log")])
    try:
        for command in commands:
            with (folder / "printed.log").open("ab") as log:
                started = subprocess.Popen([str(word) for word in command], env=env, stdout=log, stderr=log)
            cluster.processes.append(started)
        _until_up(cluster)
        yield cluster
    finally:
        with contextlib.suppress(subprocess.SubprocessError):
            for number in cluster.ask("squeue", "--noheader", "--format", "%A").split():
                cluster.ask("scancel", number)
            until = time.monotonic() + 10
            while cluster.ask("squeue", "--noheader", "--format", "%A") and time.monotonic() < until:
                time.sleep(0.1)
        for process in reversed(cluster.processes):
            process.send_signal(signal.SIGTERM)
        for process in cluster.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_up(cluster: Slurm) -> None:
    until = time.monotonic() + _WAITED
    while time.monotonic() < until:
        with contextlib.suppress(subprocess.SubprocessError):
            if [state.rstrip("*") for state in cluster.states()] == ["IDLE", "IDLE"]:
                return
        assert all(process.poll() is None for process in cluster.processes), cluster.log()
        time.sleep(0.2)
    raise AssertionError(cluster.log())


def free_ports(number: int) -> list[int]:
    """So many ports that are free now."""
    with contextlib.ExitStack() as sockets:
        taken = [sockets.enter_context(socket.socket()) for _ in range(number)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]


def _config(folder: Path, ports: list[int]) -> str:
    """Without accounting and without munge: all of it belongs to who runs the tests, and listens for nobody else."""
    controller, *of_nodes = ports
    user, host = getpass.getuser(), socket.gethostname().partition(".")[0]
    nodes = [
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=4000 State=UNKNOWN"
        for node, port in zip(NODES, of_nodes, strict=True)
    ]
    plugins = sorted(Path(_path("slurmctld") or "").resolve().parents[1].glob("lib/*/slurm-wlm"))
    values = {
        "ClusterName": "tests", "SlurmctldHost": f"{host}(127.0.0.1)", "SlurmctldPort": controller, "SlurmUser": user,
        "SlurmdUser": user, "AuthType": "auth/none", "CredType": "cred/none",
        "StateSaveLocation": folder / "state", "SlurmdSpoolDir": f"{folder}/spool-%n",
        "SlurmctldPidFile": folder / "slurmctld.pid", "SlurmdPidFile": f"{folder}/slurmd-%n.pid",
        "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_CPU_Memory", "ReturnToService": 2,
        "SlurmdParameters": "config_overrides", "MpiDefault": "none", "MailProg": "/bin/true", "KillWait": 5,
        "SchedulerParameters": "batch_sched_delay=0,sched_interval=1", "PluginDir": plugins[0] if plugins else None,
        "JobAcctGatherType": "jobacct_gather/none", "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
        "InactiveLimit": 0, "SlurmdTimeout": 300, "MinJobAge": 300,
    }  # fmt: skip
    lines = [f"{name}={value}" for name, value in values.items() if value is not None]
    partition = "PartitionName=long Nodes=ALL Default=YES MaxTime=INFINITE State=UP"
    return "\n".join([*lines, *nodes, partition, ""])
