"""Slurm: a job is a batch script, with a Ray over its nodes, or an array whose members share the parts out.

The files lie in a folder that every node sees. A script's own shell is warned before its time is over, and passes that
on: the run then ends cleanly, and the script, begun again, goes on.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from jobs.submit._parcel import START, files
from jobs.submit._tools import answer_of, outcome_of
from selector.engine.job import Job, State, Word
from selector.engine.target import Parcel, Target, Written
from selector.errors import UnreachableError, UsageError

_WORDS: dict[str, Word] = {
    "PENDING": "queued", "CONFIGURING": "queued", "SUSPENDED": "queued", "REQUEUED": "queued", "REQUEUE_HOLD": "queued",
    "RUNNING": "running", "COMPLETING": "running", "COMPLETED": "finished", "CANCELLED": "cancelled",
    "FAILED": "failed", "TIMEOUT": "failed", "NODE_FAIL": "failed", "OUT_OF_MEMORY": "failed", "BOOT_FAIL": "failed",
    "DEADLINE": "failed", "PREEMPTED": "failed",
}  # fmt: skip
_DETAILS = {
    "OUT_OF_MEMORY": "it was killed for memory",
    "TIMEOUT": "its time was over",
    "NODE_FAIL": "a node failed",
    "PREEMPTED": "it was preempted",
}
_WARNED = 60  # seconds before its end that a script is told of it


@dataclass(frozen=True, kw_only=True)
class SlurmTarget(Target):
    """Slurm, by a partition.

    --on slurm=PARTITION. Writes a batch script for where `sbatch` is; --apply runs that. With shares=N an array of N
    members rates the parts, and a last job selects.
    """

    partition: str | None = None
    account: str | None = None
    nodes: int = 1
    cpus: int = 8  # of each node
    gpus: int = 0
    memory: str = "32G"
    time: str = "24:00:00"
    shares: int = 0
    venv: str | None = None  # a virtual environment that every node sees
    port: int = 6379  # of the head

    def __post_init__(self) -> None:
        patterns = {
            "partition": r"[\w.,-]+", "account": r"[\w.-]+", "memory": r"[1-9][0-9]*[KMGT]?",
            "time": r"([0-9]+-)?[0-9]+(:[0-9]+){0,2}", "venv": r"/[\w./ +-]*",
        }  # fmt: skip
        for name, pattern in patterns.items():
            value = getattr(self, name)
            if value is not None and not re.fullmatch(pattern, value):
                raise UsageError(f"--on slurm: {name}={value!r:.80} is none that Slurm takes.")
        for name, least in (("nodes", 1), ("cpus", 1), ("gpus", 0), ("shares", 0), ("port", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"--on slurm: {name}={getattr(self, name)} is too few. Give at least {least}.")

    def check(self, job: Job, parcel: Parcel) -> None:
        if self.shares and "actors" in job.options:
            raise UsageError(
                "--actors is for workers on Ray, and with shares=N every member of the array works without it. Leave "
                "it out: cpus=N says how much a member has."
            )

    def written(self, job: Job, parcel: Parcel) -> Written | None:
        contents = files(job, parcel)
        if not self.shares:
            scripts = {"run.sbatch": self._script(job, self._on_ray())}
            return _written(job, contents, scripts, "sbatch --parsable run.sbatch")
        share = '"$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"'
        scripts = {
            "work.sbatch": self._script(job, _ended(f"python {START} --share {share}"), array=self.shares),
            "select.sbatch": self._script(job, _ended(f"python {START} --executor local")),
        }
        start = "work=$(sbatch --parsable work.sbatch)\n"
        start += 'sbatch --parsable --dependency="afterany:${work%%;*}" select.sbatch'
        return _written(job, contents, scripts, start)

    def start(self, job: Job, parcel: Parcel, written: str | None) -> None:
        assert written is not None
        if self.state(job.id) is not None:
            return
        folder = Path(written)
        again = self.written(job, parcel)
        assert again is not None
        for name, data in again.files.items():  # anew, since an attempt has an id of its own
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        answer_of("sh", str(folder / "submit.sh"))

    def state(self, job_id: str) -> State | None:
        queued = answer_of("squeue", "--noheader", "--name", job_id, "--format", "%T|%r").split("\n")
        shown = [line.split("|", 1) for line in queued if "|" in line]
        for name, word in (("RUNNING", "running"), ("PENDING", "queued")):
            for state, reason in shown:
                if state == name:
                    because = f"pending because {reason}" if word == "queued" and reason not in ("", "None") else ""
                    return State(word=_WORDS[state], detail=because)
        if shown:
            return State(word=_WORDS.get(shown[-1][0], "unknown"), detail=_DETAILS.get(shown[-1][0], ""))
        try:
            status, printed, _ = outcome_of("sacct", "-n", "-X", "-P", "--name", job_id, "--format", "State")
        except UnreachableError:
            return None
        states = [line.split()[0] for line in printed.splitlines() if line.strip()]
        if status or not states:
            return None
        return State(word=_WORDS.get(states[-1], "unknown"), detail=_DETAILS.get(states[-1], ""))

    def logs(self, job_id: str) -> str | None:
        """Nothing that Slurm keeps: the scripts' output lies beside them, as `slurm-*.log`."""
        return None

    def stop(self, job_id: str) -> None:
        for number, state in self._numbers(job_id):
            if state == "PENDING":
                answer_of("scancel", number)
            else:
                answer_of("scancel", "--batch", "--signal=TERM", number)

    def kill(self, job_id: str) -> None:
        for number, _ in self._numbers(job_id):
            answer_of("scancel", number)

    def _numbers(self, job_id: str) -> list[tuple[str, str]]:
        """Slurm's own numbers of a job, and how each is."""
        lines = answer_of("squeue", "--noheader", "--name", job_id, "--format", "%i|%T").splitlines()
        return [(number, state) for number, _, state in (line.partition("|") for line in lines) if number]

    def _script(self, job: Job, body: str, array: int = 0) -> str:
        options = {
            "job-name": job.id, "partition": self.partition, "account": self.account, "time": self.time,
            "nodes": 1 if array or self.shares else self.nodes, "ntasks-per-node": 1, "cpus-per-task": self.cpus,
            "mem": self.memory, "gpus-per-node": self.gpus or None, "array": f"1-{array}" if array else None,
            "exclusive": None if array or self.shares else "",
            "signal": f"B:TERM@{_WARNED}", "output": "slurm-%A-%a.log" if array else "slurm-%j.log",
        }  # fmt: skip
        lines = [
            f"#SBATCH --{name}{f'={value}' if value != '' else ''}"
            for name, value in options.items()
            if value is not None
        ]
        path = [] if self.venv is None else [f"export PATH={shlex.quote(self.venv + '/bin')}:$PATH"]
        head = ["#!/bin/bash", *lines, "#SBATCH --requeue", "set -u", *path]
        return "\n".join([*head, 'cd "$SLURM_SUBMIT_DIR"', 'export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"', body])

    def _on_each_node(self) -> str:
        """A part of that Ray, in a folder into which others who work on the node do not get.

        As it ends, `symmetric-run` stops every Ray of this user's on the node, and it begins where there is none: so
        the job has its nodes to itself.
        """
        ray = (
            f'ray symmetric-run --address "$head:{self.port}" --min-nodes "$SLURM_NNODES" --num-cpus {self.cpus} '
            f'-- env RAY_ADDRESS="$head:{self.port}" python {START}'
        )
        after = 'code=$?; rm -rf "$RAY_TMPDIR"; exit $code'
        return f'mkdir -m 700 "$RAY_TMPDIR" || exit 1; trap : TERM; {ray}; {after}'  # TERM is for what it waits for

    def _on_ray(self) -> str:
        """A Ray over all nodes of the job, which only those who can read the token's file may use."""
        return "\n".join(
            [
                "umask 077",
                'export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/ray-token-$SLURM_JOB_ID"',
                "python -c 'import secrets; print(secrets.token_hex(32))' > \"$RAY_AUTH_TOKEN_PATH\"",
                "trap 'rm -f \"$RAY_AUTH_TOKEN_PATH\"' EXIT",
                "export RAY_USAGE_STATS_ENABLED=0",
                'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
                # its address, since a node's name need not be one that others can look up
                'head=$(scontrol --oneliner show node "$head" | sed -n "s/.* NodeAddr=\\([^ ]*\\).*/\\1/p")',
                'export head RAY_TMPDIR="$(mktemp -u /tmp/selector-XXXXXXXX)"',
                _ended(f"srun --kill-on-bad-exit=1 bash -c {shlex.quote(self._on_each_node())}"),
            ]
        )


def _ended(command: str) -> str:
    """A command that is told when the script is to end, and waited for."""
    return "\n".join(
        [
            f"{command} &",
            "child=$!",
            "trap 'kill -TERM $child 2>/dev/null' TERM",
            "wait $child; code=$?",
            "if kill -0 $child 2>/dev/null; then wait $child; code=$?; fi",  # a signal ends the first wait
            "exit $code",
            "",
        ]
    )


def _written(job: Job, contents: dict[str, bytes], scripts: dict[str, str], start: str) -> Written:
    texts = {**scripts, "submit.sh": f'set -eu\ncd "$(dirname "$0")"\n{start}\n'}
    return Written(
        files={**contents, **{name: text.encode() for name, text in texts.items()}},
        command=("sh", f"{job.id}/submit.sh"),
    )
