"""What plug-ins and libraries may not do inside the driver: end the process, which would look like a run that finished.

A worker that ends is seen by the driver, a driver that ends by nobody: `os._exit(0)` there would end the run with 0.
What the interpreter never hears of (`exit` called by a library in C) cannot be stopped here; a crash ends with its
signal, which no shell takes for success. A plug-in that raises SystemExit or KeyboardInterrupt fails like any other:
only a signal interrupts a run.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType
from typing import NoReturn

_Handler = Callable[[int, FrameType | None], object]

_came: list[list[int]] = []
"""The signals that have come since `stays` was entered, once for each time that it was."""


@contextlib.contextmanager
def stays() -> Generator[None]:
    """Until it is left, `os._exit` raises SystemExit in this process; one that is forked from it may still end. Signals
    that Python handles are noted on their way (`interrupts`)."""
    leave, here = os._exit, os.getpid()

    def refuse(status: int) -> NoReturn:
        if os.getpid() != here:
            leave(status)
        raise SystemExit(f"os._exit({status}) was called, which would have ended the run")

    os._exit = refuse
    try:
        with _signals_noted():
            yield
    finally:
        os._exit = leave


def interrupts(error: BaseException) -> bool:
    """Whether somebody has asked this process to end by a signal, and the error comes of that."""
    return any(_came) if _came else isinstance(error, KeyboardInterrupt)


@contextlib.contextmanager
def _signals_noted() -> Generator[None]:
    handlers: dict[int, _Handler] = {}
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        handlers[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        _came.append(came)
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                handlers[number] = handler
                signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        _came[:] = [other for other in _came if other is not came]
