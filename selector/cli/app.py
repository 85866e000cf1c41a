"""The command itself: its groups of commands, their common options, and how each of them ends."""

import atexit
import json as json_module
import math
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import typer
import typer.core

from selector import __version__
from selector.__main__ import end_at_once
from selector.cli import streams
from selector.errors import NotFoundError, SelectorError, UsageError
from selector.storage import Storage, open_storage, path_here

QUARANTINED = 3
INTERRUPTED = 130
TERMINATED = 143

# By way of its child, since typer gives it no public name.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

_VERBOSE, _JSON = "selector.verbose", "selector.json"
_INTERRUPTED = "Interrupted. Finished parts are kept: the same command goes on from here."
_TERMINATED = "Terminated. Finished parts are kept: the same command goes on from here."


class Terminated(KeyboardInterrupt):
    """Somebody asked this process to end (SIGTERM): it stops as cleanly as after Ctrl-C."""


@dataclass(kw_only=True)
class _Signals:
    """What Ctrl-C and SIGTERM do to a command: they break off its work, and leave alone what comes after that."""

    is_at_work: bool = False
    is_over: bool = False  # the work: its exit code is known
    is_terminated: bool = False
    is_interrupted: bool = False  # by either of them

    def __call__(self, number: int, frame: Any) -> None:
        if self.is_over or (self.is_terminated and number == signal.SIGTERM):
            return  # a second SIGTERM would break off the clean end of the first
        if not self.is_at_work:
            end_at_once(number, frame)
        self.is_interrupted = True
        if number == signal.SIGTERM:
            self.is_terminated = True
            raise Terminated
        raise KeyboardInterrupt


_signals = _Signals()
"""The one object that handles the signals of this process: a process runs one command."""


