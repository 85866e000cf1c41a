"""The command line. stdout holds the result and nothing else; progress and warnings go to stderr.

Exit codes: 0 done, 1 the run failed, 2 bad usage or policy, 3 done with quarantined input, 4 not found,
5 cluster or storage unreachable, 130 interrupted.
"""

import json
import os
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from selector import __version__, plugins
from selector.errors import SelectorError

QUARANTINED = 3
INTERRUPTED = 130


# By way of its child, since typer gives it no public name.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class Commands(typer.core.TyperGroup):
    """Ends every command with its exit code; an error is a message, and with -v also a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except (typer.Exit, typer.Abort, _UsageError):
            raise
        except KeyboardInterrupt:
            print("Interrupted. Finished parts are kept: the same command goes on from here.", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except SelectorError as error:
            _show(f"error: {error}")
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:  # whoever read our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except Exception as error:  # whatever it is, a command ends with a message and a code
            _show(f"error: {type(error).__name__}: {error}\nThis is a fault of selector's. Run with -v to see where.")
            raise typer.Exit(SelectorError.exit_code) from None


def _show(message: str) -> None:
    if {"-v", "--verbose"} & set(sys.argv):
        traceback.print_exc()
    print(message, file=sys.stderr)


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
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of an error.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a policy key.")]
PolicyFile = Annotated[Path, typer.Argument(metavar="POLICY", help="A YAML file.")]
ManifestUri = Annotated[str, typer.Argument(metavar="MANIFEST", help="A run's folder, or the manifest in it.")]
ExecutorName = Annotated[str, typer.Option("--executor", help="Where work runs: ray or local.")]
Address = Annotated[
    str | None, typer.Option("--address", help="A Ray cluster; without it (and RAY_ADDRESS), one of its own.")
]
Actors = Annotated[int | None, typer.Option("--actors", min=1, help="Ray actors; by default one for each CPU or GPU.")]
Deadline = Annotated[
    float | None, typer.Option("--deadline", min=0.1, help="Seconds after which a part counts as hung.")
]


@app.command()
def demo(
    documents: Annotated[int, typer.Option("--documents", min=50, help="How many different docstrings.")] = 3000,
    folder: Annotated[Path, typer.Option("--folder", help="Where corpus, policy and runs go.")] = Path("selector-demo"),
    executor: ExecutorName = "ray",
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run the whole flow on the documentation that comes with your own Python."""
    del verbose
    from selector.cli import report
    from selector.cli.demo import prepare
    from selector.policy import Policy

    policy_file = prepare(folder, documents)
    outcome = _run(Policy.load(policy_file), str(folder / "runs"), _executor(executor))
    if json:
        _print_json(report.as_json(outcome))
    else:
        report.print_outcome(outcome, policy_file, str(folder / "runs"))
    _exit(outcome.num_quarantined)


@app.command()
def check(policy: PolicyFile, set_: Set = None, json: Json = False, verbose: Verbose = False) -> None:
    """Say whether a policy can be run, and what it says with every default spelt out."""
    del verbose
    import yaml

    from selector.policy import Policy, preflight

    checked = Policy.load(policy, set_ or ())
    preflight.check(checked)
    if json:
        _print_json(checked.resolved())
    else:
        print(yaml.safe_dump(checked.resolved(), sort_keys=False, allow_unicode=True), end="")


