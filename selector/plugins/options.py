"""What an option of a plug-in can be beside a number or a word, and how the flow finds such options, however deep.

A plug-in does no I/O. So an option that names something outside of it has a type that says what: a score, a model, a
table, texts, a manifest, another plug-in. The user writes a name or a path; the flow checks it before any work, puts
its content into the fingerprint, and hands the plug-in the thing itself.

    @dataclass(frozen=True, kw_only=True)
    class Nearest(Selector):
        score: ScoreName                                              # a document without it cannot be chosen
        bonus: SignalName | None = None                               # a document may lack it
        queries: TextsPath                                            # self.queries.table has `text` and `embedding`
        judged: Annotated[TablePath, Columns(doc_id="doc_id", grade="float32")] | None = None
        model: ModelPath                                              # self.model is the folder that it was found in
        inner: Selector                                               # {top: {score: edu}}
        levels: tuple[Level, ...] = ()                                # a dataclass: options that belong together
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NewType, Self, TypeVar, cast

import pyarrow as pa

from selector import tables
from selector.storage import Storage

ScoreName = NewType("ScoreName", str)
"""The name of a score that the plug-in cannot do without: `select.missing` says what becomes of a document without
it."""

SignalName = NewType("SignalName", str)
"""The name of a score that a document may lack: its column is then null."""


class _Path(str):
    """A path for the user; what lies there for the plug-in. Compares and prints as the path."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema(min_length=1))


class ModelPath(_Path):
    """A model folder, a packaged model's name, or `hf://owner/name@revision`; once found, the path of its folder.

    In a run it also says where and how exactly the model computes, which is part of the fingerprint, and which model it
    is that the run was planned with.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    planned: str | None = None
    where: str = ""  # the key of the policy that names it, for messages

    def located(self, folder: str, where: str) -> Self:
        """The folder that it was found in, with the key of the policy that names it."""
        copy = type(self)(folder)
        copy.where = where
        return copy

    def placed(
        self, device: Literal["cpu", "cuda"], precision: Literal["float32", "bfloat16", "float16"], planned: str | None
    ) -> Self:
        """The same path, with what a run decided of its model."""
        copy = type(self)(self)
        copy.device, copy.precision, copy.planned, copy.where = device, precision, planned, self.where
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        return _replaced, (type(self), str(self), self.where, self.device, self.precision, self.planned)


class Endpoint(_Path):
    """The address of an OpenAI-compatible server, http://host:port/v1. It decides no answer, so no fingerprint has it.

    In a run `storage` is where what the server answers is kept.
    """

    storage: Storage | None = None

    def connected(self, storage: Storage) -> Self:
        """The same address, with where its answers are kept."""
        copy = type(self)(self)
        copy.storage = storage
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self),)  # a worker is connected where it is


class TablePath(_Path):
    """The path of a JSONL or Parquet file; once attached, `table` has its rows, an empty one where an optional is
    absent.

    A table that declares a column called `doc_id` is also joined to the documents by it: a batch then has its other
    columns as `<option>.<column>`, null where the table has no row for the document. The file may have a column `key`
    instead, with the values of the column that `corpus.key` names. A plug-in whose other options say which columns
    there are has a property `table_columns`: `Columns` by the option's name. Ids in columns of other names (the
    winner and the loser of a comparison) are read as ids and joined to nothing; nor is a table of which a document may
    have several rows (`Columns.several`).
    """

    table: pa.Table

    def attached(self, table: pa.Table) -> Self:
        """The same path, with its rows."""
        copy = type(self)(self)
        copy.table = table
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        return _reattached, (type(self), str(self), getattr(self, "table", None))


class TextsPath(TablePath):
    """The path of a JSONL or Parquet file with a column `text`; once attached, `table` has `embedding` beside it."""


class ManifestPath(TablePath):
    """The path of a run or of its manifest; once attached, `table` has a row per visit: `doc_id` and `position`."""


class ArtefactPath(TablePath):
    """The path of what a command made for a plug-in: its `table` is there as soon as the policy is read, so that what
    the plug-in needs and gives may depend on it. It is joined to nothing."""


def _replaced(kind: type[ModelPath], path: str, where: str, *placed: Any) -> ModelPath:
    return kind(path).located(path, where).placed(*placed)


def _reattached(kind: type[TablePath], path: str, table: pa.Table | None) -> TablePath:
    return kind(path) if table is None else kind(path).attached(table)


@dataclass(frozen=True, kw_only=True, init=False)
class Columns:
    """The columns that a table must have, by the names of their Arrow types; `doc_id` is 32 hex digits or 16 bytes."""

    types: Mapping[str, str]
    is_many: bool = False  # a document may have several rows, so the table is not joined to the documents

    def __init__(self, **types: str) -> None:
        object.__setattr__(self, "types", types)

    @classmethod
    def several(cls, **types: str) -> Self:
        """The columns of a table that may have several rows of one document: the plug-in reads the table itself."""
        columns = cls(**types)
        object.__setattr__(columns, "is_many", True)
        return columns

    def __hash__(self) -> int:
        return hash((tuple(self.types.items()), self.is_many))

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(name, arrow_type(kind)) for name, kind in self.types.items()])

    @property
    def key(self) -> str | None:
        """The column that names documents, if there is one: that which is called `doc_id`."""
        return "doc_id" if self.types.get("doc_id") == "doc_id" else None


def arrow_type(name: str) -> pa.DataType:
    """The type that `Columns` calls by this name."""
    return tables.DOC_ID if name == "doc_id" else pa.type_for_alias(name)


def fields_of(plugin: object) -> tuple[dataclasses.Field[Any], ...]:
    """The options of a plug-in: the fields of its dataclass."""
    assert dataclasses.is_dataclass(plugin) and not isinstance(plugin, type), f"{plugin!r} is no plug-in"
    return dataclasses.fields(plugin)


P = TypeVar("P")
TABLE_KINDS: tuple[Any, ...] = (TablePath, TextsPath, ManifestPath, ArtefactPath)
"""The kinds of options that name a table."""
KINDS: tuple[Any, ...] = (ScoreName, SignalName, ModelPath, Endpoint, *TABLE_KINDS)
NO_COLUMNS = Columns()


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option that names something, and what it names."""

    path: str  # "score", "inner.score"
    kind: Any  # one of KINDS
    value: Any  # as it stands; None where an optional one was left out
    is_optional: bool
    columns: Columns


