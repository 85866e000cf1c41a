"""A Ray cluster that takes jobs at the address of its dashboard: six requests, and no package beside Python's own.

Ray takes an id once: a job of the same id is refused for as long as it remembers the first, also after that failed. So
an answer that the id is taken is no error, and the next attempt has an id of its own.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from urllib.parse import quote

from jobs.submit._parcel import START, files, zipped
from jobs.submit._rest import Answer, Server, checked
from jobs.submit._states import OF_RAY
from selector.engine.job import Job, State
from selector.engine.target import Parcel, Target
from selector.errors import UnreachableError, UsageError

_EXAMPLE = "ray=http://head:8265"
_MOST_BYTES = 50 << 20  # of a parcel: what travels is code, and the head holds it in memory


@dataclass(frozen=True, kw_only=True)
class RayTarget(Target):
    """A Ray cluster, by its dashboard's address.

    --on ray=http://head:8265. Its token is in RAY_AUTH_TOKEN, or in the file that RAY_AUTH_TOKEN_PATH names.
    """

    address: str

    def __post_init__(self) -> None:
        checked(self.address, _EXAMPLE)

    @property
    def _server(self) -> Server:
        return Server(parts=checked(self.address, _EXAMPLE))

    def check(self, job: Job, parcel: Parcel) -> None:
        size = sum(map(len, parcel.files.values()))
        if size > _MOST_BYTES:
            raise UsageError(
                f"What the plug-ins {', '.join(parcel.carries)} bring along has {size / 1e6:,.0f} MB, and at most "
                f"{_MOST_BYTES / 1e6:,.0f} MB travel. Install them on every node."
            )

    def start(self, job: Job, parcel: Parcel, written: str | None) -> None:
        if self.state(job.id) is not None:
            return
        package = zipped(files(job, parcel))
        name = f"_ray_pkg_{hashlib.blake2b(package, digest_size=16).hexdigest()}.zip"
        path = f"/api/packages/gcs/{name}"
        if self._server.ask("GET", path).status != 200:
            self._accepted(self._server.ask("PUT", path, package, "application/octet-stream"), "the job's files")
        body = {
            "submission_id": job.id,
            "entrypoint": f"exec python {START}",
            "runtime_env": {"working_dir": f"gcs://{name}"},
            "metadata": {"selector_job": job.id},
        }
        answer = self._server.ask("POST", "/api/jobs/", json.dumps(body).encode())
        if answer.status != 200 and self.state(job.id) is None:
            self._accepted(answer, "the job")

    def _accepted(self, answer: Answer, thing: str) -> None:
        if answer.status != 200:
            raise UnreachableError(
                f"{self.address} did not take {thing} ({answer.status}): {_cause(answer.text)}. Try again; where it "
                "says that there is no agent, the head's own job agent is not up."
            )

    def state(self, job_id: str) -> State | None:
        answer = self._server.ask("GET", _path(job_id))
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise UnreachableError(f"{self.address} cannot say how {job_id} is: {_cause(answer.text)}.")
        info = answer.json()
        word = OF_RAY.get(str(info.get("status")), "unknown")
        detail = str(info.get("message") or "") if word in ("queued", "failed", "unknown") else ""
        if word == "failed":
            detail = _why(info.get("driver_exit_code"), str(info.get("error_type") or ""), detail)
        return State(word=word, detail=detail[-2000:])

    def logs(self, job_id: str) -> str | None:
        answer = self._server.ask("GET", f"{_path(job_id)}/logs")
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise UnreachableError(f"{self.address} has no logs of {job_id}: {_cause(answer.text)}.")
        return str(answer.json().get("logs") or "")

    def stop(self, job_id: str) -> None:
        state = self.state(job_id)
        if state is not None and not state.is_over:
            self._server.ask("POST", f"{_path(job_id)}/stop", b"{}")
        if state is not None and state.word == "queued":  # where Ray stops nothing: our mark does
            self._server.ask("DELETE", _path(job_id))

    def kill(self, job_id: str) -> None:
        """Nothing: Ray itself kills what goes on for 3 seconds after it was asked to end."""


def _path(job_id: str) -> str:
    return f"/api/jobs/{quote(job_id, safe='')}"


def _cause(text: str) -> str:
    """The line of a traceback that tells most."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()] or ["no reason given"]
    return next((line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception):", line)), lines[-1])[:300]


def _why(exit_code: object, error_type: str, message: str) -> str:
    """Why a job failed, in a line."""
    if exit_code in (-9, 137):
        return "its driver was killed (signal 9), as happens where the node runs out of memory"
    if "error: " in message:  # what our own command says
        return next(line for line in reversed(message.splitlines()) if "error: " in line).partition("error: ")[2]
    if error_type == "RUNTIME_ENV_SETUP_FAILURE":
        return f"its files could not be unpacked on the cluster: {_cause(message)}"
    return _cause(message) if message else f"exit code {exit_code}"
