"""Workers that are processes on this machine, each at the other end of a pipe.

They are started with a fresh interpreter that imports what its work needs, and no more: never a fork of a process that
has threads, and without running the user's script again. A worker that dies closes its pipe, so that is noticed at
once. All of them end with this process, however it ends.
"""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Generator, Hashable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from selector.engine.worker import Command, pickled, unpickled
from selector.engine.worker_pool import Ended, Job, Worker, WorkerPool

_SERVE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from selector.engine.worker import serve; serve(int(sys.argv[1]))"
)

_ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",  # Arrow's, faiss's and torch's
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "ARROW_IO_THREADS",
        "POLARS_MAX_THREADS",
        "RAYON_NUM_THREADS",
    ),
    "1",
)

_MOST_BLOCKED = 60  # seconds that a message may take through the pipe once it has begun


def num_cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(kw_only=True, eq=False)
class _Process(Worker):
    """A process of our own."""

    process: subprocess.Popen[bytes]
    pipe: Connection

    @property
    def place(self) -> tuple[str, str]:
        return socket.gethostname(), str(self.process.pid)

    def tell(self, command: Command, job: Job[Any, Any], given: Any) -> None:
        if command == "load":
            job.packed = job.packed or pickled((command, job.work))
        try:
            self.pipe.send_bytes(job.packed if command == "load" else pickled((command, given)))
        except OSError:  # it is gone, or does not read: that is heard of as the end of its pipe
            self.process.kill()

    def end(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.wait()


class Processes(WorkerPool):
    """Worker processes on this machine, all of one kind."""

    def start(self, kind: Hashable) -> Worker:
        ours, theirs = socket.socketpair()
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):  # a process that is stopped must not stop this one
            ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _MOST_BLOCKED, 0))
        with ours, theirs, _without_interrupts():
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _SERVE, str(theirs.fileno()), json.dumps(sys.path)],
                pass_fds=(theirs.fileno(),),
                env=os.environ | _ONE_THREAD,
                stdin=subprocess.DEVNULL,
                stdout=2,  # what work prints is not the command's result
            )
            return _Process(kind=kind, state="idle", process=process, pipe=Connection(ours.detach()))

    def receive(self, seconds: float) -> list[tuple[Worker, Any]]:
        by_pipe = {worker.pipe: worker for worker in cast(list[_Process], self.workers)}
        received: list[tuple[Worker, Any]] = []
        for pipe in cast(list[Connection], wait(list(by_pipe), seconds)):
            worker = by_pipe[pipe]
            try:
                received.append((worker, unpickled(pipe.recv_bytes())))
            except (EOFError, OSError):
                with contextlib.suppress(subprocess.TimeoutExpired):  # its pipe may end a moment before it does
                    worker.process.wait(1)
                received.append((worker, Ended(trace=f"Its exit code is {worker.process.poll()}.")))
        return received


@contextlib.contextmanager
def _without_interrupts() -> Generator[None]:
    """A process that is started here never gets Ctrl-C, and SIGTERM only once it can leave it alone (`worker.serve`):
    both may be sent to a whole group, and it is for the driver to end its workers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
