"""The command itself: its groups of commands, their common options, and how each of them ends."""

import contextlib
import json as json_module
import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from selector import __version__
from selector.errors import NotFoundError, SelectorError, UsageError
from selector.storage import Storage, open_storage

QUARANTINED = 3
INTERRUPTED = 130
TERMINATED = 143

# By way of its child, since typer gives it no public name.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

_VERBOSE = "selector.verbose"
_INTERRUPTED = "Interrupted. Finished parts are kept: the same command goes on from here."
_TERMINATED = "Terminated. Finished parts are kept: the same command goes on from here."


class Terminated(KeyboardInterrupt):
    """Somebody asked this process to end (SIGTERM): it stops as cleanly as after Ctrl-C."""


@contextlib.contextmanager
def _terminated_cleanly() -> Generator[None]:
    """Until it is left, SIGTERM raises Terminated, once: the second one would break off the clean end of the first."""

    is_asked = False

    def terminate(*_: object) -> NoReturn:
        nonlocal is_asked
        is_asked = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt as error:
        if is_asked:  # Ray makes one of its own of whatever interrupts it
            raise Terminated from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


class Commands(typer.core.TyperGroup):
    """Ends every command with its exit code; an error is a message on stderr, with -v also a traceback, and with --json
    also a JSON document on stdout."""

    def invoke(self, ctx: Any) -> Any:
        as_json = "--json" in ctx.args  # of the command: also where it cannot be parsed
        try:
            try:
                with _terminated_cleanly():
                    return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:  # whoever read our output has seen enough
            _close()
            raise typer.Exit(0) from None
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            ending = _Ending.of(error)
            if as_json:
                _print_ending(ending)
            if isinstance(error, _UsageError):
                raise  # typer knows how to show it
            if ctx.meta.get(_VERBOSE) and not isinstance(error, KeyboardInterrupt):
                traceback.print_exc()
            print(ending.printed, file=sys.stderr)
            raise typer.Exit(ending.code) from None


@dataclass(frozen=True, kw_only=True)
class _Ending:
    """How a command that failed ends."""

    kind: str
    message: str
    code: int
    printed: str  # on stderr

    @classmethod
    def of(cls, error: BaseException) -> "_Ending":
        kind, message = type(error).__name__, str(error)
        if isinstance(error, Terminated):
            return cls(kind="Terminated", message=_TERMINATED, code=TERMINATED, printed=_TERMINATED)
        if isinstance(error, KeyboardInterrupt):
            return cls(kind="Interrupted", message=_INTERRUPTED, code=INTERRUPTED, printed=_INTERRUPTED)
        if isinstance(error, SelectorError):
            return cls(kind=kind, message=message, code=error.exit_code, printed=f"error: {message}")
        if isinstance(error, _UsageError):
            usage: Any = error
            return cls(kind=UsageError.__name__, message=usage.format_message(), code=usage.exit_code, printed="")
        printed = f"error: {kind}: {message}\nThis is a fault of selector's. Run with -v to see where."
        return cls(kind=kind, message=message, code=SelectorError.exit_code, printed=printed)


def _print_ending(ending: _Ending) -> None:
    try:
        print_json({"error": {"kind": ending.kind, "message": ending.message, "exit_code": ending.code}})
        sys.stdout.flush()
    except BrokenPipeError:  # the code is that of the work
        _close()


def _close() -> None:
    """Nobody reads our output, and ending must not fail for that."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _set_verbose(ctx: typer.Context, value: bool) -> None:
    ctx.meta[_VERBOSE] = value or ctx.meta.get(_VERBOSE, False)  # before the command or after it


app = typer.Typer(
    name="selector",
    cls=Commands,
    help="Choose which documents a model trains on, and in what order.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Root = Annotated[str, typer.Option("--root", envvar="SELECTOR_ROOT", help="Where artefacts and runs lie.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Show the traceback of an error.", callback=_set_verbose, expose_value=False),
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a policy key.")]
PolicyFile = Annotated[Path, typer.Argument(metavar="POLICY", help="A YAML file.")]
ManifestUri = Annotated[str, typer.Argument(metavar="MANIFEST", help="A run's folder, or its name below --root.")]
ExecutorName = Annotated[str, typer.Option("--executor", help="Where work runs: ray or local.")]
Address = Annotated[
    str | None, typer.Option("--address", help="A Ray cluster; without it (and RAY_ADDRESS), one of its own.")
]
Actors = Annotated[int | None, typer.Option("--actors", min=1, help="Ray actors; by default one for each CPU or GPU.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes of the executor local; by default one for each core.")
]
Deadline = Annotated[
    float | None,
    typer.Option(
        "--deadline",
        min=0.1,
        help="Seconds without a sign of life after which work counts as hung, by default 300. With --executor local "
        "that is an item of a map on a process: parts run in this process, as all does with --workers 1, unwatched.",
    ),
]


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False, _: Verbose = False
) -> None:
    if version:
        print(__version__)
        raise typer.Exit(0)


def main() -> None:
    """The `selector` command."""
    app()


def opened_root(root: str) -> Storage:
    """The storage of a root that holds something. Raises NotFoundError."""
    storage = open_storage(root)
    if next(storage.list(""), None) is None:
        raise NotFoundError(f"There is nothing at {storage.address}. Give as --root the folder in which your runs lie.")
    return storage


def print_json(value: Any) -> None:
    """The one JSON document that a command prints."""
    print(json_module.dumps(value, ensure_ascii=False))


def print_row(row: dict[str, Any], as_json: bool) -> None:
    """A row, a line for each of its columns that has a value."""
    if as_json:
        print_json(row)
    else:
        shown = {name: value for name, value in row.items() if value is not None}
        width = max(len(name) for name in shown)
        for name, value in shown.items():
            print(f"{name:<{width}}  {f'{value:.6g}' if isinstance(value, float) else value}")
