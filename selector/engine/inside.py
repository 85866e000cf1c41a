"""What plug-ins and libraries may not do inside the driver: end the process, which would look like a run that finished.

A worker that ends is seen by the driver, a driver that ends by nobody: `os._exit(0)` there would end the run with 0.
What the interpreter never hears of (`exit` called by a library in C) cannot be stopped here; a crash ends with its
signal, which no shell takes for success.
"""

import contextlib
import os
from collections.abc import Generator
from typing import NoReturn


@contextlib.contextmanager
def stays() -> Generator[None]:
    """Until it is left, `os._exit` raises SystemExit in this process; one that is forked from it may still end."""
    leave, here = os._exit, os.getpid()

    def refuse(status: int) -> NoReturn:
        if os.getpid() != here:
            leave(status)
        raise SystemExit(f"os._exit({status}) was called, which would have ended the run")

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = leave
