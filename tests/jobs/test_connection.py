"""How a process joins Ray and leaves it, whatever is sent to it meanwhile."""

import signal
from collections.abc import Iterator

import pytest

from jobs.connection import interrupts_held_back


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
