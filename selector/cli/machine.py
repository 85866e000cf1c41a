"""Commands about this machine and what is on it: plug-ins, its fitness, what may go."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selector.cli.app import Json, Root, Verbose, app, only_our_output, opened_root, print_json
from selector.errors import SelectorError
from selector.storage import path_here

if TYPE_CHECKING:
    from selector.cli.doctor import Finding


@app.command(name="plugins")
def list_plugins(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One of them, or package.module:Class; or all.")
    ] = None,
    gallery: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write a page into this folder with a picture of each order, or of NAME.",
            parser=path_here,
        ),
    ] = None,
    json: Json = False,
    _: Verbose = False,
) -> None:
    """List the raters, selectors, orders and executors that a policy may name, or say all of one of them."""
    from selector import plugins
    from selector.cli import report

    if gallery is not None:
        _write_gallery(gallery, name, json)
        return
    with only_our_output():
        families = (
            {family: plugins.describe(family) for family in plugins.FAMILIES}
            if name is None
            else plugins.document(name)
        )
    if json:
        print_json(families)
    else:
        report.print_plugins(families)


def _write_gallery(folder: Path, name: str | None, json: bool) -> None:
    from selector import plugins
    from selector.cli.gallery import write

    with only_our_output():
        if name is not None:
            plugins.find("orders", name)  # raises for what is none
        outcome = write(folder, plugins.names("orders") if name is None else [name])
    if json:
        print_json(outcome)
    else:
        print(outcome["page"])
        for order in (order for order in outcome["orders"] if order["picture"] is None):
            print(f"{order['name']} has no picture: {order['problem']}", file=sys.stderr)


@app.command()
def doctor(
    root: Root = "./runs",
    address: Annotated[
        str | None,
        typer.Option("--address", help="Also look at every node of this cluster: host:port, or http://HEAD:8265."),
    ] = None,
    corpus: Annotated[
        list[str] | None, typer.Option("--corpus", help="With --address: files that every node has to read.")
    ] = None,
    json: Json = False,
    _: Verbose = False,
) -> None:
    """Say whether this machine, or a whole cluster, has what a run needs."""
    from selector.cli import report
    from selector.cli.doctor import examine

    with only_our_output():
        findings = examine(root) if address is None else _examine_cluster(address, root, corpus or [])
    if json:
        print_json(
            {"ok": all(finding.ok for finding in findings), "findings": [asdict(finding) for finding in findings]}
        )
    else:
        report.print_findings(findings)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(SelectorError.exit_code)


def _examine_cluster(address: str, root: str, corpora: Sequence[str]) -> "list[Finding]":
    from selector import plugins
    from selector.cli import jobs
    from selector.cli.doctor import Look, examine_cluster
    from selector.engine.executor import Executor
    from selector.storage import open_storage

    if address.startswith(("http://", "https://")):
        return jobs.examined(address, open_storage(root).address, corpora)
    executor: Any = plugins.make("executors", "ray", {"address": address}, "--address", Executor)
    look = Look(root=root, corpora=tuple(corpora))
    return examine_cluster(executor.on_each_node(look), look(), root)


@app.command()
def gc(
    root: Root = "./runs",
    delete: Annotated[bool, typer.Option("--delete", help="Remove it, rather than list it.")] = False,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Give up runs that have no manifest yet.")] = False,
    json: Json = False,
    _: Verbose = False,
) -> None:
    """List what no manifest needs; with --delete, remove it."""
    from selector.cli import report
    from selector.engine import gc as garbage_collection
    from selector.engine.store import Store
    from selector.errors import UsageError

    store = Store(opened_root(root))
    garbage = garbage_collection.find(store)
    if delete:
        if garbage.unfinished and not unfinished:
            runs = "1 run has" if len(garbage.unfinished) == 1 else f"{len(garbage.unfinished)} runs have"
            raise UsageError(
                f"{runs} no manifest yet ({', '.join(garbage.unfinished)}). "
                "Finish what is to stay, or give it up with --unfinished."
            )
        garbage_collection.remove(store, garbage)
    if json:
        print_json(
            {
                "deleted": delete,
                "bytes": garbage.num_bytes,
                "keys": list(garbage.keys),
                "unfinished": list(garbage.unfinished),
                "at_work": list(garbage.at_work),
            }
        )
    else:
        for key in garbage.keys:
            print(key)
        print(report.of_garbage(garbage, is_removed=delete), file=sys.stderr)
