"""Commands that make a manifest, or say what making it would be."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selector.cli import jobs
from selector.cli.app import (
    QUARANTINED,
    Actors,
    Address,
    Deadline,
    ExecutorName,
    Explain,
    Json,
    MetricsAt,
    PolicyFile,
    Root,
    Set,
    Verbose,
    Workers,
    app,
    check_folder_of,
    only_our_output,
    print_json,
)
from selector.cli.loading import Allowed, NoForeign, load
from selector.errors import UsageError
from selector.storage import path_here

if TYPE_CHECKING:
    from selector.engine.executor import Executor
    from selector.policy import Policy


@app.command()
def demo(
    documents: Annotated[int, typer.Option("--documents", min=50, help="How many different docstrings.")] = 3000,
    folder: Annotated[
        Path, typer.Option("--folder", help="Where corpus, policy and runs go.", parser=path_here)
    ] = Path("selector-demo"),
    executor: ExecutorName = "ray",
    json: Json = False,
    _: Verbose = False,
) -> None:
    """Run the whole flow on the documentation that comes with your own Python."""
    from selector.cli.demo import prepare
    from selector.cli.metrics import watched
    from selector.policy import Policy

    print("Reading the documentation of your own Python.", file=sys.stderr)
    policy_file, root = prepare(folder, documents), str(folder / "runs")
    with only_our_output():
        loaded = Policy.load(policy_file)
        with watched(None) as watch:
            finished = _run(loaded, root, executor_of(executor), watch)
    _end(finished, loaded, _repeated(policy_file, root, executor), json)


@app.command()
def check(
    policy: PolicyFile,
    set_: Set = None,
    no_foreign_plugins: NoForeign = False,
    allowed: Allowed = None,
    json: Json = False,
    _: Verbose = False,
) -> None:
    """Say whether a policy can be run, and what it says with every default spelt out."""
    import yaml

    from selector.policy.corpus_check import check_corpus
    from selector.policy.resolve import resolve

    with only_our_output():
        resolved = resolve(load(policy, set_, no_foreign_plugins, allowed))
        check_corpus(resolved.policy, resolved.corpus_files.files)
        checked = resolved.policy
    if json:
        print_json(checked.resolved())
    else:
        print(yaml.safe_dump(checked.resolved(), sort_keys=False, allow_unicode=True), end="")


@app.command()
def plan(
    policy: PolicyFile,
    root: Root = "./runs",
    set_: Set = None,
    no_foreign_plugins: NoForeign = False,
    allowed: Allowed = None,
    executor: ExecutorName = "ray",
    address: Address = None,
    json: Json = False,
    _: Verbose = False,
) -> None:
    """Show what is cached and what a run would do."""
    from selector import pipeline
    from selector.cli import report

    with only_our_output():
        chosen = executor_of(executor, address=address)
        planned = pipeline.plan(load(policy, set_, no_foreign_plugins, allowed), root=root, executor=chosen)
    if json:
        training = {"training": planned.training} if planned.training is not None else {}
        print_json({"steps": [asdict(step) for step in planned.steps], **training})
    else:
        report.print_plan(planned)


@app.command("what-if")
def what_if(
    policy: PolicyFile,
    root: Root = "./runs",
    set_: Set = None,
    no_foreign_plugins: NoForeign = False,
    allowed: Allowed = None,
    executor: ExecutorName = "local",
    address: Address = None,
    json: Json = False,
    _: Verbose = False,
) -> None:
    """Show what would enter and leave if the policy said something else (--set), without making a manifest."""
    from selector.cli import report
    from selector.cli.progress import Watch
    from selector.cli.what_if import compare

    if not set_:
        raise UsageError(
            "what-if compares a policy with another one. Say what is other: --set select.budget.tokens=1M."
        )
    with only_our_output(), Watch() as watch:
        chosen = executor_of(executor, address=address)
        policies = [load(policy, words, no_foreign_plugins, allowed) for words in (None, set_)]
        change = compare(*policies, root=root, executor=chosen, progress=watch)
    if json:
        print_json(change)
    else:
        report.print_change(change)
    if policies[0].order != policies[1].order:
        print(
            "This compares what select chooses. What another order repeats or leaves is not counted.", file=sys.stderr
        )


@app.command()
def rate(
    policy: PolicyFile,
    root: Root = "./runs",
    set_: Set = None,
    no_foreign_plugins: NoForeign = False,
    allowed: Allowed = None,
    executor: ExecutorName = "ray",
    address: Address = None,
    actors: Actors = None,
    workers: Workers = None,
    deadline: Deadline = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Show rank correlations of scores with each other, with length and labels."),
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", help="With --compare: also draw them into this SVG file.", parser=path_here),
    ] = None,
    json: Json = False,
    _: Verbose = False,
) -> None:
    """Give every document the scores of a policy, and show what they are like, without a manifest."""
    from selector.cli import ratings, report
    from selector.cli.progress import Watch

    if picture is not None and not compare:
        raise UsageError("--picture draws what --compare shows. Add --compare.")
    if picture is not None:
        check_folder_of(picture, "--picture")
    with only_our_output(), Watch() as watch:
        chosen = executor_of(executor, address=address, actors=actors, workers=workers, deadline=deadline)
        rated = ratings.rate(
            load(policy, set_, no_foreign_plugins, allowed), root=root, executor=chosen, progress=watch
        )
    if not compare:
        del rated["agreement"]
    if picture is not None:
        _write(picture, ratings.picture(rated["agreement"]))
    if json:
        print_json(rated)
    else:
        report.print_ratings(rated)


def _write(file: Path, content: str) -> None:
    try:
        file.write_text(content, "utf-8")
    except OSError as error:
        raise UsageError(f"--picture {file}: {error.strerror or error}. Name a file that can be written.") from error


def _retry(policy: "Policy", root: str, executor: "Executor") -> None:
    """What a judge did not answer is asked again by the run that follows. Raises UsageError where there is no judge."""
    from selector import pipeline
    from selector.engine.store import Store
    from selector.policy.resolve import resolve
    from selector.steps.rate import Rate

    store = Store.open(root)
    steps = [step for step in pipeline.flow(resolve(policy), executor) if isinstance(step, Rate)]
    judges = [step for step in steps if step.retry(store)]
    if not judges:
        raise UsageError("--retry-failed asks a judge again, and this policy has none.")


@app.command()
def run(
    policy: PolicyFile,
    root: Root = "./runs",
    set_: Set = None,
    no_foreign_plugins: NoForeign = False,
    allowed: Allowed = None,
    executor: ExecutorName = "ray",
    address: Address = None,
    actors: Actors = None,
    workers: Workers = None,
    deadline: Deadline = None,
    controls: Annotated[
        int,
        typer.Option("--controls", min=0, help="Also write so many matched random orders of it; alone: one."),
    ] = 0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask a judge once more for the scores that it did not give.")
    ] = False,
    metrics: MetricsAt = None,
    explain_resources: Explain = False,
    json: Json = False,
    _: Verbose = False,
) -> None:
    """Make the manifest of a policy, or finish it, or find it finished."""
    from selector.cli.controls import control
    from selector.cli.metrics import watched

    with only_our_output(), jobs.as_job(root):
        chosen = executor_of(executor, address=address, actors=actors, workers=workers, deadline=deadline)
        loaded = load(policy, set_, no_foreign_plugins, allowed)
        if retry_failed:
            _retry(loaded, root, chosen)
        if explain_resources:
            _explain(loaded, root, executor, chosen)
        with watched(metrics) as watch:
            finished = _run(loaded, root, chosen, watch)
            jobs.finished(root, finished)
            compared = [_run(control(loaded, finished.uri, draw), root, chosen, watch) for draw in range(controls)]
    again = _repeated(
        policy, root, executor, address=address, actors=actors, workers=workers, deadline=deadline,
        controls=controls or None, set=set_,
    )  # fmt: skip
    _end(finished, loaded, again, json, compared)


@app.command()
def work(
    policy: PolicyFile,
    share: Annotated[str, typer.Option("--share", metavar="I/N", help="The share that is done first, e.g. 2/8.")],
    root: Root = "./runs",
    set_: Set = None,
    no_foreign_plugins: NoForeign = False,
    allowed: Allowed = None,
    executor: ExecutorName = "local",
    address: Address = None,
    workers: Workers = None,
    deadline: Deadline = None,
    metrics: MetricsAt = None,
    json: Json = False,
    _: Verbose = False,
) -> None:
    """Do a share of a run's parts, beside others on other machines; `run` then selects."""
    from selector.cli.metrics import watched
    from selector.cli.work import work as worked
    from selector.engine.share import Shared

    with only_our_output(), jobs.as_job(root, is_whole=False), watched(metrics) as watch:
        chosen = executor_of(executor, address=address, workers=workers, deadline=deadline)
        loaded = load(policy, set_, no_foreign_plugins, allowed)
        results = worked(loaded, root=root, executor=Shared.of(chosen, share), progress=watch)
    steps = [
        {name: getattr(result, name) for name in ("name", "fingerprint", "cached", "rows_in", "rows_out", "seconds")}
        for result in results
    ]
    if json:
        print_json({"steps": steps})
    else:
        print(f"{len(steps)} steps are done, {steps[-1]['name']} the last of them.")


