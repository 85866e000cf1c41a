"""A server that answers like the job server of a Ray dashboard, down to its faults, and runs jobs as processes here.

What it answers was compared with Ray 2.60: an id that is taken is 500 with a traceback, a job that waits is not stopped
and not deleted, `stop` sends TERM and, after 3 seconds, KILL.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass(kw_only=True)
class Dashboard:
    """The server's jobs, and how it is to misbehave."""

    folder: Path
    port: int = 0
    token: str | None = None
    holds: bool = False  # jobs wait for their turn
    trouble: list[str] = field(default_factory=list[str])  # of the next requests, by "METHOD kind"
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict[str, "subprocess.Popen[bytes]"])
    packages: dict[str, bytes] = field(default_factory=dict[str, bytes])
    requests: list[str] = field(default_factory=list[str])
    bodies: list[bytes] = field(default_factory=list[bytes])
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def update(self, job_id: str) -> dict[str, Any]:
        """A job as it is now."""
        job, process = self.jobs[job_id], self.processes.get(job_id)
        if process is not None and job["status"] == "RUNNING" and (code := process.poll()) is not None:
            job["driver_exit_code"] = code
            job["status"] = "STOPPED" if job["stopping"] else "SUCCEEDED" if code == 0 else "FAILED"
            if job["status"] == "FAILED":
                job["error_type"] = "JOB_ENTRYPOINT_COMMAND_ERROR"
                job["message"] = f"Job entrypoint command failed with exit code {code}, last logs:\n{self.log(job_id)}"
        return job

    def log(self, job_id: str) -> str:
        path = self.folder / f"{job_id}.log"
        return path.read_text("utf-8") if path.exists() else ""

    def begin(self, job_id: str) -> None:
        """Runs what was held."""
        job = self.jobs[job_id]
        folder = self.folder / job_id
        name = job["runtime_env"]["working_dir"].removeprefix("gcs://")
        with zipfile.ZipFile(io.BytesIO(self.packages[name])) as archive:
            archive.extractall(folder)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SELECTOR_")}
        environment |= {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        with open(self.folder / f"{job_id}.log", "ab") as log:
            self.processes[job_id] = subprocess.Popen(
                job["entrypoint"], shell=True, cwd=folder, stdout=log, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True, env=environment,
            )  # fmt: skip
        job["status"], job["message"] = "RUNNING", "Job is currently running."

    def stop(self, job_id: str) -> bool:
        job, process = self.update(job_id), self.processes.get(job_id)
        if process is None or job["status"] != "RUNNING":
            return False
        job["stopping"] = True
        os.killpg(process.pid, signal.SIGTERM)

        def kill() -> None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)
                return
            os.killpg(process.pid, signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()
        return True

    def close(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class _Handler(BaseHTTPRequestHandler):
    dashboard: Dashboard

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as in its base
        """Nothing on stderr."""

    def _answer(self, status: int, value: Any = None) -> None:
        body = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _is_refused(self) -> bool:
        board = self.dashboard
        board.requests.append(f"{self.command} {self.path}")
        if board.token is not None and self.headers.get("Authorization") != f"Bearer {board.token}":
            self._answer(401, "Unauthorized: Missing authentication token")
            return True
        trouble = board.trouble.pop(0) if board.trouble else ""
        if trouble == "reset":
            self.connection.close()
            return True
        if trouble == "lost reply":  # it is done, and nobody is told
            self.wfile = io.BytesIO()  # pyright: ignore[reportIncompatibleVariableOverride]
            return False
        if trouble == "redirect":
            self.send_response(307)
            self.send_header("Location", "http://127.0.0.1:9/api/version")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return True
        if trouble:
            self._answer(int(trouble), "Traceback (most recent call last):\nRuntimeError: no agent")
            return True
        return False

    def do_GET(self) -> None:
        board = self.dashboard
        if self._is_refused():
            return
        kind, *rest = self.path.removeprefix("/api/").split("/")
        with board.lock:
            if kind == "version":
                self._answer(200, {"version": "4", "ray_version": "2.60.0", "ray_commit": "0", "session_name": "s"})
            elif kind == "packages":
                self._answer(200, "") if rest[1] in board.packages else self._answer(404, "does not exist")
            elif rest[0] not in board.jobs:
                self._answer(404, f"Job {rest[0]} does not exist")
            elif rest[1:] == ["logs"]:
                self._answer(200, {"logs": board.log(rest[0])})
            else:
                self._answer(200, board.update(rest[0]))

    def do_PUT(self) -> None:
        body = self._body()
        if not self._is_refused():
            self.dashboard.packages[self.path.rpartition("/")[2]] = body
            self._answer(200, "")

    def do_POST(self) -> None:
        board, body = self.dashboard, self._body()
        board.bodies.append(body)
        if self._is_refused():
            return
        with board.lock:
            if self.path.endswith("/stop"):
                self._answer(200, {"stopped": board.stop(self.path.split("/")[3])})
                return
            wanted = json.loads(body)
            job_id = wanted["submission_id"]
            if job_id in board.jobs:
                self._answer(500, f"Traceback (most recent call last):\nValueError: {job_id} already exists.")
                return
            board.jobs[job_id] = {
                **wanted, "status": "PENDING", "message": "Job has not started yet.", "stopping": False,
                "start_time": int(1000 * time.time()), "driver_exit_code": None, "error_type": None,
            }  # fmt: skip
            if not board.holds:
                board.begin(job_id)
            self._answer(200, {"job_id": job_id, "submission_id": job_id})

    def do_DELETE(self) -> None:
        board = self.dashboard
        if self._is_refused():
            return
        job_id = self.path.rpartition("/")[2]
        with board.lock:
            if board.update(job_id)["status"] in ("PENDING", "RUNNING"):
                self._answer(500, f"RuntimeError: Attempted to delete job '{job_id}', but it is not terminal")
            else:
                del board.jobs[job_id]
                self._answer(200, {"deleted": True})


@contextlib.contextmanager
def dashboard(folder: Path, **options: Any) -> Generator[Dashboard]:
    """A dashboard on a port of this machine, and the end of all that it ran."""
    folder.mkdir(parents=True, exist_ok=True)
    board = Dashboard(folder=folder, **options)
    handler = type("Handler", (_Handler,), {"dashboard": board})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    board.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield board
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        board.close()
