"""What a user decides about one manifest: nested, frozen, every key checked.

A policy is a YAML file; `SELECTOR_SELECT__BUDGET__TOKENS=50B` in the environment overrides it, and
`--set select.budget.tokens=50B` overrides both. Every key has a default but `corpus.paths` and
`select.budget`.
"""

import dataclasses
import functools
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_serializer, model_validator

from selector import plugins
from selector.errors import PolicyError
from selector.exact.rates import Decay, Schedule, Training
from selector.exact.spend import Budget, Overshoot
from selector.order import Order
from selector.plugins.options import Columns, ManifestPath, TablePath
from selector.policy.explain import explained
from selector.policy.read import read
from selector.policy.values import Amount, Bound, Paths, Portion, Rate, Share, Weight, Whole
from selector.rate import Fit, Rater
from selector.select import Selector
from selector.storage import local_path, plain_path


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Choice(_Section):
    """A plug-in and its options, written `name` or `{name: {option: value}}`."""

    name: str
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return _name_and_options(value)

    @model_serializer
    def _write(self) -> dict[str, Any]:
        return {self.name: self.options}

    @property
    def label(self) -> str:
        """What the plug-in is called in tables and messages: its name, or the class of a dotted one."""
        return re.split(r"[:.]", self.name)[-1]


