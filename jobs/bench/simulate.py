"""What a new manifest costs over a corpus of any size: select, order and commit through the real steps and store.

The corpus is drawn and sealed first, outside the clock (`drawn`). Drawing and running have a process each, so that the
memory of the one is not counted with the other's, and what a run imports is there when its clock starts.
"""

import dataclasses
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jobs.bench import drawn, reference
from jobs.bench.drawn import MEANINGS, Corpus, Score
from jobs.bench.meter import Meter, StepCost, in_a_process
from selector import pipeline, plugins
from selector.engine.executor import Executor
from selector.errors import SelectorError, UsageError
from selector.order import Order
from selector.plugins.options import ScoreName, SignalName, columns_of, hints_of, kind_of
from selector.policy import Policy, condition
from selector.select import Selector

WHERE = "num_tokens >= 64 AND source <> 'law'"
FILE_ROWS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What is drawn, and what is then asked of it."""

    num_documents: int
    num_files: int | None = None  # None: one a million documents
    num_parts: int | None = None  # None: as the survey cuts the files
    num_clusters: int = 1024
    select: Any = "kmeans_quality"  # as a policy writes it; a score that it needs may be left out
    order: Any = "by_score"
    where: str | None = WHERE
    budget: Mapping[str, Any]
    limits: Mapping[str, Any] = field(default_factory=dict[str, Any])  # shares, visits, include, exclude
    missing: str = "drop"
    executor: str = "local"
    num_workers: int | None = None
    seed: int = 0

    @property
    def corpus(self) -> Corpus:
        """What is drawn. Raises UsageError."""
        num_files = self.num_files or -(-self.num_documents // FILE_ROWS)
        if self.num_documents < max(num_files, self.num_clusters):
            raise UsageError(
                f"{self.num_documents:,} documents are too few for {num_files:,} files and {self.num_clusters:,} "
                "clusters. Give more documents, or fewer with --files and --clusters."
            )
        return Corpus(
            num_documents=self.num_documents, num_files=num_files, num_clusters=self.num_clusters, seed=self.seed
        )

    def policy(self, folder: Path) -> Policy:
        """The policy over the corpus in a folder. Raises PolicyError or UsageError."""
        rows_per_part = None if self.num_parts is None else -(-self.num_documents // self.num_parts)
        rater = "jobs.bench.drawn:Drawn"
        return Policy.of(
            {
                "seed": self.seed,
                "corpus": {"paths": [str(folder)], "rows_per_part": rows_per_part},
                "cluster": {"num_clusters": self.num_clusters},
                "rate": [
                    {rater: {"score": score, "higher_is": meaning}, "as": score} for score, meaning in MEANINGS.items()
                ],
                "select": {
                    "where": self.where,
                    "budget": dict(self.budget),
                    "using": _with_score("selectors", self.select, Selector, "quality"),
                    "missing": self.missing,
                    **self.limits,
                },
                "order": {"using": _with_score("orders", self.order, Order, "difficulty")},
                "manifest": {score: score for score in MEANINGS},
            }
        )

    def has_vectors(self, folder: Path) -> bool:
        """Whether something reads vectors."""
        plugins = self.policy(folder).plugins
        return any({"embedding", "neighbours"} & set(columns_of(one)) for one in (plugins.selector, plugins.order))

    def made_executor(self) -> Executor:
        """The executor. Raises PolicyError."""
        workers = {} if self.num_workers is None else {_workers_of(self.executor): self.num_workers}
        return plugins.make("executors", self.executor, workers, "--executor", Executor)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run cost, and where its manifest is."""

    costs: Sequence[StepCost]
    uri: str
    num_kept: int


def simulate(
    wanted: Simulation, *, above: str | None = None, keep: bool = False, check: bool = False, again: bool = False
) -> None:
    """Draws, runs, prints what it cost and removes it all.

    `check` compares the manifest with the reference's, and raises SelectorError where they differ. `again` runs over
    what is there with one thing changed at a time.
    """
    home = Path(tempfile.mkdtemp(prefix="selector-simulate-", dir=above))
    try:
        policy = wanted.policy(home / "corpus")
        if check:
            reference.check_known(policy)
        print(_title(wanted, policy), flush=True)
        began = time.monotonic()
        in_a_process(draw, wanted, home)
        seconds, num_drawn = time.monotonic() - began, _num_bytes(home)
        print(
            f"drawn and sealed: {num_drawn / 1e6:,.1f} MB in {seconds:,.1f} s. The clock starts at load {_load()}.",
            flush=True,
        )
        report = in_a_process(measure, wanted, home)
        print(_table(report.costs))
        num_bytes = _num_bytes(home)
        print(
            f"{report.num_kept:,} documents in the manifest. On disk {num_bytes / 1e6:,.1f} MB, of which the run wrote "
            f"{(num_bytes - num_drawn) / 1e6:,.1f} MB. It ended at load {_load()}."
        )
        if check:
            problems = reference.differences(wanted.corpus, policy, Path(report.uri))
            if problems:
                raise SelectorError(f"The manifest is not the reference's: {'; '.join(problems)}.")
            chooses, arranges = (
                "reference in NumPy" if is_spelt_out else f"{kind} itself, asked at once in memory"
                for kind, is_spelt_out in (
                    ("selector", reference.is_spelt_out(policy)),
                    ("order", policy.order.using.name in reference.ORDERS),
                )
            )
            print(f"Ids, outcomes, reasons and inclusion probabilities are those of the {chooses}.")
            print(f"The order is that of the {arranges}.")
        for thing_changed, changed in changes(wanted).items() if again else ():
            costs = in_a_process(measure, changed, home).costs
            ran = ", ".join(cost.name for cost in costs[:-1] if not cost.cached) or "nothing"
            print(f"{f'again, {thing_changed} changed':<34}{_totals(costs)}  ran {ran}", flush=True)
    finally:
        if keep:
            print(f"It is kept in {home}.")
        else:
            shutil.rmtree(home)