def options_of(plugin: object, *kinds: Any) -> list[Option]:
    """The options of these kinds, those of plug-ins that are options included, in the order of the fields.

    An option that may hold several (a tuple) counts once for each; one that was left out is there with the value None.
    """
    return [option for option in _walk(plugin, "") if option.kind in kinds]


def written(plugin: object, *kinds: Any) -> list[Option]:
    """Those of `options_of` that were not left out."""
    return [option for option in options_of(plugin, *kinds) if option.value is not None]


def named(plugin: object, *kinds: Any) -> tuple[str, ...]:
    """What the options of these kinds name, each once."""
    return tuple(dict.fromkeys(option.value for option in written(plugin, *kinds)))


def columns_of(plugin: object, always: Sequence[str] = ("doc_id", "num_tokens")) -> tuple[str, ...]:
    """The columns of its batches or its pool: those that are always there, what it and the plug-ins below it need, the
    scores that options name, and those of its keyed tables."""
    needs = [need for inner in plugins_in(plugin) for need in getattr(inner, "needs", ())]
    tables = [name for name, _, _ in joined(plugin)]
    return tuple(dict.fromkeys((*always, *needs, *named(plugin, ScoreName, SignalName), *tables)))


def plugins_in(plugin: object) -> Iterator[object]:
    """The plug-in and every plug-in below it that is an option."""
    yield plugin
    for inner in inner_plugins(plugin):
        yield from plugins_in(inner)


