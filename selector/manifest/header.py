"""manifest.json as one frozen type: what it holds, read strictly and written in one way.

The annotations carry the words of JSON Schema that a value obeys (`pattern`, `minimum`, …). `from_json` checks them,
and the published schema is made of them, so this page is the only module that says what a manifest.json holds.
"""

import dataclasses
import functools
import hashlib
import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from selector.engine.canonical import canonical_json
from selector.errors import DamagedError, SelectorError

FORMAT_VERSION = 2

Digest = Annotated[str, {"pattern": "^[0-9a-f]{64}$"}]
Count = Annotated[int, {"minimum": 0}]
Json = Mapping[str, Any]
"""A JSON object whose keys this format does not fix."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A Parquet file beside manifest.json."""

    rows: Count
    sha256: Digest


@dataclass(frozen=True, kw_only=True)
class Part:
    """A Parquet file of visits, in `parts/`."""

    name: str
    rows: Count
    sha256: Digest
    first_position: Count


@dataclass(frozen=True, kw_only=True)
class DecisionPart:
    """A Parquet file of decisions, in `../decisions/`. The first of them is about this row of this file."""

    name: str
    rows: Count
    sha256: Digest
    first_file: Count
    first_row: Count


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of the order. A phase may come back; `facts` are what the order says of it, e.g. its mixture."""

    name: str
    first_position: Count
    rows: Count
    tokens: Count
    facts: Json


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Rows and documents of the corpus, what became of them, and visits and tokens of the manifest."""

    rows: Count
    documents: Count
    kept: Count
    left_out: Count
    duplicate: Count
    marked: Count
    quarantined: Annotated[Count, {"description": "documents, and rows that never became one"}]
    visits: Count
    tokens: Count
    reasons: Annotated[
        Mapping[str, Count],
        {"description": "rows left out, marked or quarantined, by the reason they share"},
    ]
    sources: Annotated[
        Mapping[str, tuple[Count, Count]], {"description": "documents and tokens of the corpus, by source"}
    ]
    without_source: Annotated[
        Count, {"description": "documents without a source of their own: it is their file's name"}
    ]
    clusters_tried: Annotated[
        tuple[tuple[float, ...], ...],
        {"description": "numbers of clusters, each with its silhouette and mean distance; `facts.cluster` says more"},
    ]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the selector and the order say of their work: quotas, a shortfall, gaps that could not be met.

    `order.left` counts the visits that the order does not make, by the reason as in `counts.reasons`; `corpus.files`
    the files of the corpus, by the ending of their names: how many are `read`, and how many are not for each reason.
    `cluster` is there where clusters are: their `health`, and what each number of them that was `tried` comes to.
    `scores` is there where documents are rated: of each score how many `documents` were asked for, how many have it
    (`scored`), and how many of the others do not for each state, where almost none has it (`without`).
    `repeats` is there where documents are visited several times: the `tokens` of all visits, those of the first ones
    (`tokens_once`), and how many tokens of new text all of them are worth (`worth_tokens`).
    `training` is there where the policy says how the order will be trained on: how much a visit of each tenth of the
    order `counts` in the weights at the end (1 is the average), how much those of `best` quality do, and of which
    checkpoints the weights at the end are the mean (`average`).
    """

    select: Json
    order: Json
    corpus: Json | None = None
    cluster: Json | None = None
    scores: Json | None = None
    repeats: Json | None = None
    training: Json | None = None


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The manifest that this one continues, from this position on; a control of it begins anew, at 0."""

    digest: Digest
    position: Count


@dataclass(frozen=True, kw_only=True)
class Header:
    """A manifest.json."""

    format_version: Literal[2] = FORMAT_VERSION
    digest: Annotated[
        Digest, {"description": "blake2b-256 of this object without `digest`, as RFC 8785 writes it (canonical JSON)"}
    ]
    order_digest: Annotated[Digest, {"description": "root of the Merkle tree over the rows"}]
    leaf_digests: Annotated[tuple[Digest, ...], {"minItems": 1, "description": "one for every 65,536 positions"}]
    counts: Counts
    facts: Facts
    parts: tuple[Part, ...]
    files: Annotated[Table, {"description": "files.parquet: the files of the corpus"}]
    ids: Annotated[Table, {"description": "ids.parquet: where each document is in the order"}]
    unvisited: Annotated[
        Table | None, {"description": "unvisited.parquet: what the order was given and does not visit, and why"}
    ]
    decisions: tuple[DecisionPart, ...]
    phases: tuple[Phase, ...]
    policy: Annotated[Json, {"description": "with every default spelt out: see policy.schema.json"}]
    lineage: Annotated[Mapping[str, str], {"description": "the fingerprint of every step"}]
    models: Json
    plugins: Json
    versions: Mapping[str, str]
    parent: Parent | None

    def to_json(self) -> dict[str, Any]:
        """What manifest.json says, as JSON."""
        return _written(self)

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """The header that says this. Raises ValueError, with the path and what is to be there, for anything else."""
        return _read(cls, content, "")


def seal(content: Json) -> bytes:
    """The bytes of manifest.json: its content, and the digest that stands for the whole manifest."""
    rest = {name: value for name, value in content.items() if name != "digest"}
    return canonical_json({**rest, "digest": _digest(canonical_json(rest))})