def changes(wanted: Simulation) -> dict[str, Simulation]:
    """What was asked, with one thing changed, by what that is. An order by score turns round, and keeps its pool."""
    (order,) = _with_score("orders", wanted.order, Order, "difficulty").items()
    direction = "curriculum" if order[1].get("direction") == "anti_curriculum" else "anti_curriculum"
    rule = "num_tokens < 30000"
    return {
        "nothing": wanted,
        "budget": replace(wanted, budget={unit: _less(amount) for unit, amount in wanted.budget.items()}),
        "rule": replace(wanted, where=f"{wanted.where} AND {rule}" if wanted.where else rule),
        "score": replace(wanted, select=_with_score("selectors", wanted.select, Selector, "difficulty")),
        **(
            {"order": replace(wanted, order={"by_score": order[1] | {"direction": direction}})}
            if order[0] == "by_score"
            else {}
        ),
    }


def draw(wanted: Simulation, home: Path) -> None:
    """Afterwards the corpus is in `home/corpus`, and all that is known of it before select in `home/root`."""
    corpus, folder = wanted.corpus, home / "corpus"
    corpus.write(folder)
    drawn.draw(
        wanted.policy(folder),
        corpus,
        str(home / "root"),
        wanted.made_executor(),
        has_vectors=wanted.has_vectors(folder),
    )


def measure(wanted: Simulation, home: Path) -> Report:
    """A run over what was drawn, and what each step of it cost."""
    policy, executor = wanted.policy(home / "corpus"), wanted.made_executor()
    if wanted.where:
        condition.tree_of("TRUE")  # a run with a rule imports DuckDB
    with Meter(drawn.BEFORE) as meter:
        outcome = pipeline.build(policy, root=str(home / "root"), executor=executor, progress=meter)
    return Report(costs=meter.costs, uri=outcome.uri, num_kept=outcome.manifest.info["counts"]["kept"])


def _with_score(family: str, written: Any, kind: type[Any], score: Score) -> dict[str, Any]:
    """A plug-in of this kind as a policy writes it. Options that must name a score name this one and others in turn;
    one that must name another order names `by_score`."""
    name, options = (written, {}) if isinstance(written, str) else next(iter(written.items()))
    cls = plugins.find(family, name)
    if not issubclass(cls, kind):
        raise UsageError(f"--{family.removesuffix('s')}: {name} is no {kind.__name__}, and only those are simulated.")
    hints = {
        field.name: kind_of(hints_of(cls)[field.name])
        for field in (dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ())
    }
    named = [key for key, hint in hints.items() if hint.base in (ScoreName, SignalName) and not hint.is_optional]
    scores = itertools.cycle([score, *(other for other in MEANINGS if other != score)])
    inner = {key: {"by_score": {"score": score}} for key, hint in hints.items() if hint.base is Order}
    given = {key: [of] if hints[key].is_many else of for key, of in zip(named, scores, strict=False)}
    return {name: given | inner | dict(options or {})}


def _title(wanted: Simulation, policy: Policy) -> str:
    corpus, select = wanted.corpus, policy.select
    budget = select.budget.model_dump(exclude_none=True)
    return (
        f"{corpus.num_documents:,} documents, files: {corpus.num_files}, clusters: {corpus.num_clusters}, seed: "
        f"{corpus.seed}, executor: {wanted.executor}, CPUs: {os.cpu_count()}\n"
        f"where {select.where}: {select.using.model_dump()} within {budget}, then {policy.order.using.model_dump()}"
    )


def _table(costs: Sequence[StepCost]) -> str:
    """A line for each step, and one for them all."""
    lines = [f"{'step':<20}{'rows in':>14}{'rows out':>14}{'wall s':>10}{'CPU s':>10}{'peak MB':>10}"]
    for cost in costs:
        rows = f"{cost.rows_in:>14,}{cost.rows_out:>14,}" if cost is not costs[-1] else " " * 28
        name = f"{cost.name}{' (cached)' if cost.cached else ''}"
        lines.append(f"{name:<20}{rows}{cost.wall:>10.2f}{cost.cpu:>10.2f}{cost.peak_bytes / 1e6:>10,.0f}")
    return "\n".join([*lines, f"{'all':<48}{_totals(costs)}"])


def _totals(costs: Sequence[StepCost]) -> str:
    wall, cpu = sum(cost.wall for cost in costs), sum(cost.cpu for cost in costs)
    return f"{wall:>10.2f}{cpu:>10.2f}{max(cost.peak_bytes for cost in costs) / 1e6:>10,.0f}"


def _less(amount: Any) -> Any:
    """Nine tenths of an amount; a word stays."""
    if isinstance(amount, float):
        return round(0.9 * amount, 9)
    return amount * 9 // 10 if isinstance(amount, int) else amount


def _num_bytes(home: Path) -> int:
    files = [path.stat() for path in home.rglob("*") if path.is_file()]
    return sum({file.st_ino: file.st_size for file in files}.values())  # one by two names takes no more room


def _load() -> str:
    return f"{os.getloadavg()[0]:.2f}"


def _workers_of(executor: str) -> str:
    """What an executor calls the number of its workers."""
    return "actors" if executor == "ray" else "workers"
