"""Commands about what training reports."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from selector.cli.app import Json, ManifestUri, Root, Verbose, app, print_json
from selector.cli.manifests import opened_manifest
from selector.storage import path_here


@app.command()
def feedback(
    reports: Annotated[str, typer.Argument(metavar="REPORTS", help="The folder that selector.consume.Feedback wrote.")],
    manifest: ManifestUri,
    into: Annotated[
        Path,
        typer.Option(metavar="TABLE", help="The table, .parquet or .jsonl, that a policy names.", parser=path_here),
    ],
    kind: Annotated[
        str | None, typer.Option(help="loss or rollouts, where training reported both.", metavar="KIND")
    ] = None,
    root: Root = "./runs",
    json: Json = False,
    _: Verbose = False,
) -> None:
    """Join what training reported to its documents, and put it into the table that the next run reads."""
    from selector.consume.feedback import append
    from selector.errors import UsageError

    if kind not in (None, "loss", "rollouts"):
        raise UsageError(f"--kind is {kind!r}. Write loss or rollouts.")
    appended = append(reports, opened_manifest(manifest, root), into, kind)
    answer: dict[str, Any] = {"table": str(into), "rows": appended.rows, "changed": appended.changed}
    if appended.not_finite:
        answer["not_finite"] = appended.not_finite
    if json:
        print_json(answer)
    else:
        print(f"{into}: {appended.rows:,} rows, {appended.changed:,} of them new or changed")
        if appended.not_finite:
            print(f"{appended.not_finite:,} of the losses are not finite: did training diverge there?", file=sys.stderr)
