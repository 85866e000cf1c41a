"""A share of a run's parts: everything up to rating, by one of several processes that have only the root in common."""

from collections.abc import Sequence

from selector.engine.executor import Executor
from selector.engine.lease import Lease
from selector.engine.runner import Progress, Runner
from selector.engine.step import Result
from selector.pipeline import flow
from selector.policy import Policy
from selector.policy.resolve import resolve
from selector.steps.run import Run

_FIRST_OF_ALL = ("listed", "select")
"""The steps that look at all documents at once; from the first of them on there is nothing to share."""


def work(policy: Policy, *, root: str, executor: Executor, progress: Progress) -> Sequence[Result]:
    """The steps before selection, finished, of which `executor` does its share first."""
    resolved = resolve(policy)
    steps = flow(resolved, executor)
    names = [step.name for step in steps]
    end = min(names.index(name) for name in _FIRST_OF_ALL if name in names)
    opened = Run.open(resolved, steps, root)
    with (
        Lease.taken(opened.store.storage) as lease,
        opened.watched(lease, progress) as journal,
        Runner(opened.store, executor, journal, lease) as runner,
    ):
        return list(runner.run(steps[:end], opened.after(lease, journal)).values())
