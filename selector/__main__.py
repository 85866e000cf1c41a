"""The command `selector`, also as `python -m selector`.

A signal that comes while libraries are still being imported finds nothing at work, and ends the process at once.
"""

import json
import os
import signal
import sys
from typing import Any, NoReturn


def main() -> None:
    """The `selector` command."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    from selector import cli

    cli.main()


def _end(number: int, _: Any) -> NoReturn:
    kind, code = {signal.SIGINT: ("Interrupted", 130), signal.SIGTERM: ("Terminated", 143)}[signal.Signals(number)]
    message = f"{kind}. Nothing was begun."
    if "--json" in sys.argv:
        error = {"kind": kind, "message": message, "exit_code": code}
        os.write(1, f"{json.dumps({'error': error})}\n".encode())
    os.write(2, f"{message}\n".encode())
    os._exit(code)


if __name__ == "__main__":
    main()
