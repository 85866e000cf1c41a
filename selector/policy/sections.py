"""What a user decides about one manifest: nested, frozen, every key checked.

A policy is a YAML file; `SELECTOR_SELECT__BUDGET__TOKENS=50B` in the environment overrides it, and
`--set select.budget.tokens=50B` overrides both. Every key has a default but `corpus.paths` and
`select.budget`.
"""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_serializer, model_validator

from selector import plugins
from selector.errors import PolicyError, did_you_mean
from selector.exact.spend import Budget, Overshoot

_LONGEST = 1 << 20  # bytes of a policy file


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Choice(_Section):
    """A plug-in and its options, written `name` or `{name: {option: value}}`."""

    name: str
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and len(value) == 1:
            ((name, options),) = value.items()
            if options is None or isinstance(options, Mapping):
                return {"name": name, "options": dict(options or {})}
        raise ValueError("write a name, or one name with its options: {name: {option: value}}")

    @model_serializer
    def _write(self) -> dict[str, Any]:
        return {self.name: self.options}

    @property
    def label(self) -> str:
        """What the plug-in is called in tables and messages: its name, or the class of a dotted one."""
        return re.split(r"[:.]", self.name)[-1]


def _number(value: Any) -> Any:
    """The value, unless it is true or false, which pydantic takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("write a number")
    return value


_AMOUNT = r"([0-9][0-9_]*(?:\.[0-9]+)?) ?([kKMGBT]?)"


def _amount(value: Any) -> Any:
    """10_000, "200k", "1.5M" or "30B" as an integer."""
    if isinstance(value, str):
        match = re.fullmatch(_AMOUNT, value.strip())
        if not match:
            raise ValueError("write a whole number, or one with k, M, B or T, e.g. 30B")
        scale = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}[match[2]]
        amount = Fraction(match[1].replace("_", "")) * scale
        if amount.denominator != 1:
            raise ValueError("this is not a whole number")
        return int(amount)
    return _number(value)


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Whole = Annotated[int, BeforeValidator(_number)]
Share = Annotated[float, Field(gt=0, le=1), BeforeValidator(_number)]
Amount = Annotated[
    int,
    Field(gt=0),
    BeforeValidator(
        _amount, json_schema_input_type=Annotated[int, Field(gt=0)] | Annotated[str, Field(pattern=rf"^{_AMOUNT}$")]
    ),
]
Paths = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    BeforeValidator(_one_or_more, json_schema_input_type=str | Annotated[list[str], Field(min_length=1)]),
]


class CorpusPolicy(_Section):
    """All documents: where they are, and what of a row is text, key and source."""

    paths: Paths = Field(description="Files, folders or globs of .jsonl, .jsonl.gz or .parquet.")
    text: str = Field("text", description="A column, or a template of columns: '{instruction}\\n{output}'.")
    key: str | None = Field(None, description="A column that names each document; without it, the text does.")
    source: str | dict[str, str] = Field(
        "source", description="A column (a file without it: the file's name), or a constant per path pattern."
    )
    tokenizer: str | None = Field(
        None, description="A tokenizer.json, or its folder; without it, the embedding model's."
    )
    max_document_bytes: Amount = Field(1 << 20, description="A longer row is quarantined.")
    rows_per_part: Amount | None = Field(
        None,
        description="Rows of a part, at most. Without it: about a sixteenth of the file, in steps of 128, up to 4,096.",
    )

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
        "mean", description="The token-weighted mean of all windows of max_tokens, or the first window only."
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 where the hardware has it, else float32. Recorded in the manifest."
    )


class ClusterPolicy(_Section):
    """k-means on the embeddings."""

    num_clusters: Amount | Literal["auto"] = "auto"
    iterations: Whole = Field(25, ge=1)
    documents_per_cluster: Whole = Field(256, ge=1, description="Size of the keyed training sample, per cluster.")

    @field_validator("num_clusters", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        try:
            return value if value == "auto" else pydantic.TypeAdapter(Amount).validate_python(value)
        except pydantic.ValidationError:
            raise ValueError("write a whole number of 1 or more, or auto") from None


class BudgetPolicy(_Section):
    """How much may be chosen: one of documents, tokens or a fraction of the tokens."""

    documents: Amount | None = None
    tokens: Amount | None = None
    fraction: Share | None = None
    overshoot: Overshoot = "stop"

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        given = [unit for unit in ("documents", "tokens", "fraction") if getattr(self, unit) is not None]
        if len(given) != 1:
            raise ValueError(
                f"write one of documents, tokens and fraction, not {' and '.join(given) or 'none of them'}"
            )
        return self

    def of(self, num_tokens: int) -> Budget:
        """The budget over a pool with so many tokens."""
        if self.documents is not None:
            return Budget(amount=self.documents, unit="documents", overshoot=self.overshoot)
        amount = self.tokens if self.tokens is not None else int(Fraction(str(self.fraction)) * num_tokens)
        return Budget(amount=amount, unit="tokens", overshoot=self.overshoot)


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


class OrderPolicy(_Section):
    """When it is seen."""

    using: Choice = Choice.model_validate("shuffled")


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
    rate: tuple[Choice, ...] = ()
    select: SelectPolicy
    order: OrderPolicy = OrderPolicy()
    manifest: ManifestPolicy = ManifestPolicy()

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """The policy in a mapping. Raises PolicyError that names key, value and cure."""
        try:
            policy = cls.model_validate(data)
        except pydantic.ValidationError as error:
            raise PolicyError("\n".join(_explain(cls, problem) for problem in _roots(error.errors()))) from error
        policy.plugins()
        return policy

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = (), environment: Mapping[str, str] = os.environ) -> Self:
        """The policy in a YAML file, with `key=value` overrides. Relative corpus paths are relative to the
        directory the command runs in."""
        return cls.of(read(path, overrides, environment))

    def plugins(self) -> "Plugins":
        """The plug-ins that this policy names, made with its options. Raises PolicyError."""
        raters: dict[str, Any] = {}
        for position, choice in enumerate(self.rate):
            rater = plugins.make("raters", choice.name, choice.options, f"rate.{position}")
            scores = list(rater.scores(choice.label))
            label = scores[0] if len(scores) == 1 else choice.label
            if label in raters:
                raise PolicyError(f"rate.{position}: {label!r} is there already. Remove one.")
            raters[label] = rater
        return Plugins(
            raters=raters,
            selector=plugins.make("selectors", self.select.using.name, self.select.using.options, "select.using"),
            order=plugins.make("orders", self.order.using.name, self.order.using.options, "order.using"),
        )

    def resolved(self) -> dict[str, Any]:
        """The policy as JSON with every default and plug-in option spelt out, independent of how paths were listed."""
        made = self.plugins()
        data = self.model_dump(mode="json")
        data["corpus"]["paths"] = sorted({str(Path(path)) for path in self.corpus.paths})
        data["rate"] = [
            {choice.name: dataclasses.asdict(rater)}
            for choice, rater in zip(self.rate, made.raters.values(), strict=True)
        ]
        data["select"]["using"] = {self.select.using.name: dataclasses.asdict(made.selector)}
        data["order"]["using"] = {self.order.using.name: dataclasses.asdict(made.order)}
        return data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plugins:
    """The plug-ins of one policy."""

    raters: dict[str, Any]  # by the score that each gives (by name, if it gives several), in the policy's order
    selector: Any
    order: Any


def read(
    path: str | Path, overrides: Iterable[str] = (), environment: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """The mapping that a policy file, the environment and the command line say together."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(_LONGEST + 1).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PolicyError(
            f"The policy {str(path)!r} cannot be read: {reason}. Give the path of a YAML file."
        ) from error
    data = _parse(text, str(path))
    if not isinstance(data, dict):
        raise PolicyError(f"The policy {str(path)!r} is not a mapping. Begin with corpus: and select:.")
    for name, value in sorted(environment.items()):
        keys = name.removeprefix("SELECTOR_").lower().split("__")
        if name.startswith("SELECTOR_") and keys[0] in Policy.model_fields:
            _set(data, keys, _parse(value, name))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise PolicyError(f"--set {override!r} is not of the form key=value, e.g. select.budget.tokens=50B.")
        _set(data, key.split("."), _parse(value, f"--set {key}"))
    return data


