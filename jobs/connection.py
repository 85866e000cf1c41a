"""How a process comes to be connected to Ray, and how that is undone without a trace.

Ray keeps its settings in the process: environment variables that it reads once, a handler for SIGTERM, a thread
that prints. Each function here takes the `ExitStack` on which it puts whatever will restore them.
"""

import contextlib
import fcntl
import importlib
import os
import re
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import ray as _ray
from ray import exceptions

from selector.engine import alive
from selector.engine.local import LocalExecutor
from selector.engine.signals import Handler, handled_by
from selector.engine.supervise import sentence
from selector.errors import UnreachableError

ray: Any = _ray  # whose own types are partly unknown

OWN_CLUSTER = "selector_own"
"""A resource that only the Ray which we start ourselves has: by it we know our own."""

_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Without clusters, as it is where this is made for, Ray listens on the loopback interface alone, also on Linux."""

_MOST_HELD = 6.0  # seconds

_FOLDER = "selector-ray-"
_LONGEST = 20  # characters of the folder above: a socket's path has 107, of which Ray takes 66
_INNER = "r"  # of that folder: Ray lets everybody write to its own, and nobody else gets into the one around it
_JUST_MADE = 1.0  # seconds: nobody takes so long from making a folder to locking it

_INIT_ERRORS = (OSError, RuntimeError, ValueError, exceptions.RayError)  # what ray.init raises


def start(undo: contextlib.ExitStack) -> None:
    """Starts a Ray of our own on this machine, which only we can talk to, and which leaves nothing behind."""
    remove_deserted()
    folder = tempfile.mkdtemp(prefix=_FOLDER, dir=_above())
    undo.callback(shutil.rmtree, folder, ignore_errors=True)
    undo.callback(os.close, _locked(folder))  # until this process ends, however it does
    keep_to_ourselves(undo)
    try:
        _connect(
            undo,
            address="local",
            _temp_dir=os.path.join(folder, _INNER),
            include_dashboard=False,
            object_store_memory=100 * 2**20,  # only receipts travel
            num_gpus=None if LocalExecutor().device() == "cuda" else 0,
            resources={OWN_CLUSTER: 1},
        )
    except _INIT_ERRORS as error:
        raise UnreachableError(
            f"Ray does not start on this machine: {cause(error)} Use the executor `local` to do without it."
        ) from error


def keep_to_ourselves(undo: contextlib.ExitStack) -> None:
    """A Ray that this process starts from now on listens on the loopback interface alone, and asks for a token that
    only this process and those below it know."""
    undo.callback(_reread_environment)
    undo.enter_context(
        environment(
            RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), **{_LOOPBACK: "0"}
        )
    )
    constants: Any = importlib.import_module("ray._private.ray_constants")
    undo.callback(setattr, constants, "ENABLE_RAY_CLUSTER", constants.ENABLE_RAY_CLUSTER)
    constants.ENABLE_RAY_CLUSTER = False  # what the variable says was read when Ray was imported
    _reread_environment()


def remove_deserted() -> None:
    """Removes what Rays of our own have left whose process was killed."""
    for old in Path(_above()).glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError):  # it is somebody else's, or its process lives, or another one removes it
            if time.time() - old.stat().st_mtime > _JUST_MADE:
                _remove(old)


def _above() -> str:
    """Where folders for sockets lie, whose paths are short."""
    above = tempfile.gettempdir()
    return above if len(above) < _LONGEST else "/tmp"


def _remove(folder: Path) -> None:
    """Removes a folder that nobody has locked, and ends what that Ray has left: some of it lives for half a minute
    more, and writes there. Raises OSError."""
    lock = _locked(folder)
    try:
        if os.fstat(lock).st_uid != os.getuid():
            return
        for process in _at_work_in(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        until = time.monotonic() + _MOST_HELD
        while [*_at_work_in(folder)] and time.monotonic() < until:
            time.sleep(0.02)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _locked(folder: str | Path) -> int:
    """The folder, open, with a lock that ends with it. Raises OSError where somebody holds it, or where it is none."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _at_work_in(folder: Path) -> Iterator[int]:
    """The processes that have a file open below the folder, as far as this user may look."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(os.readlink(process / "fd" / name).startswith(f"{folder}/") for name in os.listdir(process / "fd")):
                yield int(process.name)


def join(undo: contextlib.ExitStack, address: str) -> None:
    """Connects to a cluster that somebody else looks after."""
    cure = "Give the address of a running cluster (host:port), or none to start one on this machine for the run."
    if not os.environ.get("RAY_AUTH_MODE"):
        cure += " Where it asks for a token, set RAY_AUTH_MODE=token."
    host = re.fullmatch(r"(?:\w+://)?\[?([^/\]]+)\]?:(\d+)", address)
    try:
        if host:  # nobody there is told at once, somebody else than Ray after one try: Ray's default is 20
            socket.create_connection((host[1], int(host[2])), timeout=10).close()
        with environment(RAY_gcs_server_port_wait_time_s="1"):
            _connect(undo, address=address)
    except _INIT_ERRORS as error:
        raise UnreachableError(f"No Ray cluster answers at {address!r}: {sentence(cause(error))} {cure}") from error


def _connect(undo: contextlib.ExitStack, **options: Any) -> None:
    """`ray.init`, without a word on stdout, and undone by `undo`."""
    worker_module: Any = importlib.import_module("ray._private.worker")
    undo.callback(setattr, worker_module, "_worker_logs_enabled", True)
    worker_module._worker_logs_enabled = False  # Ray tells of each dead worker on stdout, whatever log_to_driver says
    terminate = signal.getsignal(signal.SIGTERM)
    if callable(terminate):  # whoever handles it wants to end in his own way, and Ray is not to set its own
        utils: Any = importlib.import_module("ray._private.utils")
        undo.callback(setattr, utils, "set_sigterm_handler", utils.set_sigterm_handler)
        utils.set_sigterm_handler = lambda *_: None
    elif threading.current_thread() is threading.main_thread():
        undo.callback(signal.signal, signal.SIGTERM, terminate)
    undo.callback(_shut_down)
    alive.waiting("starting Ray" if options["address"] == "local" else "joining the Ray cluster")
    with interrupts_held_back():
        ray.init(log_to_driver=False, configure_logging=False, **options)


def _shut_down() -> None:
    with interrupts_held_back():
        ray.shutdown()


@contextlib.contextmanager
def interrupts_held_back() -> Generator[None]:
    """Ctrl-C, and SIGTERM where Python handles it, come into force when this is left; the second one at once.

    Ray that is broken off half started leaves threads of its own behind, and the process crashes as it ends. But a
    signal to the whole group may have ended what Ray waits for: so the first one is sent again when that takes long.
    """
    held: list[int] = []
    again: list[threading.Timer] = []

    def hold(number: int, frame: FrameType | None, handler: Handler) -> None:
        held.append(number)
        if len(held) > 1:
            handler(number, frame)
        again.append(threading.Timer(_MOST_HELD, os.kill, (os.getpid(), number)))
        again[0].daemon = True
        again[0].start()

    try:
        with handled_by(hold):
            try:
                yield
            finally:
                for timer in again:
                    timer.cancel()
    finally:
        if held:
            signal.raise_signal(held[0])


@contextlib.contextmanager
def environment(**values: str) -> Generator[None]:
    """These variables, until it is left."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _reread_environment() -> None:
    """Makes Ray see the environment's authentication settings, which it reads once, when it is imported."""
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def cause(error: BaseException) -> str:
    """The telling line of what is often a page: the last one that names an error, else the first."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in reversed(lines) if re.match(r"\w+(Error|Exception):", line)), lines[0])[:300]
