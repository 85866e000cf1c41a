"""What plug-ins and libraries may not do inside the driver: end the process, which would look like a run that finished.

A worker that ends is seen by the driver, a driver that ends by nobody: `os._exit(0)` there would end the run with 0.
What the interpreter never hears of (`exit` called by a library in C) cannot be stopped here; a crash ends with its
signal, which no shell takes for success. A plug-in that raises SystemExit or KeyboardInterrupt fails like any other:
only a signal interrupts a run.
"""

import contextlib
import os
import threading
from collections.abc import Generator
from types import FrameType
from typing import NoReturn

from selector.engine.signals import Handler, handled_by

_signals: list[list[int]] = []
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
    return any(_signals) if _signals else isinstance(error, KeyboardInterrupt)


@contextlib.contextmanager
def _signals_noted() -> Generator[None]:
    noted: list[int] = []

    def note(number: int, frame: FrameType | None, handler: Handler) -> None:
        noted.append(number)
        handler(number, frame)

    if threading.current_thread() is threading.main_thread():
        _signals.append(noted)
    try:
        with handled_by(note):
            yield
    finally:
        _signals[:] = [other for other in _signals if other is not noted]