def executor_of(name: str, **options: Any) -> "Executor":
    """The executor of this name, with those of the options that were given. Raises UsageError for one not its own."""
    from selector import plugins
    from selector.engine.executor import Executor

    given = {key: value for key, value in options.items() if value is not None}
    cls = plugins.find("executors", name)
    known = {field.name for field in fields(cls)} if is_dataclass(cls) else {*given}
    for key in given:
        if key not in known:
            taken = " and ".join(f"--{option}" for option in options if option in known)
            cure = " Write --executor ray too." if name == "local" and key in ("address", "actors") else ""
            raise UsageError(f"--{key} is not for the executor {name}, which takes {taken or 'none of these'}.{cure}")
    return plugins.make("executors", name, given, "--executor", Executor)


def _explain(policy: "Policy", root: str, name: str, executor: Any) -> None:
    """What each worker of the run needs beside what the nodes have, on stderr."""
    from selector import pipeline
    from selector.engine.store import Store
    from selector.policy.resolve import resolve

    if not hasattr(executor, "explain"):
        raise UsageError(f"--explain-resources is about the nodes of a cluster, and the executor {name} has none.")
    for line in executor.explain(pipeline.flow(resolve(policy), executor), Store.open(root)):
        print(line, file=sys.stderr)


def _run(policy: Any, root: str, executor: Any, watch: Any) -> Any:
    from selector import pipeline

    return pipeline.build(policy, root=root, executor=executor, progress=watch)


def _repeated(policy: Path, root: str, executor: str, **options: Any) -> list[str]:
    """The words of the same command."""
    words = ["selector", "run", str(policy), "--root", root, "--executor", executor]
    for name, value in options.items():
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            words += [f"--{name}", str(one)]
    return words


def _end(finished: Any, policy: Any, repeated: Sequence[str], as_json: bool, controls: Sequence[Any] = ()) -> None:
    """Shows a finished run; exits with 3 where rows are in quarantine."""
    from selector.cli import report

    if as_json:
        print_json(report.as_json(finished, controls))
    else:
        report.print_run(finished, policy, repeated, controls)
    end_with_quarantine(finished.num_quarantined, "the run's folder")


def end_with_quarantine(num_rows: int, where: str) -> None:
    """Exits with 3 where rows are in quarantine."""
    if num_rows:
        rows = "1 row is" if num_rows == 1 else f"{num_rows} rows are"
        print(f"{rows} in quarantine: quarantine.jsonl in {where} says why.", file=sys.stderr)
        raise typer.Exit(QUARANTINED)
