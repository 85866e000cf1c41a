"""The flow, a line a step, from survey to manifest.

A step is data that names the steps it reads; what it makes is sealed under a fingerprint of that. So what is done is
found, a changed option runs that step and those below it, and what nothing reads does not run. The manifest is last.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selector import counts
from selector.engine import gc
from selector.engine.executor import Executor
from selector.engine.lease import Lease
from selector.engine.runner import NoProgress, Progress, Runner, repair
from selector.engine.step import Done, Result, Step, needed
from selector.errors import DamagedError, SelectorError, UsageError
from selector.manifest import Manifest
from selector.policy import Policy
from selector.policy.resolve import Resolved, resolve
from selector.steps import foreseen, given
from selector.steps.plan import Plan
from selector.steps.run import Run, begun_again, warned


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A finished run."""

    manifest: Manifest
    uri: str
    steps: Sequence[Result]
    flow: Sequence[Step]
    seconds: float
    num_quarantined: int


def flow(policy: Resolved, executor: Executor, wanted: Sequence[str] = ("manifest",)) -> list[Step]:
    """The steps that the wanted ones need, in an order in which each comes after those that it reads."""
    plan = Plan.of(policy, executor.device())
    steps: list[Step | None] = [
        plan.survey,
        plan.ingest,
        plan.columns,
        plan.dedup,
        plan.embed,
        plan.centroids,
        plan.cluster,
        plan.neighbours,
        *plan.attached,
        *plan.ratings,
        plan.listed,
        plan.select,
        plan.order,
        plan.manifest,
    ]
    return needed([step for step in steps if step is not None], wanted)


def run(
    policy: Policy | Mapping[str, Any] | str | Path,
    *,
    root: str | os.PathLike[str] = "./runs",
    executor: str | Executor = "ray",
    progress: Progress | None = None,
) -> Manifest:
    """The manifest of a policy (a Policy, a mapping, or the path of a YAML file): made, resumed, or found finished."""
    wanted, chosen = given.policy(policy), given.executor(executor)
    return warned(build(wanted, root=root, executor=chosen, progress=given.progress(progress)).manifest)


@begun_again
def build(
    policy: Policy, *, root: str | os.PathLike[str], executor: Executor, progress: Progress | None = None
) -> FinishedRun:
    """As `run`, with what each step did. Damaged artefacts are discarded and computed again."""
    began, resolved = counts.Mark.now(), resolve(policy)
    steps = flow(resolved, executor)
    opened = Run.open(resolved, steps, root)

    def finished(done: Done, manifest: Manifest) -> FinishedRun:
        return FinishedRun(
            manifest=manifest, uri=opened.address(done), steps=list(done.values()), flow=steps,
            seconds=began.seconds(), num_quarantined=manifest.info["counts"]["quarantined"],
        )  # fmt: skip

    try:
        lease = Lease.taken(opened.store.storage)
    except UsageError:
        done = opened.if_finished(steps, executor, progress or NoProgress())
        if done is None:
            raise
        return finished(done, Manifest.open(opened.address(done)))
    num_repairs: dict[str, int] = {}
    with lease, opened.watched(lease, progress, began) as journal:
        gc.clear_up(opened.store.storage, lease.key)
        while True:
            lease.hold((), ())
            with Runner(opened.store, executor, journal, lease) as runner:
                try:
                    done = runner.run(steps, opened.after(lease, journal))
                    return finished(done, opened.finish(done, runner))
                except DamagedError as damaged:
                    num_repairs[damaged.key] = num_repairs.get(damaged.key, 0) + 1
                    if num_repairs[damaged.key] > 3:
                        raise SelectorError(
                            f"{damaged} It was computed again three times: {root} does not keep what is written to it."
                        ) from damaged
                    repair(opened.store, damaged)


def plan(policy: Policy, *, root: str | os.PathLike[str], executor: Executor) -> foreseen.Foreseen:
    """What a run would do with every step, and where its updates would count. Nothing is written."""
    resolved = resolve(policy)
    steps = flow(resolved, executor)
    opened = Run.open(resolved, steps, root, is_dry=True)
    with Runner(opened.store, executor) as runner:
        return foreseen.of(runner.plan(steps, opened.after()), resolved, runner.done)