class RaterChoice(Choice):
    """A rater and its options; `as: name` beside them calls it something else, so that it can be there twice."""

    alias: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if not (isinstance(value, Mapping) and "as" in value and len(value) == 2):
            return _name_and_options(value)
        alias = value["as"]
        if not (isinstance(alias, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", alias)):
            raise ValueError("after as, write a word of letters, digits and _, e.g. as: ppl_small")
        return {**_name_and_options({name: options for name, options in value.items() if name != "as"}), "alias": alias}

    @model_serializer
    def _write(self) -> dict[str, Any]:
        return {self.name: self.options} | ({"as": self.alias} if self.alias else {})

    @property
    def label(self) -> str:
        return self.alias or super().label


def _name_and_options(value: Any) -> dict[str, Any]:
    """The name and the options of a plug-in as a policy writes them."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, options),) = value.items()
        if options is None or isinstance(options, Mapping):
            return {"name": name, "options": dict(options or {})}
    raise ValueError("write a name, or one name with its options: {name: {option: value}}")


class CorpusPolicy(_Section):
    """All documents: where they are, and what of a row is text, key and source."""

    paths: Paths = Field(
        description="Files, folders or globs of .jsonl, .json, .csv, .tsv, .txt, .parquet or .arrow, and packed ones"
        " (.jsonl.gz, .csv.zst, .bz2, .xz)."
    )
    text: str = Field(
        "text",
        description="A column, or a template of columns: '{instruction}\\n{output}'. Dots lead into nested columns:"
        " meta.body; a dot that is part of a name goes into double quotes.",
    )
    key: str | None = Field(None, description="A column that names each document; without it, the text does.")
    source: str | dict[str, str] = Field(
        "source",
        description="A column, or a constant per path pattern; without it, the column source or else the file's name."
        " A date, a number or a boolean is its text; where it is null the file's name stands for it, and is counted.",
    )
    tokenizer: str | None = Field(
        None, description="A tokenizer.json, or its folder; without it, the embedding model's."
    )
    keep_texts: bool = Field(
        True, description="Store the texts beside the documents, so that no later step opens the corpus again."
    )
    max_document_bytes: Amount = Field(1 << 20, description="A longer row is quarantined.")
    most_lost: Portion | None = Field(
        None, description="The share of the input that may be lost to quarantine before the run stops, e.g. 0.01."
    )
    rows_per_part: Amount | None = Field(
        None,
        description="Rows of a part, at most, and none of two files. Without it: about a quarter of the file, from"
        " 2,048 to 65,536; smaller files make parts together.",
    )
    format: str | dict[str, str] | None = Field(
        None,
        description="The format of all files, whatever their names: csv, jsonl, txt, …; or txt with what separates"
        " documents: {txt: '\\n\\n'}. Without it: what their endings say.",
    )

    @field_validator("format", mode="before")
    @classmethod
    def _name_or_separator(cls, value: Any) -> Any:
        if value is None or (isinstance(value, str) and value):
            return value
        if isinstance(value, Mapping) and list(value) == ["txt"] and isinstance(value["txt"], str) and value["txt"]:
            return value
        raise ValueError("write the name of a format, or txt with what separates documents: {txt: '\\n\\n'}")

    @property
    def form(self) -> str | None:
        """The format of all files as `selector.corpus.formats` names it, if the policy says one."""
        if isinstance(self.format, dict):
            return f"txt {json.dumps(self.format['txt'])}"
        return self.format

    @field_validator("source", mode="before")
    @classmethod
    def _column_or_constants(cls, value: Any) -> Any:
        if isinstance(value, str) and value:
            return value
        if (
            isinstance(value, Mapping)
            and value
            and all(isinstance(x, str) and x for pair in value.items() for x in pair)
        ):
            return value
        raise ValueError("write the name of a column, or a constant per path: {'web/*': web}")


class EmbedPolicy(_Section):
    """The model that turns a text into a vector."""

    model: str = Field(
        "all-MiniLM-L6-v2", description="A model folder, a packaged model's name, or hf://owner/name@revision."
    )
    max_tokens: Whole = Field(256, ge=8)
    long_documents: Literal["mean", "truncate"] = Field(
        "mean",
        description="The token-weighted mean of all windows of max_tokens, or the first window only. The mean costs as "
        "much as there is text: for one of 2,000 tokens, eight times its first window of 256.",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 where the hardware has it, else float32. Recorded in the manifest."
    )


class ClusterPolicy(_Section):
    """k-means on the embeddings."""

    num_clusters: Amount | Literal["auto"] = "auto"
    iterations: Whole = Field(25, ge=1)
    num_neighbours: Whole = Field(
        32,
        ge=1,
        description="How many of the documents of its cluster that are most like it are known of each document, where a"
        " selector reads them.",
    )
    documents_per_cluster: Whole = Field(512, ge=1, description="Size of the keyed training sample, per cluster.")
    kind: Literal["euclidean", "spherical"] = Field(
        "euclidean", description="spherical: centroids have length 1, so that only directions count."
    )
    start: Literal["sampled", "k-means++"] = Field(
        "sampled", description="How first centroids are drawn: equally, or likelier where none is near."
    )
    restarts: Whole = Field(1, ge=1, description="Fits from different starts, of which the best is taken.")
    levels: tuple[Amount, ...] = Field(
        (),
        description="Hierarchical k-means: numbers of clusters, the finest first, e.g. [1024, 64]. Each level is"
        " resampled towards a uniform support; documents belong to the clusters of the finest.",
    )
    from_: str | None = Field(
        None,
        alias="from",
        min_length=1,
        description="A finished run whose centroids are taken, so that a corpus that grows is not assigned anew."
        " It must have embedded with the same model.",
    )
    gates: Literal["stop", "warn"] = Field(
        "warn", description="Where clusters are of little use (see facts.cluster in the manifest): stop, or say so."
    )

    @field_validator("num_clusters", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        try:
            return value if value == "auto" else pydantic.TypeAdapter(Amount).validate_python(value)
        except pydantic.ValidationError:
            raise ValueError("write a whole number of 1 or more, or auto") from None

    @field_validator("levels")
    @classmethod
    def _finest_first(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if any(fine <= coarse for fine, coarse in itertools.pairwise(levels)):
            raise ValueError("write fewer clusters level by level, the finest first: [1024, 64]")
        return levels

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        if self.levels and self.num_clusters not in ("auto", self.levels[0]):
            raise ValueError(
                f"levels begins with {self.levels[0]}, and num_clusters is {self.num_clusters}: leave out num_clusters"
            )
        return self


class BudgetPolicy(_Section):
    """How much may be chosen: one of documents, tokens or a fraction of the tokens."""

    documents: Amount | None = None
    tokens: Amount | None = None
    fraction: Share | None = Field(
        None, description="Of the tokens of the documents that may be chosen: what the rule and other causes leave."
    )
    overshoot: Overshoot = Field(
        "stop",
        description="Where the next document would cross the budget: stop ends there, fill leaves it out and goes on"
        " with smaller ones, cross takes it and ends, so that at most one document is beyond the budget.",
    )

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        given = [unit for unit in ("documents", "tokens", "fraction") if getattr(self, unit) is not None]
        if len(given) != 1:
            raise ValueError(
                f"write one of documents, tokens and fraction, not {' and '.join(given) or 'none of them'}"
            )
        return self

    def of(self, cost: int) -> Budget:
        """The budget over a pool of documents that cost so many tokens together."""
        if self.documents is not None:
            return Budget(amount=self.documents, unit="documents", overshoot=self.overshoot)
        amount = self.tokens if self.tokens is not None else int(Fraction(str(self.fraction)) * cost)
        return Budget(amount=amount, unit="tokens", overshoot=self.overshoot)


class SharePolicy(_Section):
    """How much of the budget a group gets."""

    least: Bound | None = Field(None, description="Spent first, for what its documents really cost.")
    most: Bound | None = Field(None, description="Never more, whatever other groups leave.")

    @model_validator(mode="after")
    def _least_below_most(self) -> Self:
        if self.least is None and self.most is None:
            raise ValueError("write least, most or both: {least: 0.1, most: 0.5}")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError(f"least {self.least:g} is above most {self.most:g}")
        return self


class VisitsPolicy(_Section):
    """How often one document may be seen."""

    most: Amount


class SelectPolicy(_Section):
    """What is chosen."""

    where: str | None = Field(
        None, min_length=1, description="An SQL condition over columns and scores: num_tokens >= 32 AND source = 'web'."
    )
    budget: BudgetPolicy
    using: Choice = Choice.model_validate("random")
    missing: Literal["drop", "last", "impute"] = Field(
        "drop", description="A document without a score that is used: left out, ranked last, or given the mean."
    )
    shares: dict[str, dict[str, SharePolicy]] = Field(
        {},
        description="Bounds for the groups of one column, as parts of the budget: {source: {web: {most: 0.5}, code:"
        " {least: 0.1}}}. They hold whatever the selector.",
    )
    visits: VisitsPolicy | None = Field(
        None, description="At most so many visits of one document, whatever the selector: {most: 4}."
    )
    include: tuple[str, ...] = Field(
        (), description="JSONL or Parquet files with a column doc_id: these documents are chosen first, and paid for."
    )
    exclude: tuple[str, ...] = Field((), description="Runs or manifests whose documents are not chosen again.")
    allow_empty: bool = Field(False, description="A manifest without documents is what was asked for, and no failure.")

    @field_validator("shares", mode="before")
    @classmethod
    def _names_as_written(cls, value: Any) -> Any:
        """Names of groups as people write them: 3 is "3"."""
        if not isinstance(value, Mapping):
            return value
        return {
            by: {str(name): share for name, share in groups.items()} if isinstance(groups, Mapping) else groups
            for by, groups in value.items()
        }

    @field_validator("shares")
    @classmethod
    def _one_column(cls, value: dict[str, dict[str, SharePolicy]]) -> dict[str, dict[str, SharePolicy]]:
        if len(value) > 1:
            raise ValueError(f"write the shares of one column, not of {' and '.join(value)}")
        for groups in value.values():
            least = sum(Fraction(str(share.least or 0)) for share in groups.values())
            if least > 1:
                raise ValueError(f"the least shares come to {float(least):g}, which is more than the whole budget")
        return value

    @field_validator("include", "exclude", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def lists(self) -> "Lists":
        """The files and manifests that it names."""
        return Lists(
            include=tuple(TablePath(path) for path in self.include),
            exclude=tuple(ManifestPath(path) for path in self.exclude),
        )


class SchedulePolicy(_Section):
    """The learning rate over the steps of training, and AdamW's weight decay."""

    peak: Rate = Field(description="The learning rate after the warm-up: 3e-4.")
    warmup: Portion = Field(0.0, description="The share of the steps in which the rate rises to the peak.")
    decay: Decay = Field(
        description="constant: the rate stays at the peak; linear, cosine: it falls to the last step; wsd: it stays,"
        " and falls in a line over the last steps only."
    )
    final: Bound | None = Field(
        None, description="Where the rate falls to, as a share of the peak; without it, to 0. Not for constant."
    )
    falling: Share | None = Field(
        None, description="For wsd: the share of the steps in which the rate falls; without it, 0.1."
    )
    weight_decay: Weight = Field(0.1, description="AdamW's weight decay.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.decay == "constant" and self.final is not None:
            raise ValueError("a constant rate falls to nothing: leave out final, or write decay: linear, cosine or wsd")
        if self.decay != "wsd" and self.falling is not None:
            raise ValueError(f"falling is for decay: wsd, and {self.decay} has no use for it: leave it out")
        if self.decay == "wsd" and self.warmup + self.schedule.falling > 1:
            raise ValueError(
                f"warmup {self.warmup:g} and falling {self.schedule.falling:g} are more than all steps together"
            )
        if self.peak * self.weight_decay >= 1:
            raise ValueError(
                f"peak {self.peak:g} times weight_decay {self.weight_decay:g} is 1 or more, and a step would keep"
                " nothing of the weights: lower one of them"
            )
        return self

    @property
    def schedule(self) -> Schedule:
        """The same with every default."""
        given = {name: value for name, value in self if value is not None}
        return Schedule(**given)


class AveragePolicy(_Section):
    """Which checkpoints are averaged at the end, in equal parts: the last one, and so many before it."""

    checkpoints: Amount
    every: Amount = Field(description="Steps from one of them to the next.")


class TrainingPolicy(_Section):
    """How the manifest will be trained on: so the order, `show` and its warnings know where updates count."""

    global_batch_size: Amount
    schedule: SchedulePolicy
    average: AveragePolicy | None = Field(
        None, description="The mean of the last checkpoints: {checkpoints: 6, every: 1000}. Without it, the last one."
    )

    @property
    def training(self) -> Training:
        """The same as the arithmetic takes it."""
        average: dict[str, int] = {} if self.average is None else dict(self.average)
        return Training(global_batch_size=self.global_batch_size, schedule=self.schedule.schedule, **average)


class OrderPolicy(_Section):
    """When it is seen."""

    using: Choice = Choice.model_validate("shuffled")
    parent: str | None = Field(
        None,
        min_length=1,
        description="A finished run that this one is to be compared with, as a control is: the manifest names it as"
        " its parent.",
    )


class ManifestPolicy(_Section):
    """Which scores the manifest carries as difficulty and quality."""

    difficulty: str | None = None
    quality: str | None = None


class Policy(_Section):
    """Everything a user decides about one manifest."""

    seed: Whole = Field(0, ge=0)
    corpus: CorpusPolicy
    embed: EmbedPolicy = EmbedPolicy()  # pyright: ignore[reportCallIssue]
    cluster: ClusterPolicy = ClusterPolicy()  # pyright: ignore[reportCallIssue]
    rate: tuple[RaterChoice, ...] = ()
    select: SelectPolicy
    training: TrainingPolicy | None = None
    order: OrderPolicy = OrderPolicy()  # pyright: ignore[reportCallIssue]
    manifest: ManifestPolicy = ManifestPolicy()

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """The policy in a mapping. Raises PolicyError that names key, value and cure."""
        try:
            policy = cls.model_validate(data)
        except pydantic.ValidationError as error:
            raise explained(cls, error) from error
        assert policy.plugins, "made here, so that a wrong option is told at once"
        return policy

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = (), environment: Mapping[str, str] = os.environ) -> Self:
        """The policy in a YAML file, with `key=value` overrides. Relative corpus paths are relative to the
        directory the command runs in."""
        return cls.of(read(path, cls.model_fields, overrides, environment))

    @functools.cached_property
    def plugins(self) -> "Plugins":
        """The plug-ins that this policy names, made with its options. Raises PolicyError."""
        raters: dict[str, Rater | Fit] = {}
        for position, choice in enumerate(self.rate):
            rater = plugins.make("raters", choice.name, choice.options, f"rate.{position}", Rater, Fit)
            scores = list(rater.scores(choice.label))
            label = scores[0] if len(scores) == 1 else choice.label
            if label in raters:
                raise PolicyError(
                    f"rate.{position}: {label!r} is there already. Remove one, or give it another name: "
                    f"{{{choice.name}: {{…}}, as: {label}_2}}."
                )
            raters[label] = rater
        return Plugins(
            raters=raters,
            selector=plugins.make(
                "selectors", self.select.using.name, self.select.using.options, "select.using", Selector
            ),
            order=plugins.make("orders", self.order.using.name, self.order.using.options, "order.using", Order),
        )

    def resolved(self) -> dict[str, Any]:
        """The policy as JSON with every default and plug-in option spelt out, independent of how paths were listed."""
        data = self.model_dump(mode="json", by_alias=True)
        data["corpus"]["paths"] = sorted(
            {
                address.rstrip("/") if (path := local_path(address)) is None else plain_path(path)
                for address in self.corpus.paths
            }
        )
        data["rate"] = [
            {choice.name: plugins.options_spelt_out(rater)} | ({"as": choice.alias} if choice.alias else {})
            for choice, rater in zip(self.rate, self.plugins.raters.values(), strict=True)
        ]
        data["select"]["using"] = {self.select.using.name: plugins.options_spelt_out(self.plugins.selector)}
        data["order"]["using"] = {self.order.using.name: plugins.options_spelt_out(self.plugins.order)}
        return data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lists:
    """What `select` names of documents, found and identified like what the options of a plug-in name."""

    include: tuple[Annotated[TablePath, Columns(doc_id="doc_id")], ...]
    exclude: tuple[ManifestPath, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plugins:
    """The plug-ins of one policy."""

    raters: Mapping[
        str, Rater | Fit
    ]  # by the score that each gives (by name, if it gives several), in the policy's order
    selector: Selector
    order: Order

    def by_path(self) -> dict[str, Rater | Fit | Selector | Order]:
        """Every plug-in by where the policy names it: `rate.<label>`, `select.using`, `order.using`."""
        raters = {f"rate.{label}": rater for label, rater in self.raters.items()}
        return {**raters, "select.using": self.selector, "order.using": self.order}
