"""What a user writes of a study: nested, frozen, every key checked, as a policy is.

A study is a YAML file; `--set seeds.most=8` overrides it. Every key has a default but `base`, `objective`, and one of
`arms` and `space`.
"""

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pydantic
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from selector import plugins
from selector.errors import PolicyError
from selector.plugins import allowed
from selector.policy import Policy
from selector.policy.explain import explained
from selector.policy.read import read
from selector.policy.sections import BudgetPolicy, Choice
from selector.policy.values import Amount, Portion, Rate, Share, Weight, Whole
from selector.tune.objectives import Better, Objective

SEARCHING = 1_000_000
"""Added to seeds: those of a search are no others."""

CONTROLS = ("random", "all", "mixture")
"""The names of arms that a study adds by itself."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SeedsSection(_Section):
    """Each seed is a pair: all arms are chosen, arranged and measured by it."""

    first: Whole = Field(0, ge=0, description="Added to the policy's own seed; the next seeds follow.")
    least: Amount = Field(3, description="As many in any case.")
    most: Amount = Field(6, description="As many while the best two arms cannot be told apart.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.most < self.least:
            raise ValueError(f"most is {self.most}, and least is {self.least}: write a larger most")
        return self


class CeilingSection(_Section):
    """What a study may cost. What is stored counts too, so that a study that was killed ends where it would have."""

    tokens: Amount | None = Field(None, description="That objectives train on, over all arms and seeds.")
    hours: Rate | None = Field(None, description="Of measuring, over all arms, seeds and workers.")


class HeldOutSection(_Section):
    """Which documents arms are evaluated on: drawn by a hash of the doc_id, so the same in every study of a corpus."""

    share: Portion = Field(0.02, gt=0, description="Of the corpus: no arm may choose any of them.")
    most: Amount = Field(100, description="Documents of each domain that are evaluated on; a domain is a source.")
    where: str | None = Field(
        None, min_length=1, description="An SQL condition: only such documents are evaluated on: source = 'books'."
    )
    alike: Share = Field(
        0.5, description="One of which another document has this share of its text is not evaluated on."
    )


class ControlsSection(_Section):
    """Arms that a study adds by itself."""

    random: bool = Field(True, description="The same budget at random, in a random order.")
    all: bool = Field(True, description="All documents that may be chosen, where that is affordable.")
    affordable: Rate = Field(4.0, description="What `all` may cost, in budgets of the largest.")


class Dimension(_Section):
    """What a key of the policy may be: one of these."""

    log: tuple[float | int, float | int] | None = Field(
        None, description="A number between two, as likely in each decade: {log: [0.1, 10]}."
    )
    linear: tuple[float | int, float | int] | None = Field(
        None, description="A number between two; a whole one where both are: {linear: [1, 8]}."
    )
    choices: tuple[Any, ...] | None = Field(None, min_length=1, description="One of these values.")
    simplex: tuple[str, ...] | None = Field(
        None, min_length=2, description="Shares of these names that come to one: {simplex: [web, books, code]}."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        kinds = ("log", "linear", "choices", "simplex")
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"write one of {', '.join(kinds)}, not {' and '.join(given) or 'none of them'}")
        low, high = self.log or self.linear or (1, 2)
        if not low < high or (self.log is not None and low <= 0):
            raise ValueError(f"[{low:g}, {high:g}] is no range{' above 0' if self.log else ''}: the lower comes first")
        return self


class MixtureSection(_Section):
    """Weights of groups that a law of the loss proposes, from small runs with drawn weights."""

    by: str = Field("source", description="A column of groups, as of the selector mixture.")
    runs: Amount | None = Field(None, description="With drawn weights; without it, three for each group.")
    repeats: Rate = Field(4.0, description="The most visits that a document may have in the target run.")
    divergence: Weight = Field(0.1, description="How much the weights hold on to the shares that the corpus has.")


class FiltersSection(_Section):
    """Filters by stored scores: each alone, then the best together."""

    scores: tuple[str, ...] = Field((), description="Without them, all numbers that the base policy's raters give.")
    keep: tuple[Share, ...] = Field((0.3, 0.6), description="Shares of the documents that a filter keeps.")
    best: Amount = Field(3, description="As many single filters are joined, two by two.")


class Study(_Section):
    """Policies to compare, how, and how long."""

    base: dict[str, Any] = Field(description="A policy, or the path of one, seen from the study's folder.")
    arms: dict[str, dict[str, Any]] = Field(
        {}, description="What each arm says otherwise, by dotted keys: {top: {select.using: {top: {score: edu}}}}."
    )
    space: dict[str, Dimension] = Field(
        {},
        description="Where more arms are searched, by dotted keys of the policy: {select.budget.fraction: {log:"
        " [0.001, 0.5]}}.",
    )
    trials: Amount = Field(20, description="Arms that are tried of the space.")
    finalists: Amount = Field(2, description="The best of them that are compared with the other arms.")
    mixture: MixtureSection | None = None
    filters: FiltersSection | None = None
    budgets: tuple[BudgetPolicy, ...] = Field(
        (), description="The budgets that all arms are tried at, the smallest first; without them, the policy's own."
    )
    target: BudgetPolicy | None = Field(
        None,
        description="The budget of the run that the study is for. Arms then choose from so small a keyed sample of the"
        " corpus that documents are repeated as often as they will be there.",
    )
    objective: Choice
    metric: str | None = Field(None, description="That decides; without it, the objective's first.")
    seeds: SeedsSection = SeedsSection()  # pyright: ignore[reportCallIssue]
    ceiling: CeilingSection = CeilingSection()  # pyright: ignore[reportCallIssue]
    held_out: HeldOutSection = HeldOutSection()  # pyright: ignore[reportCallIssue]
    controls: ControlsSection = ControlsSection()  # pyright: ignore[reportCallIssue]

    @field_validator("arms")
    @classmethod
    def _own_names(cls, arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in arms:
            if name in CONTROLS or re.fullmatch(r"(mixture run|trial) [0-9]+", name):
                raise ValueError(f"{name} is the name of an arm that a study adds by itself: give it another name")
        return arms

    @field_validator("budgets")
    @classmethod
    def _rising(cls, budgets: tuple[BudgetPolicy, ...]) -> tuple[BudgetPolicy, ...]:
        for lower, higher in itertools.pairwise(budgets):
            unit = unit_of(lower)
            least, most = getattr(lower, unit), getattr(higher, unit)
            if most is not None and most <= least:
                order = "there twice" if most == least else f"below {least:,}, which comes before it"
                raise ValueError(f"{most:,} {unit} is {order}: write each budget once, the smallest first")
        return budgets

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        units = {unit_of(budget) for budget in (*self.budgets, *([self.target] if self.target else []))}
        if len(units) > 1:
            raise ValueError(f"budgets and target are in {' and '.join(sorted(units))}: write all of them in one unit")
        if self.target is not None and not self.budgets:
            raise ValueError("target is compared with budgets, and there are none: write budgets too")
        if not (self.arms or self.space or self.mixture or self.filters):
            raise ValueError(
                "there is nothing to compare: write arms, e.g. arms: {top: {select.using: {top: …}}}, or one of space,"
                " mixture and filters"
            )
        return self

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """The study in a mapping, with its base policy written out. Raises PolicyError."""
        try:
            study = cls.model_validate(data)
        except pydantic.ValidationError as error:
            raise explained(cls, error) from error
        metrics = study.plugin.metrics
        if study.metric is not None and study.metric not in metrics:
            raise PolicyError(
                f"metric: {study.objective.label} does not measure {study.metric!r}. There is: {', '.join(metrics)}."
            )
        return study

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """The study in a YAML file, with `key=value` overrides."""
        data = read(path, cls.model_fields, overrides, {}, kind="study", begins="base: and arms:")
        base = data.get("base")
        if isinstance(base, str):
            file = Path(path).parent / base
            allowed.check("base", str(file))
            data["base"] = read(file, Policy.model_fields, (), {})
        return cls.of(data)

    @functools.cached_property
    def plugin(self) -> Objective:
        """The objective, made with its options."""
        return plugins.make("objectives", self.objective.name, self.objective.options, "objective", Objective)

    @property
    def deciding(self) -> tuple[str, Better]:
        """The metric that decides, and its better side."""
        metric = self.metric or next(iter(self.plugin.metrics))
        return metric, self.plugin.metrics[metric]

    @property
    def seed_numbers(self) -> range:
        """The seeds that there may be."""
        return range(self.seeds.first, self.seeds.first + self.seeds.most)


def unit_of(budget: BudgetPolicy) -> str:
    """Which of documents, tokens and fraction a budget is in."""
    return next(unit for unit in ("documents", "tokens", "fraction") if getattr(budget, unit) is not None)


def search_seeds(study: Study) -> range:
    """The seeds by which a searched arm is measured."""
    first = SEARCHING + study.seeds.first
    return range(first, first + study.seeds.least)