def inner_plugins(plugin: object) -> list[object]:
    """The plug-ins that are options of this one, or of options of it that belong together."""
    values = [value for field in fields_of(plugin) for value in _as_tuple(getattr(plugin, field.name))]
    inner = [value for value in values if is_plugin(value)]
    return [one for value in inner for one in ([value] if hasattr(value, "version") else inner_plugins(value))]


def is_plugin(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def joined(plugin: object) -> list[tuple[str, Option, pa.Field]]:
    """The columns of attached tables that are joined to the documents: each with its name in a batch, the option that
    names its table, and its field there."""
    return [
        (f"{option.path.rpartition('.')[2]}.{field.name}", option, field)
        for option in options_of(plugin, TablePath)
        if option.columns.key is not None and not option.columns.is_many
        for field in option.columns.schema
        if field.name != option.columns.key
    ]


def replaced(plugin: P, values: Mapping[str, Any]) -> P:
    """The plug-in with other values for some options, by their paths."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(cast(Any, plugin)):
        value = getattr(plugin, field.name)
        if field.name in values:
            changed[field.name] = values[field.name]
            continue
        inner = {
            path.removeprefix(f"{field.name}."): new
            for path, new in values.items()
            if path.startswith(f"{field.name}.")
        }
        if not inner:
            continue
        if is_plugin(value):
            changed[field.name] = replaced(value, inner)
        else:
            changed[field.name] = tuple(_replaced_item(item, str(i), inner) for i, item in enumerate(value))
    return dataclasses.replace(cast(Any, plugin), **changed) if changed else plugin


def _replaced_item(item: Any, index: str, values: Mapping[str, Any]) -> Any:
    if index in values:
        return values[index]
    inner = {path.removeprefix(f"{index}."): new for path, new in values.items() if path.startswith(f"{index}.")}
    return replaced(item, inner) if inner else item


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a field's type says of its values."""

    base: Any  # one of KINDS, a family's contract, or any other type
    is_optional: bool
    is_many: bool  # a tuple of them
    columns: Columns


def kind_of(hint: Any) -> Kind:
    """A field's type taken apart: `Annotated[TablePath, Columns(…)] | None` is an optional table with columns."""
    columns, is_optional, is_many = NO_COLUMNS, False, False
    while True:
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            hint = arguments[0]
            columns = next((extra for extra in arguments[1:] if isinstance(extra, Columns)), columns)
        elif origin in (typing.Union, types.UnionType) and type(None) in arguments and len(arguments) == 2:
            hint, is_optional = next(argument for argument in arguments if argument is not type(None)), True
        elif origin is tuple and len(arguments) == 2 and arguments[1] is ...:
            hint, is_many = arguments[0], True
        else:
            return Kind(base=hint, is_optional=is_optional, is_many=is_many, columns=columns)


@functools.cache
def hints_of(cls: type[Any]) -> Mapping[str, Any]:
    """The types of a plug-in's options."""
    return typing.get_type_hints(cls, include_extras=True)


@functools.cache
def _kinds_of(cls: type[Any]) -> Mapping[str, Kind]:
    return {name: kind_of(hint) for name, hint in hints_of(cls).items()}


def _walk(plugin: object, prefix: str) -> Iterator[Option]:
    kinds = _kinds_of(type(plugin))
    for field in fields_of(plugin):
        kind, value = kinds[field.name], getattr(plugin, field.name)
        path = f"{prefix}{field.name}"
        if kind.is_many and value is not None:
            items = [(f"{path}.{i}", item) for i, item in enumerate(value)]
        else:
            items = [(path, value)]
        for path_of_item, item in items:
            if kind.base in KINDS:
                columns = getattr(plugin, "table_columns", {}).get(field.name, kind.columns)
                yield Option(
                    path=path_of_item, kind=kind.base, value=item, is_optional=kind.is_optional, columns=columns
                )
            elif is_plugin(item):
                yield from _walk(item, f"{path_of_item}.")


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
