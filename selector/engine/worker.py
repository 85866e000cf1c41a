"""What a worker does, on every executor: it loads one piece of work, and applies it to what it is given, one by one.

A process of our own is served here too. It holds a pipe to the driver, and ends when the driver does.
"""

import contextlib
import functools
import os
import select
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, ClassVar, Literal, Protocol, cast

from selector import counts, errors
from selector.engine import alive, inside, memory
from selector.engine.part import Receipt, Task
from selector.engine.step import Map, perform
from selector.engine.store import Store
from selector.engine.supervise import Failure, Reply, sentence
from selector.errors import DamagedError, SelectorError

LOADING = "loading what the step needs"
"""What is waited for while a worker prepares."""

_PREPARED = "_is_prepared"
"""The attribute of a step that was prepared in this process. A step that is sent to a worker goes without it."""


class Work(Protocol):
    """What a worker can load. Calling it may raise SelectorError, which is about the run; anything else that it raises
    is about what it was given."""

    needs_preparation: ClassVar[bool]  # whether `prepare` is called before the first thing that a worker is given

    @property
    def name(self) -> str: ...

    def opened(self) -> "Work":
        """The work as this worker will do it."""
        ...

    def prepare(self, given: Any) -> None:
        """Gets ready for things like this one."""
        ...

    def __call__(self, given: Any) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class PartWork:
    """A step's work on its parts: given a task, it answers with the outcome."""

    name: str
    step: Map
    store: Store
    needs_preparation: ClassVar[bool] = True

    def opened(self) -> "PartWork":
        memory.begin()
        return self

    def prepare(self, given: Task) -> None:
        _prepare(self.step, given, self.store)

    def __call__(self, given: Task) -> Reply:
        reply = attempt_here(self.step, given, self.store)
        return replace(reply, memory=memory.most()) if isinstance(reply, Receipt) else reply


@dataclass(frozen=True, kw_only=True)
class ItemWork:
    """A map's work on its items. Work, items and answers travel pickled, so on every executor in the same way."""

    name: str
    pickled: bytes
    work: Callable[[Any], Any] | None = None
    needs_preparation: ClassVar[bool] = False

    def opened(self) -> "ItemWork":
        return ItemWork(name=self.name, pickled=b"", work=unpickled(self.pickled))

    def prepare(self, given: bytes) -> None: ...

    def __call__(self, given: bytes) -> bytes:
        assert self.work is not None
        return pickled(self.work(unpickled(given)))


def pickled(value: Any) -> bytes:
    """The value on its way between our own processes. Raises whatever its parts raise that cannot be pickled."""
    return bytes(ForkingPickler.dumps(value))


def unpickled(data: bytes) -> Any:
    """What another process of ours has pickled."""
    return cast(Any, ForkingPickler).loads(data)


def attempt_here(step: Map, task: Task, store: Store) -> Reply:
    """How the task went in this process. Every executor's workers do their work through this function.

    A SelectorError is raised and not returned: it is about the run and not about the part.
    """
    _prepare(step, task, store)
    try:
        return perform(step, task, store)
    except SelectorError:
        raise
    except BaseException as error:
        if inside.interrupts(error):
            raise
        return Failure.from_exception(error)


def _prepare(step: Map, task: Task, store: Store) -> None:
    """Prepares the step before its first task in this process. Raises SelectorError if it cannot be prepared."""
    if _PREPARED in vars(step):
        return
    alive.waiting(LOADING)
    try:
        step.prepare(task, store)
    except SelectorError:
        raise
    except BaseException as error:
        if inside.interrupts(error):
            raise
        raise SelectorError(
            f"{step.name} cannot begin: {sentence(Failure.from_exception(error).detail)} "
            "Put it right and run the same command again: finished parts are kept."
        ) from error
    vars(step)[_PREPARED] = True


@dataclass(frozen=True, kw_only=True)
class ErrorMessage:
    """A SelectorError as plain text, for the way from a worker to the driver: not every exception survives pickling."""

    name: str
    args: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def from_error(cls, error: SelectorError) -> "ErrorMessage":
        name = next(base.__name__ for base in type(error).__mro__ if vars(errors).get(base.__name__) is base)
        args = (error.key, error.reason) if isinstance(error, DamagedError) else (str(error),)
        return cls(name=name, args=args, notes=tuple(getattr(error, "__notes__", ())))

    def to_error(self) -> SelectorError:
        """The error as it was."""
        error: SelectorError = getattr(errors, self.name)(*self.args)
        for note in self.notes:
            error.add_note(note)
        return error


@dataclass(frozen=True, kw_only=True)
class Counted:
    """An answer on its way to the driver, with what the worker counted since its last one, by name and label."""

    answer: Any
    counted: Mapping[str, Mapping[str, int]]


Command = Literal["load", "prepare", "do"]


class WorkerState:
    """The worker itself: what it has loaded, and how it does as it is told."""

    def __init__(self) -> None:
        self._work: Work | None = None

    def answer(self, command: Command, given: Any) -> Any:
        """The answer: that of the work, or how it failed; as `Counted` where anything was. Raises nothing.

        What the work says of itself meanwhile goes to whoever listens (`alive.heard_by`).
        """
        answer, counted = self._answer(command, given), counts.taken()
        return Counted(answer=answer, counted=counted) if counted else answer

    def _answer(self, command: Command, given: Any) -> Any:
        try:
            if command == "load":
                self._work = None  # what the last work holds goes before the next one's comes
                self._work = given.opened()
                return None
            assert self._work is not None, "a worker is told to load before it is given anything"
            return self._work.prepare(given) if command == "prepare" else self._work(given)
        except SelectorError as error:
            return ErrorMessage.from_error(error)
        except BaseException as error:  # also KeyboardInterrupt: no worker is interrupted by anybody
            return Failure.from_exception(error)


def serve(pipe: int) -> None:
    """Does as it is told through the pipe, until that ends; then the process ends too, whatever it is doing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal's group too, it is the driver that ends workers
    signal.signal(signal.SIGTERM, lambda *_: None)  # not SIG_IGN, which what work starts would inherit
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    connection, state = Connection(pipe), WorkerState()
    while True:
        try:
            message = connection.recv_bytes()
        except (EOFError, OSError):
            os._exit(0)
        try:
            with alive.heard_by(alive.Telling(functools.partial(_send, connection))):
                answer = state.answer(*unpickled(message))
        except BaseException as error:  # of what it was told: a module, say, that is not there
            answer = Failure.from_exception(error)
        del message
        _send(connection, answer)
        del answer


def _send(connection: "Connection[Any, Any]", answer: Any) -> None:
    with contextlib.suppress(OSError):  # nobody is there: the next word will not come
        connection.send_bytes(pickled(answer))


def _end_with(pipe: int) -> None:
    poll = select.poll()
    poll.register(pipe, select.POLLHUP)
    poll.poll()
    os._exit(0)