def _set(data: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = data.get(key)
        data[key] = inner = dict(inner) if isinstance(inner, Mapping) else {}
        data = inner
    if keys[:-1] and keys[-2] == "budget" and keys[-1] != "overshoot":
        for unit in ("documents", "tokens", "fraction"):
            data.pop(unit, None)
    data[keys[-1]] = value


class _Loader(yaml.SafeLoader):
    """Plain data in YAML 1.2, where `no` is a word and 012 is twelve. Refuses tags, a key given twice, and aliases,
    which can make a short file endless."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (as in its base)
    yaml_constructors: dict[str, Any] = {}  # noqa: RUF012

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise _refused("aliases are not read: write the value out", self.peek_event())
        return super().compose_node(parent, index)


def _refused(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, place.start_mark)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    """Keys are text as it stands: 1 and "1" are the same."""
    mapping: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _refused("a key is a list or a mapping: write a word", key)
        if key.value in mapping:
            raise _refused(f"the key {key.value!r} is there twice: remove one", key)
        mapping[key.value] = loader.construct_object(value, deep=True)  # pyright: ignore[reportUnknownArgumentType]
    return mapping


def _tagged(_: _Loader, node: yaml.Node) -> Any:
    raise _refused(f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not read: remove it", node)


for _name, _construct in {
    "map": _mapping,
    "seq": lambda loader, node: loader.construct_sequence(node, deep=True),
    "str": yaml.SafeLoader.construct_yaml_str,
    "null": yaml.SafeLoader.construct_yaml_null,
    "bool": yaml.SafeLoader.construct_yaml_bool,
    "int": lambda _, node: int(node.value),
    "float": yaml.SafeLoader.construct_yaml_float,
}.items():
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _construct)  # pyright: ignore[reportArgumentType]
_Loader.add_constructor(None, _tagged)  # pyright: ignore[reportArgumentType]
for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), _first)


def _parse(text: str, where: str) -> Any:
    if len(text) > _LONGEST:
        raise PolicyError(f"{where} is longer than {_LONGEST >> 20} MiB. A policy is a page.")
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise PolicyError(f"{where}{place} cannot be read as YAML: {problem}.") from error


def _explain(model: type[BaseModel], problem: Any) -> str:
    """One problem that pydantic found, as a sentence."""
    keys = [str(part) for part in problem["loc"] if not (isinstance(part, str) and re.search(r"[\[(]", part))]
    place = ".".join(keys) or "the policy"
    if problem["type"] == "extra_forbidden":
        fields = _fields(model, keys[:-1])
        return f"{'.'.join(keys[:-1]) or 'The policy'} has no key {keys[-1]!r}. {did_you_mean(keys[-1], fields)}"
    if problem["type"] == "missing":
        return f"{place} is missing. It has no default, since only you know it."
    if problem["type"] == "model_type":
        return f"{place}: write keys below it: {', '.join(_fields(model, keys))}; it is {problem['input']!r}."
    return f"{place}: {plugins.wanted(problem)}; it is {problem['input']!r}."


def _roots(problems: Sequence[Any]) -> list[Any]:
    """The problems, less those that only follow from one further in."""
    places = [problem["loc"] for problem in problems]
    return [
        problem
        for problem in problems
        if not any(
            len(place) > len(problem["loc"]) and place[: len(problem["loc"])] == problem["loc"] for place in places
        )
    ]


def _fields(model: type[BaseModel], keys: Sequence[str]) -> list[str]:
    for key in keys:
        annotation = model.model_fields[key].annotation if key in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
