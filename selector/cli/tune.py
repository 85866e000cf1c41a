"""Commands that compare policies, and say which is better and how sure that is."""

import contextlib
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from selector.cli.app import (
    Actors,
    Address,
    Deadline,
    ExecutorName,
    Json,
    Root,
    Verbose,
    Workers,
    app,
    only_our_output,
    opened_root,
    print_json,
)
from selector.cli.loading import Allowed, NoForeign
from selector.cli.runs import end_with_quarantine, executor_of
from selector.errors import UsageError
from selector.storage import path_here

if TYPE_CHECKING:
    from selector.tune.study import Study

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="A YAML file.", parser=path_here)]
SetStudy = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the study.")]


class _Commands(typer.core.TyperGroup):
    """`tune STUDY` is `tune run STUDY`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {*self.commands, "-h", "--help"}
        return super().parse_args(ctx, args if not args or args[0] in known else ["run", *args])


tune = typer.Typer(
    cls=_Commands, help="Compare policies, with controls and intervals: selector tune STUDY.", no_args_is_help=True
)
app.add_typer(tune, name="tune")


@tune.command()
def run(
    study: StudyFile,
    root: Root = "./runs",
    set_: SetStudy = None,
    no_foreign_plugins: NoForeign = False,
    allowed: Allowed = None,
    executor: ExecutorName = "local",
    address: Address = None,
    actors: Actors = None,
    workers: Workers = None,
    deadline: Deadline = None,
    json: Json = False,
    _: Verbose = False,
) -> None:
    """Try the arms of a study, and say which policy is best; or find it done (the word run may be left out)."""
    from selector.cli import studies, study_picture
    from selector.cli.progress import Watch
    from selector.tune import kept
    from selector.tune.run import run as tried

    with only_our_output(), _restricted(no_foreign_plugins, allowed), Watch() as watch:
        chosen = executor_of(executor, address=address, actors=actors, workers=workers, deadline=deadline)
        loaded = _load(study, set_, no_foreign_plugins)
        outcome = tried(
            loaded, root=root, executor=chosen, progress=watch, tell=lambda line: print(line, file=sys.stderr)
        )
        content = kept.keep(root, loaded, outcome, study_picture.draw(outcome.content))
    if json:
        print_json(content)
    else:
        studies.print_study(content)
    end_with_quarantine(content.get("quarantined", 0), "a run's folder")


@tune.command()
def plan(
    study: StudyFile,
    root: Root = "./runs",
    set_: SetStudy = None,
    no_foreign_plugins: NoForeign = False,
    allowed: Allowed = None,
    executor: ExecutorName = "local",
    address: Address = None,
    json: Json = False,
    _: Verbose = False,
) -> None:
    """Say what a study will run and cost, and what of it is stored."""
    from selector.cli import studies
    from selector.tune.plan import plan as planned

    with only_our_output(), _restricted(no_foreign_plugins, allowed):
        chosen = executor_of(executor, address=address)
        foreseen = planned(_load(study, set_, no_foreign_plugins), root=root, executor=chosen)
    if json:
        print_json(foreseen)
    else:
        studies.print_plan(foreseen)


@tune.command()
def show(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Its YAML file, or the id that `tune` printed.")],
    root: Root = "./runs",
    set_: SetStudy = None,
    no_foreign_plugins: NoForeign = False,
    allowed: Allowed = None,
    json: Json = False,
    _: Verbose = False,
) -> None:
    """Show what a finished study says."""
    from selector.cli import studies
    from selector.tune import kept

    with only_our_output(), _restricted(no_foreign_plugins, allowed):
        name = study
        if Path(study).is_file() or Path(study).suffix in (".yaml", ".yml") or "/" in study:
            name = kept.name_of(_load(Path(study), set_, no_foreign_plugins))
        content = kept.content(opened_root(root), name)
    if json:
        print_json(content)
    else:
        studies.print_study(content)


@contextlib.contextmanager
def _restricted(no_foreign: bool, allowed: list[str] | None) -> Generator[None]:
    """Until it is left, what a study or one of its policies names is no Python code, if that is so, and lies below what
    is allowed."""
    from selector import plugins

    with contextlib.ExitStack() as limits:
        if no_foreign:
            limits.enter_context(plugins.installed_only())
        if allowed:
            limits.enter_context(plugins.only_below(allowed))
        yield


def _load(path: Path, overrides: list[str] | None, no_foreign: bool) -> "Study":
    from selector.tune.study import Study

    study = Study.load(path, overrides or ())
    if no_foreign and study.plugin.runs_programs:
        raise UsageError(
            f"The study names a program to run (objective {study.objective.label}), which --no-foreign-plugins refuses."
        )
    return study