@app.command()
def plan(
    policy: PolicyFile,
    root: Root = "./runs",
    set_: Set = None,
    executor: ExecutorName = "ray",
    address: Address = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show what is cached and what a run would do."""
    del verbose
    from selector import pipeline
    from selector.cli import report
    from selector.policy import Policy

    planned = pipeline.plan(Policy.load(policy, set_ or ()), root=root, executor=_executor(executor, address=address))
    if json:
        _print_json({"steps": planned})
    else:
        report.print_plan(planned)


@app.command()
def run(
    policy: PolicyFile,
    root: Root = "./runs",
    set_: Set = None,
    executor: ExecutorName = "ray",
    address: Address = None,
    actors: Actors = None,
    deadline: Deadline = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Make the manifest of a policy, or finish it, or find it finished."""
    del verbose
    from selector.cli import report
    from selector.policy import Policy

    made = _executor(executor, address=address, actors=actors, deadline=deadline)
    outcome = _run(Policy.load(policy, set_ or ()), root, made)
    if json:
        _print_json(report.as_json(outcome))
    else:
        report.print_outcome(outcome, policy, root)
    _exit(outcome.num_quarantined)


@app.command()
def show(
    manifest: Annotated[
        str | None, typer.Argument(metavar="MANIFEST", help="A run's folder; without it, all runs.")
    ] = None,
    root: Root = "./runs",
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Describe a manifest: what was kept, what left where, the mixture, difficulty along the order."""
    del verbose
    from selector.cli import report

    if manifest is None:
        runs = report.list_runs(root)
        if json:
            _print_json({"runs": runs})
        else:
            report.print_runs(root, runs)
    else:
        opened = _open(manifest)
        if json:
            _print_json(opened.describe())
        else:
            report.print_manifest(opened)


@app.command()
def verify(manifest: ManifestUri, json: Json = False, verbose: Verbose = False) -> None:
    """Check every byte of a manifest against its digests."""
    del verbose
    found = _open(manifest).verify()
    if json:
        _print_json({"ok": found.ok, "digest": found.digest, "problems": list(found.problems)})
    elif found.ok:
        print(f"ok {found.digest}")
    else:
        print("\n".join(found.problems))
    if not found.ok:
        raise typer.Exit(SelectorError.exit_code)


@app.command()
def at(manifest: ManifestUri, position: int, json: Json = False, verbose: Verbose = False) -> None:
    """Show what the trainer sees at a position of the order."""
    del verbose
    _print_row(_open(manifest).at(position), json)


@app.command()
def when(manifest: ManifestUri, doc_id: str, json: Json = False, verbose: Verbose = False) -> None:
    """Show the positions at which a document is seen."""
    del verbose
    positions = _open(manifest).when(doc_id)
    if json:
        _print_json({"doc_id": doc_id, "positions": positions})
    else:
        for place in positions:
            print(place)


@app.command()
def explain(manifest: ManifestUri, doc_id: str, json: Json = False, verbose: Verbose = False) -> None:
    """Say what became of a document, and why."""
    del verbose
    _print_row(_open(manifest).explain(doc_id), json)


@app.command(name="plugins")
def list_plugins(json: Json = False, verbose: Verbose = False) -> None:
    """List the raters, selectors, orders and executors that a policy may name."""
    del verbose
    from selector.cli import report

    families = {family: plugins.describe(family) for family in ("raters", "selectors", "orders", "executors")}
    if json:
        _print_json(families)
    else:
        report.print_plugins(families)


@app.command()
def doctor(root: Root = "./runs", json: Json = False, verbose: Verbose = False) -> None:
    """Say whether this machine has what a run needs."""
    del verbose
    from selector.cli import report
    from selector.cli.doctor import examine

    findings = examine(root)
    if json:
        _print_json(
            {"ok": all(finding.ok for finding in findings), "findings": [asdict(finding) for finding in findings]}
        )
    else:
        report.print_findings(findings)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(SelectorError.exit_code)


@app.command()
def gc(
    root: Root = "./runs",
    delete: Annotated[bool, typer.Option("--delete", help="Remove it, rather than list it.")] = False,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Give up runs that have no manifest yet.")] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List what no manifest needs; with --delete, remove it."""
    del verbose
    from selector.engine import gc as garbage_collection
    from selector.engine.store import Store
    from selector.errors import UsageError

    store = Store.open(root)
    garbage = garbage_collection.find(store)
    if delete:
        if garbage.unfinished and not unfinished:
            raise UsageError(
                f"{len(garbage.unfinished)} runs have no manifest yet ({', '.join(garbage.unfinished)}). "
                "Finish them first, or give them up with --unfinished."
            )
        garbage_collection.remove(store, garbage)
    if json:
        _print_json(
            {
                "deleted": delete,
                "bytes": garbage.num_bytes,
                "keys": list(garbage.keys),
                "unfinished": list(garbage.unfinished),
            }
        )
    else:
        for key in garbage.keys:
            print(key)
        word = "removed" if delete else "could go; --delete removes them"
        print(f"{len(garbage.keys)} objects, {garbage.num_bytes / 1e6:.1f} MB: {word}", file=sys.stderr)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit(0)


def main() -> None:
    """The `selector` command."""
    app()


def _executor(name: str, **options: Any) -> Any:
    given = {key: value for key, value in options.items() if value is not None}
    return plugins.make("executors", name, given, "--executor")


def _run(policy: Any, root: str, executor: Any) -> Any:
    from selector import pipeline
    from selector.cli.progress import Watch

    with Watch() as watch:
        return pipeline.build(policy, root=root, executor=executor, progress=watch)


def _open(uri: str) -> Any:
    from selector.manifest import Manifest

    return Manifest.open(uri)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))


def _print_row(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(row)
    else:
        width = max(len(name) for name in row)
        for name, value in row.items():
            print(f"{name:<{width}}  {value}")


def _exit(num_quarantined: int) -> None:
    if num_quarantined:
        print(
            f"{num_quarantined} rows are in quarantine: quarantine.jsonl in the run's folder says why.", file=sys.stderr
        )
        raise typer.Exit(QUARANTINED)
