"""A process that asks a storage on behalf of one that cannot: one that was forked after the library was used.

The threads of obstore stay behind in the process that was forked from, and its requests would wait for them for ever.
So each forked process has another one at its side, started when it first asks, which ends with it.
"""

import functools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Concatenate, ParamSpec, TypeVar

from selector.errors import UnreachableError

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")

_lock = threading.Lock()
_user: int | None = None  # the process that uses the library itself


def used_here() -> None:
    """From now on only this process uses the library itself."""
    global _user
    _user = _user or os.getpid()


def asked_aside(
    verb: Callable[Concatenate[Any, Arguments], Answer],
) -> Callable[Concatenate[Any, Arguments], Answer]:
    """The verb of a storage, which a process at its side does where this one was forked."""

    @functools.wraps(verb)
    def do(storage: Any, *args: Arguments.args, **options: Arguments.kwargs) -> Answer:
        if _user in (None, os.getpid()):
            return verb(storage, *args, **options)
        with _lock:
            beside, _ = _started(os.getpid())
            try:
                beside.send((storage, verb.__name__, args, options))
                answer, error = beside.recv()
            except (EOFError, OSError) as broken:
                _started.cache_clear()
                raise UnreachableError(
                    f"{storage.address} cannot be asked: the process that does so beside this one ended. Start the "
                    "training again, or its workers with multiprocessing_context='spawn'."
                ) from broken
        if error is not None:
            raise error
        return answer

    return do


@functools.lru_cache(maxsize=1)
def _started(pid: int) -> tuple[Connection, "subprocess.Popen[bytes]"]:  # noqa: ARG001 - each process has its own
    ours, theirs = socket.socketpair()
    with theirs:
        number = theirs.fileno()
        code = f"import sys; sys.path[:] = {sys.path!r}; from selector.storage import _aside; _aside.serve({number})"
        process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[number], stdin=subprocess.DEVNULL)
    return Connection(ours.detach()), process


def serve(descriptor: int) -> None:
    """Does what the process at the other end asks for, as long as it is there."""
    with Connection(descriptor) as caller:
        while True:
            try:
                storage, verb, args, options = caller.recv()
            except (EOFError, OSError):
                return
            try:
                answer, error = getattr(storage, verb)(*args, **options), None
            except Exception as raised:
                answer, error = None, raised.with_traceback(None)
                error.__cause__ = error.__context__ = None
            caller.send((answer, error))
