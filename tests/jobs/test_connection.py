"""How a process joins Ray and leaves it, whatever is sent to it meanwhile."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.connection import interrupts_held_back, remove_deserted


class Terminated(Exception):
    pass


@pytest.fixture
def handled() -> Iterator[None]:
    """SIGTERM is handled by Python, as in the command."""

    def terminate(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize(("sent", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_an_interrupt_waits_until_ray_is_started_or_shut_down(
    sent: signal.Signals, raised: type[BaseException]
) -> None:
    done: list[str] = []
    with pytest.raises(raised), interrupts_held_back():  # noqa: PT012
        signal.raise_signal(sent)
        done.append("all of it")
    assert done == ["all of it"]
    with pytest.raises(raised):
        signal.raise_signal(sent)


def test_an_interrupt_counts_also_where_the_start_fails() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, interrupts_held_back():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        raise ValueError("no Ray")
    assert isinstance(caught.value.__context__, ValueError)


def test_the_second_interrupt_does_not_wait() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), interrupts_held_back():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        done.append("the first one")
        signal.raise_signal(signal.SIGINT)
        done.append("the second one")
    assert done == ["the first one"]


def test_nothing_is_held_back_from_whoever_handles_nothing() -> None:
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with interrupts_held_back():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


HOLDS = """
import os, subprocess, sys, time
from jobs import connection
lock = connection._locked(sys.argv[1])
log = open(sys.argv[1] + "/session/raylet.out", "w")
child = subprocess.Popen(["sleep", "100"], stdout=log)
print(child.pid, flush=True)
time.sleep(100)
"""


def test_the_folder_of_a_ray_whose_process_was_killed_goes_with_what_is_at_work_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as above:
        monkeypatch.setattr(tempfile, "tempdir", above)
        folder = Path(above, "selector-ray-0123")
        (folder / "session").mkdir(parents=True)
        with subprocess.Popen([sys.executable, "-c", HOLDS, folder], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            left = int(process.stdout.readline())
            os.utime(folder, (0, 0))
            remove_deserted()
            assert folder.is_dir() and process.poll() is None, "its process lives"
            process.kill()
        remove_deserted()
        assert not folder.exists()
        with pytest.raises(OSError, match=r"No such process|No such file"):
            os.readlink(f"/proc/{left}/exe")
        Path(above, "selector-ray-4567").mkdir()
        Path(above, "selector-ray-89ab").symlink_to("/tmp")
        remove_deserted()
        assert Path(above, "selector-ray-4567").is_dir(), "it was made just now, and may be about to be locked"
