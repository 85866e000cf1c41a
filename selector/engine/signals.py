"""Handlers of signals that are put aside for a while: of Ctrl-C, and of SIGTERM where Python handles it."""

import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType

Handler = Callable[[int, FrameType | None], object]


@contextlib.contextmanager
def handled_by(handle: Callable[[int, FrameType | None, Handler], None]) -> Generator[None]:
    """Until it is left, `handle` is called for a signal, with the handler in whose place it stands. Only the main
    thread may set handlers; in any other nothing changes."""
    handlers: dict[int, Handler] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                handlers[number] = handler
                signal.signal(number, lambda number, frame: handle(number, frame, handlers[number]))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
