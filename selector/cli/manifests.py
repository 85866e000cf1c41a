"""Commands that look at manifests."""

from typing import Annotated, Any

import typer

from selector.cli.app import Json, ManifestUri, Root, Verbose, app, print_json, print_row
from selector.errors import SelectorError


@app.command()
def show(
    manifest: Annotated[
        str | None, typer.Argument(metavar="MANIFEST", help="A run's folder; without it, all runs.")
    ] = None,
    root: Root = "./runs",
    json: Json = False,
    _: Verbose = False,
) -> None:
    """Describe a manifest: what was kept, what was left out and why, the mixture, difficulty along the order."""
    from selector.cli import report

    if manifest is None:
        runs = report.list_runs(root)
        if json:
            print_json({"runs": runs})
        else:
            report.print_runs(root, runs)
    else:
        opened = _open(manifest)
        if json:
            print_json(opened.describe())
        else:
            report.print_manifest(opened)


@app.command()
def verify(manifest: ManifestUri, json: Json = False, _: Verbose = False) -> None:
    """Check every byte of a manifest against its digests."""
    verified = _open(manifest).verify()
    if json:
        print_json({"ok": verified.ok, "digest": verified.digest, "problems": list(verified.problems)})
    elif verified.ok:
        print(f"ok {verified.digest}")
    else:
        print("\n".join(verified.problems))
    if not verified.ok:
        raise typer.Exit(SelectorError.exit_code)


@app.command()
def at(manifest: ManifestUri, position: int, json: Json = False, _: Verbose = False) -> None:
    """Show what the trainer sees at a position of the order."""
    print_row(_open(manifest).at(position), json)


@app.command()
def when(manifest: ManifestUri, doc_id: str, json: Json = False, _: Verbose = False) -> None:
    """Show the positions at which a document is seen."""
    positions = _open(manifest).when(doc_id)
    if json:
        print_json({"doc_id": doc_id, "positions": positions})
    else:
        for place in positions:
            print(place)


@app.command()
def explain(manifest: ManifestUri, doc_id: str, json: Json = False, _: Verbose = False) -> None:
    """Say what became of a document, and why."""
    from selector.cli import report

    explanation = _open(manifest).explain(doc_id)
    print_row(explanation if json else report.readable(explanation), json)


def _open(uri: str) -> Any:
    from selector.manifest import Manifest

    return Manifest.open(uri)
