"""Commands that look at manifests."""

import re
import sys
from typing import Annotated, Any

import typer
import typer.core

from selector.cli.app import Json, ManifestUri, Root, Verbose, app, opened_root, print_json, print_row
from selector.errors import NotFoundError, SelectorError
from selector.storage import open_storage


class _TakesNegative(typer.core.TyperCommand):
    """A command to whom -1 is a number that somebody asks for, and not an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        numbers = [] if "--" in args else [word for word in args if re.fullmatch(r"-[0-9.]+", word)]
        return super().parse_args(
            ctx, [word for word in args if word not in numbers] + ["--"] * bool(numbers) + numbers
        )


@app.command()
def show(
    manifest: Annotated[
        str | None, typer.Argument(metavar="MANIFEST", help="A run's folder, or its name below --root; or all runs.")
    ] = None,
    root: Root = "./runs",
    json: Json = False,
    _: Verbose = False,
) -> None:
    """Describe a manifest: what was kept, what was left out and why, the mixture, difficulty along the order."""
    from selector.cli import report

    if manifest is None:
        runs = report.list_runs(opened_root(root))
        if json:
            print_json({"runs": runs})
        else:
            report.print_runs(root, runs)
    else:
        opened = opened_manifest(manifest, root)
        if json:
            print_json(opened.describe())
        else:
            report.print_manifest(opened)


@app.command()
def verify(manifest: ManifestUri, root: Root = "./runs", json: Json = False, _: Verbose = False) -> None:
    """Check every byte of a manifest against its digests."""
    verified = opened_manifest(manifest, root).verify()
    if json:
        print_json({"ok": verified.ok, "digest": verified.digest, "problems": list(verified.problems)})
    elif verified.ok:
        print(f"ok {verified.digest}")
    else:
        print("\n".join(verified.problems))
    if not verified.ok:
        raise typer.Exit(SelectorError.exit_code)


@app.command(cls=_TakesNegative)
def at(manifest: ManifestUri, position: int, root: Root = "./runs", json: Json = False, _: Verbose = False) -> None:
    """Show what the trainer sees at a position of the order: with --json the visit's row, else its text too."""
    from selector.cli import report

    opened = opened_manifest(manifest, root)
    visit = opened.at(position)
    print_row(visit if json else report.seen(opened, visit), json)


@app.command()
def when(manifest: ManifestUri, doc_id: str, root: Root = "./runs", json: Json = False, _: Verbose = False) -> None:
    """Show the positions at which a document is seen."""
    from selector.cli import report

    opened = opened_manifest(manifest, root)
    positions = opened.when(doc_id)
    if not positions:
        explanation = report.readable(opened.explain(doc_id))  # raises where the corpus has no such document
        reason = explanation["unvisited"] or explanation["reason"]
        print(f"It is not in the order ({explanation['outcome']}): {reason}.", file=sys.stderr)
    if json:
        print_json({"doc_id": doc_id, "positions": positions})
    else:
        for position in positions:
            print(position)


@app.command()
def explain(manifest: ManifestUri, doc_id: str, root: Root = "./runs", json: Json = False, _: Verbose = False) -> None:
    """Say what became of a document, and why."""
    from selector.cli import report

    explanation = opened_manifest(manifest, root).explain(doc_id)
    print_row(explanation if json else report.readable(explanation), json)


def opened_manifest(uri: str, root: str) -> Any:
    """The manifest at an address, or else of the run of that name below the root."""
    from selector.manifest import Manifest

    try:
        return Manifest.open(uri)
    except NotFoundError:
        is_name = re.fullmatch(r"[0-9A-Za-z_-]+", uri) is not None
        if not is_name or open_storage(root).get(f"{uri}/plan.json") is None:
            raise
        return Manifest.open(f"{root}/{uri}")