def unseal(key: str, data: bytes) -> Header:
    """What manifest.json says.

    Raises DamagedError if it does not match its own digest or does not say what a manifest.json says, SelectorError if
    it is of another format version.
    """
    content = content_of(key, data)
    version = content["format_version"]
    if version != FORMAT_VERSION:
        problem = f"{key} has format version {version}, and this is Selector for version {FORMAT_VERSION}."
        if version == 1:
            raise SelectorError(
                f"{problem} Run the policy again to have it in version 2, or read it with Selector 0.1."
            )
        raise SelectorError(f"{problem} Install a newer Selector.")
    try:
        header = Header.from_json(content)
    except ValueError as error:
        raise DamagedError(key, f"it is no manifest.json of format version {FORMAT_VERSION}: {error}") from error
    if canonical_json(content) != data:
        raise DamagedError(key, "it is not written as canonical JSON")
    return header


def content_of(key: str, data: bytes) -> dict[str, Any]:
    """What a manifest.json of any format version says as JSON. Raises DamagedError if it does not match its own
    digest."""
    try:
        content = json.loads(data.decode())
        _, digest = content["format_version"], content["digest"]
        rest = data.replace(b'"digest":"%s",' % digest.encode(), b"", 1)  # of any version, however it writes numbers
        is_sound = digest == _digest(rest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(key, "it cannot be read") from error
    if not is_sound:
        raise DamagedError(key, "it does not match its own digest")
    return content


def _digest(canonical: bytes) -> str:
    return hashlib.blake2b(canonical, digest_size=32).hexdigest()


def _written(value: Any) -> Any:
    """A value of a header as JSON."""
    if dataclasses.is_dataclass(value):
        members = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        optional = optional_fields_of(type(value))
        return {name: _written(it) for name, it in members.items() if it is not None or name not in optional}
    if isinstance(value, Mapping):
        return {name: _written(member) for name, member in typing.cast(Json, value).items()}
    if isinstance(value, list | tuple):
        return [_written(member) for member in typing.cast("tuple[Any, ...]", value)]
    return value


def _read(kind: Any, value: Any, path: str) -> Any:
    """A JSON value as this type. Raises ValueError."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        parsed = _read(inner[0], value, path)
        for words in inner[1:]:
            _obey(words, value, path)
        return parsed
    if origin in (typing.Union, types.UnionType):
        (some,) = (member for member in inner if member is not type(None))
        return None if value is None else _read(some, value, path)
    if dataclasses.is_dataclass(kind):
        members, hints = _of_type(value, dict, "an object", path), fields_of(typing.cast("type[Any]", kind))
        optional = optional_fields_of(typing.cast("type[Any]", kind))
        hints = {name: hint for name, hint in hints.items() if name in members or name not in optional}
        for name in [*members, *hints]:
            if (name in members) != (name in hints):
                raise ValueError(f"{_at(path, name)} {'is missing' if name in hints else 'is not a key of it'}")
        return typing.cast(Any, kind)(**{name: _read(hints[name], members[name], _at(path, name)) for name in hints})
    if origin is Mapping:
        members = _of_type(value, dict, "an object", path)
        return {name: _read(inner[1], member, _at(path, name)) for name, member in members.items()}
    if origin is tuple:
        listed = _of_type(value, list, "a list", path)
        kinds = [inner[0]] * len(listed) if inner[-1] is Ellipsis else inner
        if len(listed) != len(kinds):
            raise ValueError(f"{path} has {len(listed)} members and is to have {len(kinds)}")
        return tuple(_read(kinds[at], member, f"{path}[{at}]") for at, member in enumerate(listed))
    if origin is Literal:
        if value not in inner:
            raise ValueError(f"{path} is {value!r} and is to be {inner[0]!r}")
        return value
    if kind is float:
        return value if type(value) is int else _of_type(value, float, "a number", path)
    if kind in (int, str):
        return _of_type(value, kind, {int: "a whole number", str: "text"}[kind], path)
    assert kind is Any, f"{path}: {kind} has no JSON"
    return value


@functools.cache
def fields_of(kind: type[Any]) -> dict[str, Any]:
    """The types of a dataclass's fields, with what is annotated, in order."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@functools.cache
def optional_fields_of(kind: type[Any]) -> frozenset[str]:
    """The fields of a dataclass that a manifest.json may be without: those that are None then."""
    return frozenset(field.name for field in dataclasses.fields(kind) if field.default is None)


def _of_type(value: Any, kind: type[Any], word: str, path: str) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{path or 'it'} is {value!r:.40} and is to be {word}")
    return value


def _obey(words: Json, value: Any, path: str) -> None:
    """Raises ValueError if a value does not obey these words of JSON Schema."""
    if "pattern" in words and not re.fullmatch(words["pattern"], value):
        raise ValueError(f"{path} is {value!r:.80} and is to match {words['pattern']}")
    if "minimum" in words and value < words["minimum"]:
        raise ValueError(f"{path} is {value} and is to be at least {words['minimum']}")
    if "minItems" in words and len(value) < words["minItems"]:
        raise ValueError(f"{path} has {len(value)} members and is to have at least {words['minItems']}")


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