class Commands(typer.core.TyperGroup):
    """Ends every command with its exit code; an error is a message on stderr, with -v also a traceback, and with --json
    also a JSON document on stdout."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        as_json = _is_json_asked(args)
        try:
            return super().make_context(info_name, _with_numbers(args), *rest, **extra)
        except _UsageError as error:
            if as_json:
                _print_ending(_Ending.of(error))
            raise

    def invoke(self, ctx: Any) -> Any:
        as_json = ctx.meta.get(_JSON) or _is_json_asked(ctx.args)  # of the command: also where it cannot be parsed
        _signals.is_at_work = True
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            _signals.is_over = True
            # Ray makes an interrupt of its own of whatever interrupts it
            ending = _Ending.of(Terminated() if _signals.is_terminated else error)
            if as_json:
                _print_ending(ending)
            if isinstance(error, _UsageError):
                raise  # typer knows how to show it
            if ctx.meta.get(_VERBOSE) and not isinstance(error, KeyboardInterrupt):
                traceback.print_exc()
            print(ending.printed, file=sys.stderr)
            raise typer.Exit(ending.code) from None
        finally:
            _signals.is_over = True


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
    print_json({"error": {"kind": ending.kind, "message": ending.message, "exit_code": ending.code}})


def _is_json_asked(words: Sequence[str]) -> bool:
    return any(word == "--json" or word.startswith("--json=") for word in words)


def _with_numbers(words: Sequence[str]) -> list[str]:
    """The words of a command, in which `--controls` without a number is `--controls 1`."""
    pairs = zip(words, [*words[1:], ""], strict=False)
    return [
        one
        for word, after in pairs
        for one in ([word, "1"] if word == "--controls" and not after.isdigit() else [word])
    ]


def _set_verbose(ctx: typer.Context, value: bool) -> None:
    ctx.meta[_VERBOSE] = value or ctx.meta.get(_VERBOSE, False)  # before the command or after it


def _set_json(ctx: typer.Context, value: bool) -> bool:
    ctx.meta[_JSON] = value or ctx.meta.get(_JSON, False)  # as above
    return ctx.meta[_JSON]


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
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.", callback=_set_json)]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Show the traceback of an error.", callback=_set_verbose, expose_value=False),
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a policy key.")]
PolicyFile = Annotated[Path, typer.Argument(metavar="POLICY", help="A YAML file.", parser=path_here)]
ManifestUri = Annotated[str, typer.Argument(metavar="MANIFEST", help="A run's folder, or its name below --root.")]
ExecutorName = Annotated[str, typer.Option("--executor", help="Where work runs: ray or local.")]
Address = Annotated[
    str | None, typer.Option("--address", help="A Ray cluster; without it (and RAY_ADDRESS), one of its own.")
]
Actors = Annotated[int | None, typer.Option("--actors", min=1, help="Ray actors; by default one for each CPU or GPU.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes of the executor local; by default one for each core.")
]
Explain = Annotated[
    bool,
    typer.Option("--explain-resources", help="Say what every worker needs, and why a node of the cluster holds none."),
]
MetricsAt = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="[HOST:]PORT",
        envvar="SELECTOR_METRICS",
        help="Serve metrics for Prometheus while it runs: on this machine alone, unless a host says otherwise; port 0 "
        "takes any that is free.",
    ),
]
Deadline = Annotated[
    float | None,
    typer.Option(
        "--deadline",
        min=0.1,
        help="Seconds without a sign of life after which work counts as hung, by default 300. With --executor local "
        "it is watched only where this is given: then parts too are done on processes of their own.",
    ),
]


@app.callback(invoke_without_command=True)
def _version(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    json: Json = False,
    _: Verbose = False,
) -> None:
    if version:
        print_json({"version": __version__}) if json else print(__version__)
        raise typer.Exit(0)
    if ctx.invoked_subcommand is None:
        raise UsageError("There is no command. selector --help lists them.")


def main() -> None:
    """The `selector` command."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _signals)
    streams.take()
    try:
        app(prog_name="selector")
    except SystemExit as ended:
        _signals.is_over = True
        for number in (signal.SIGINT, signal.SIGTERM):  # which Python would let through again as it ends
            signal.signal(number, signal.SIG_IGN)
        problem = streams.unprinted()
        if problem is not None:
            print(f"The result could not be printed: {problem}.", file=sys.stderr)
        if not _signals.is_interrupted:
            raise
        sys.stderr.flush()
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
        # Python ends by SIGINT, whatever it is told, where an interrupt came while it compiled some text.
        os._exit(ended.code if isinstance(ended.code, int) else SelectorError.exit_code)


def only_our_output() -> AbstractContextManager[Any]:
    """Sends to stderr what a plug-in prints: stdout holds the result and nothing else."""
    return redirect_stdout(sys.stderr)


def check_folder_of(path: Path, option: str) -> None:
    """A file can be written there, as far as its folder tells. Raises UsageError, before the work that it is for."""
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {str(path.parent)!r}. Make it, or name another file.")


def opened_root(root: str) -> Storage:
    """The storage of a root that holds something. Raises NotFoundError."""
    storage = open_storage(root)
    if next(storage.list(""), None) is None:
        raise NotFoundError(f"There is nothing at {storage.address}. Give as --root the folder in which your runs lie.")
    return storage


def print_json(value: Any) -> None:
    """The one JSON document that a command prints."""
    _signals.is_over = True  # with it the work is done
    value = _as_json(value)
    text = json_module.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json_module.dumps(value)
    print(text)


def _as_json(value: Any) -> Any:
    """The value with what JSON has: null for NaN and infinities, text for a date."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(inner) for key, inner in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(inner) for inner in cast(Sequence[Any], value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


def print_row(row: dict[str, Any], as_json: bool) -> None:
    """A row, a line for each of its columns that has a value."""
    if as_json:
        print_json(row)
    else:
        shown = {name: value for name, value in row.items() if value is not None}
        width = max(len(name) for name in shown)
        for name, value in shown.items():
            print(f"{name:<{width}}  {f'{value:.6g}' if isinstance(value, float) else value}")
