"""Named places where a test can stop the program: `SELECTOR_FAILPOINT=commit.before_manifest:kill`.

The form is `name:action[:n]`, the action being `kill` (SIGKILL), `stop` (SIGSTOP), `raise` or `memory` (none
is left), at the n-th time that this process reaches the place. With `SELECTOR_FAILPOINT_ONCE=FILE` it happens once
over all processes, and FILE then holds its number: so a test can see that the place was reached, and by whom. Without
the variable a failpoint costs one look-up.
"""

import os
import signal
import threading

POINTS = (
    "plan.written",
    "store.before_blob",
    "store.before_link",
    "store.after_link",
    "store.before_seal",
    "store.after_seal",
    "store.before_swap",
    "store.after_discard",
    "store.before_blobs_go",
    "part.before_work",
    "part.after_work",
    "model.before_batch",
    "commit.before_parts",
    "commit.after_parts",
    "commit.before_manifest",
    "commit.after_manifest",
    "gc.before_delete",
)
"""The places that are there whatever the flow; besides, every step has `step.<its name>.done`."""

_reached: dict[str, int] = {}


def reach(name: str) -> None:
    """Does nothing, unless the environment names this failpoint. What runs beside the work by the clock, in a daemon
    thread, reaches none: nobody could say how often."""
    wanted = os.environ.get("SELECTOR_FAILPOINT")
    if not wanted or threading.current_thread().daemon:
        return
    assert name in POINTS or name.startswith("step."), name
    target, action, *count = wanted.split(":")
    if target != name:
        return
    _reached[name] = _reached.get(name, 0) + 1
    if _reached[name] < int(count[0] if count else 1):
        return
    once = os.environ.get("SELECTOR_FAILPOINT_ONCE")
    if once:
        try:
            marker = os.open(once, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            os.write(marker, str(os.getpid()).encode())
            os.close(marker)
        except FileExistsError:
            return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "memory":
        raise MemoryError(f"failpoint {name}")
    else:
        raise RuntimeError(f"failpoint {name}")
