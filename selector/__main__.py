"""The command `selector`, also as `python -m selector`.

A signal that comes while libraries are still being imported finds nothing at work, and ends the process at once.
"""

import contextlib
import gc
import json
import os
import signal
import sys
from typing import Any, NoReturn


def main() -> None:
    """The `selector` command."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end_at_once)
    gc.disable()  # importing makes many objects and no garbage
    from selector import cli

    gc.freeze()
    gc.enable()
    cli.main()


def end_at_once(number: int, _: Any) -> NoReturn:
    """Ends this process, in words."""
    kind, code = {signal.SIGINT: ("Interrupted", 130), signal.SIGTERM: ("Terminated", 143)}[signal.Signals(number)]
    message = f"{kind}. Nothing was begun."
    error = {"kind": kind, "message": message, "exit_code": code}
    with contextlib.suppress(OSError):
        if "--json" in sys.argv:
            print(json.dumps({"error": error}), flush=True)
        print(message, file=sys.stderr, flush=True)
    os._exit(code)


if __name__ == "__main__":
    main()
