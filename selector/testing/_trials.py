"""What plug-ins are tried on: documents that are made up, and every plug-in with every kind of option.

An option's type says what is made for it (`selector.plugins.options`): a score that the documents have, a table about
some of them, texts with their embeddings, a plug-in of the family that is asked for. What cannot be made up, such as a
model, is given by whoever runs the laws: `variants("raters", "perplexity", model=folder)`.
"""

import dataclasses
import functools
import itertools
import math
import pickle
import random
import typing
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from selector import plugins, tables
from selector.errors import PolicyError
from selector.exact import keyed
from selector.exact.spend import Budget
from selector.plugins import (
    ArtefactPath,
    Endpoint,
    ManifestPath,
    ModelPath,
    Option,
    Pool,
    ScoreName,
    SignalName,
    TablePath,
    TextsPath,
    options_of,
    replaced,
)
from selector.plugins.catalogue import CORPUS
from selector.plugins.catalogue import SCORE as SCORES
from selector.plugins.options import TABLE_KINDS, arrow_type, columns_of, hints_of, joined, kind_of
from selector.plugins.pool import Rows
from selector.testing._awkward import AWKWARD
from selector.testing._law import corpus_values

Answer = TypeVar("Answer")

SCORE = "quality"
"""The documents' score that is a number."""
EXACT = "edits"
"""Their score that is a whole number, compared exactly."""
TOPIC = "topic"
"""Their score that is a label."""
_MOST_COMBINATIONS = 16
VISITED = ("visits", "round", "inclusion_probability")
"""What every order's pool has of what select decided."""

SCHEMA = pa.schema(
    [
        ("doc_id", tables.DOC_ID),
        ("source", tables.LABEL),
        ("num_bytes", pa.uint32()),
        ("num_tokens", pa.uint32()),
        ("text", pa.string()),
        ("cluster", pa.int32()),
        ("distance", pa.float32()),
        tables.CLUSTERS.field("branches"),
        ("embedding", pa.list_(pa.float16(), 4)),
        *[tables.NEIGHBOURS.field(name) for name in ("neighbours", "neighbour_cosines")],
        pa.field(SCORE, pa.float32(), metadata={"higher_is": "better"}),
        pa.field(EXACT, pa.int64(), metadata={"higher_is": "harder"}),
        pa.field(TOPIC, tables.LABEL, metadata={"higher_is": "label"}),
    ]
)


def documents(rows: list[dict[str, Any]]) -> pa.Table:
    """Documents with what a row says, and otherwise: 10 tokens, cluster 0, source web, no scores, no neighbours."""
    filled: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for i, row in enumerate(rows):
        default = {"doc_id": i.to_bytes(16), "source": "web", "num_bytes": 100, "num_tokens": 10, "cluster": 0}
        default |= {"text": f"Document {i}. It has words.", "distance": 0.5, SCORE: None, EXACT: None, TOPIC: None}
        default |= {"embedding": [np.float16(x) for x in (1, 0, 0, i)], "neighbours": [], "neighbour_cosines": []}
        row = {**default, "branches": [], **row}
        for name in SCHEMA.names:
            filled[name].append(row[name])
    return pa.table([pa.array(filled[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


@functools.lru_cache(maxsize=4096)
def made_up(count: int, number: int) -> pa.Table:
    """So many documents, others for every number; some share a cluster, a source, a neighbour or a score, have no
    score, or have no tokens, and some of their ids follow one another."""
    rng = np.random.default_rng(number)

    def one_of(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    ids = list(dict.fromkeys(one_of(rng.bytes(16), int(rng.integers(41)).to_bytes(16)) for _ in range(count)))
    return documents(
        [
            {
                "doc_id": doc_id,
                "source": one_of("web", "code", "math", "écrit"),
                "num_tokens": int(one_of(rng.integers(31), rng.integers(3))),
                "text": one_of("One word.", "Some more words, in two clauses.", "", "Écrit. Philosophical!", "7"),
                "cluster": (cluster := int(rng.integers(4))),
                "branches": [cluster // 2],
                SCORE: one_of(None, float(rng.integers(-2, 3)), float(np.float32(rng.uniform(-1e3, 1e3)))),
                EXACT: one_of(None, int(rng.integers(-2, 3)), 2**60 + int(rng.integers(6))),
                TOPIC: one_of(None, "art", "law"),
                **_neighbours_of(doc_id, ids),
            }
            for doc_id in ids
        ]
    )


def _neighbours_of(doc_id: bytes, ids: Sequence[bytes]) -> dict[str, list[Any]]:
    """Some other documents, with cosines that are the same from both sides."""
    cosines = {other: np.float32((doc_id[-1] ^ other[-1]) % 8 / 7) for other in ids if other != doc_id}
    near = sorted(cosines, key=lambda other: (-cosines[other], other))[: doc_id[-1] % 5]
    return {"neighbours": near, "neighbour_cosines": [cosines[other] for other in near]}


_NUMBERS = st.integers(0, 2**16)
TABLES = st.builds(made_up, st.integers(0, 40), _NUMBERS)
"""Up to 40 documents: few numbers say which, so that few are drawn."""


def permutation(table: pa.Table, number: int) -> list[int]:
    """The places of a table's rows in another order, another one for every number."""
    return np.random.default_rng(number).permutation(table.num_rows).tolist()


MOVES = _NUMBERS
"""In which order the documents stand."""
BUDGETS = st.builds(
    Budget,
    amount=st.one_of(st.integers(0, 10), st.integers(0, 60), st.integers(0, 600)),
    unit=st.sampled_from(["documents", "tokens"]),
    overshoot=st.sampled_from(["stop", "fill", "cross"]),
)
BOUNDS = st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from([None, 1, 2]), st.integers(0, 3))
"""The least share of one group and the most of another, in quarters; how many visits there may be; and how many
documents are included."""
SEEDS = st.integers(0, 3)
SPLITS = st.integers(1, 41)
"""How many documents a shard has."""


def variants(family: str, name: str, **given: Any) -> Iterator[Any]:
    """A plug-in with every combination of its literals, its flags and its optional scores, tables and plug-ins; where
    those are more than 16, with every value of each option, beside the first values of the others.

    `given` are values for options by their names; a model must be given. Tables, texts and manifests are attached. One
    that is around another plug-in is tried around every one that has a name, and around an awkward one.
    """
    cls = plugins.find(family, name)
    hints = hints_of(cls)
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    choices = {
        field.name: [given[field.name]] if field.name in given else _choices(hints[field.name], field, name)
        for field in fields
    }
    for values in _combined(list(choices.values())):
        options = {key: value for key, value in zip(choices, values, strict=True) if value is not ...}
        try:
            plugin = plugins.make(family, name, options, "test", object)
        except PolicyError:  # a combination that it refuses, such as two limits that leave nothing between them
            continue
        yield attached(plugin)


def _combined(choices: list[list[Any]]) -> Iterator[tuple[Any, ...]]:
    """Every combination of one value from each list, if there are few; else every value, beside the first others."""
    if math.prod(map(len, choices)) <= _MOST_COMBINATIONS:
        yield from itertools.product(*choices)
        return
    firsts = tuple(values[0] for values in choices)
    yield firsts
    for i, values in enumerate(choices):
        yield from ((*firsts[:i], value, *firsts[i + 1 :]) for value in values[1:])


def attached(plugin: Any) -> Any:
    """The plug-in with a made table wherever an option names a table; an empty one where it was left out."""
    tables_named = {
        option.path: _path(option).attached(table_of(option))
        for option in options_of(plugin, *TABLE_KINDS)
        if option.kind is not ArtefactPath  # it was opened
    }
    return replaced(plugin, tables_named)


def table_of(option: Option) -> pa.Table:
    """A made table with the columns that the option declares: about some of `documents`, and about others."""
    types = {name: arrow_type(kind) for name, kind in option.columns.types.items()}
    if option.kind is ManifestPath:
        types |= {"doc_id": tables.DOC_ID, "position": pa.int64()}
    if option.kind is TextsPath:
        types = {"text": pa.string(), "embedding": SCHEMA.field("embedding").type} | types
    schema = pa.schema(list(types.items()))
    if option.value is None:
        return schema.empty_table()
    if option.columns.key is None and option.kind is not ManifestPath:
        return pa.table([_values(kind, range(5)) for kind in types.values()], schema=schema)
    some = [i for i in range(60) if i % 3]
    return pa.table([_values(kind, some) for kind in types.values()], schema=schema)


def made_for(plugin: Any, table: pa.Table) -> pa.Table:
    """The documents with what the plug-in needs beside: columns of its keyed tables, and those with long names."""
    for name, option, field in joined(plugin):
        rows = {doc_id: i for i, doc_id in enumerate(option.value.table[option.columns.key].to_pylist())}
        places = pa.array([rows.get(doc_id) for doc_id in table["doc_id"].to_pylist()], pa.int64())
        table = table.append_column(name, option.value.table[field.name].take(places))
    for need in columns_of(plugin):
        if need in table.schema.names:
            continue
        short = need.removeprefix(SCORES)
        if need.startswith(CORPUS) and (values := corpus_values(need.removeprefix(CORPUS))) is not None:
            places = [doc_id[15] % len(values) for doc_id in table["doc_id"].to_pylist()]
            table = table.append_column(need, values.take(pa.array(places, pa.int64())))
        elif need.startswith(CORPUS):
            words = [("a", "b", None)[doc_id[15] % 3] for doc_id in table["doc_id"].to_pylist()]
            table = table.append_column(need, pa.array(words, pa.string()))
        elif need.startswith(SCORES):
            at = table.schema.get_field_index(short if short in table.schema.names else SCORE)
            table = table.append_column(table.schema.field(at).with_name(need), table.column(at))
    return table


def pool_for(
    plugin: Any, table: pa.Table, shard_documents: int, given: pa.Table | None = None, *, is_strict: bool = False
) -> Pool:
    """A pool over the documents with what the plug-in needs beside, in shards of so many; the outermost have no rows.

    All rows of a document are in one shard. A strict pool has no other columns than those that the plug-in names.
    """
    prepared = made_for(plugin, table).combine_chunks()
    if is_strict:
        prepared = prepared.select([*columns_of(plugin), *(name for name in VISITED if name in prepared.schema.names)])
    ids = keyed.words(prepared["doc_id"])
    first = np.flatnonzero(np.r_[True, (ids[1:] != ids[:-1]).any(axis=1)]) if len(ids) else np.empty(0, np.int64)
    ends = [0, *first[::shard_documents].tolist(), prepared.num_rows, prepared.num_rows]
    batches = [
        batch
        for begin, end in itertools.pairwise(ends)
        for batch in prepared.slice(begin, end - begin).to_batches() or [_no_rows(prepared.schema)]
    ]
    shards = [Rows(batch=batch) for batch in batches]
    known = None if given is None else made_for(plugin, given).select(prepared.schema.names)
    return Pool(schema=prepared.schema, num_documents=prepared.num_rows, shards=shards, given=known)


class _Remote(Pool):
    """A pool whose shards lie on other machines: work is sent there, and its answers are sent back."""

    def map(self, work: Callable[[pa.RecordBatch], Answer], *columns: str) -> Iterator[Answer]:
        for batch in self.batches(*columns):
            yield pickled_copy(pickled_copy(work)(batch))

    def exchange(
        self, by: str, work: Callable[[pa.RecordBatch], pa.RecordBatch], *columns: str, returns: pa.Schema
    ) -> Pool:
        return super().exchange(by, pickled_copy(work), *columns, returns=returns)


def remote(pool: Pool) -> Pool:
    """The same pool, with its shards on other machines."""
    return _Remote(**{field.name: getattr(pool, field.name) for field in dataclasses.fields(pool)})


def pickled_copy(value: Answer) -> Answer:
    """What arrives of a value that is sent to another process."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 (what we pickled ourselves)


@contextmanager
def generators_at(number: int) -> Generator[None]:
    """Everybody's random generators begin with this number, and afterwards go on as if nothing had happened."""
    state, other = random.getstate(), np.random.get_state()
    try:
        random.seed(number)
        np.random.seed(number)
        yield
    finally:
        random.setstate(state)
        np.random.set_state(other)


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def around(family: str) -> list[Any]:
    """What a plug-in around one of this family is tried around: every one that has a name and is around none itself,
    and one that does what few others do."""
    named = [name for name in plugins.names(family) if not _is_around(plugins.find(family, name))]
    return [*(next(variants(family, name)) for name in named if can_be_made_up(family, name)), AWKWARD[family]]


def _is_around(cls: type[Any]) -> bool:
    kinds = [kind_of(hint).base for hint in hints_of(cls).values()]
    return any(plugins.family_of(kind) or (plugins.is_part(kind) and _is_around(kind)) for kind in kinds)


def can_be_made_up(family: str, name: str) -> bool:
    cls = plugins.find(family, name)
    hints, fields = hints_of(cls), dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    given = (ModelPath, ArtefactPath, Endpoint)
    return not any(kind_of(hints[field.name]).base in given and _is_needed(field) for field in fields)


def _is_needed(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _choices(hint: Any, field: "dataclasses.Field[Any]", name: str) -> list[Any]:
    """Values to try for a field; `...` leaves it out."""
    kind = kind_of(hint)
    absent = [None] if kind.is_optional and _is_needed(field) else [] if _is_needed(field) else [...]
    family = plugins.family_of(kind.base)
    if family is not None:
        values = [inner for inner in around(family) if isinstance(inner, kind.base)]
    elif plugins.is_part(kind.base):
        values = list(_parts(kind.base))
        return [(value, values[0]) for value in values] if kind.is_many else values
    elif kind.base in (ScoreName, SignalName):
        values = [SCORE, EXACT]
    elif typing.get_origin(kind.base) is Literal:
        values = list(typing.get_args(kind.base))
    elif kind.base is bool:
        values = [False, True]
    elif kind.base is Endpoint:
        raise AssertionError(f"A server cannot be made up. Give {name!r} one: {field.name}=<address>.")
    elif kind.base is ArtefactPath:
        raise AssertionError(f"An artefact cannot be made up. Give {name!r} one: {field.name}=<file>.")
    elif isinstance(kind.base, type) and issubclass(kind.base, TablePath):
        values = ["made.jsonl"]
    elif kind.base in (int, float) and kind.is_optional:
        values = [_PLAIN[kind.base]]
    elif absent:
        return absent
    elif kind.base is ModelPath:
        raise AssertionError(f"A model cannot be made up. Give {name!r} one: {field.name}=<folder>.")
    else:
        values = [_PLAIN[kind.base]]
    if kind.is_many:
        values = [(values * 2)[:2]]
    return [*absent, *values] if kind.is_optional else values


def _parts(cls: type[Any]) -> Iterator[Any]:
    """Options that belong together, with every value of each beside the first of the others."""
    hints, fields = hints_of(cls), dataclasses.fields(cls)
    for values in _combined([_choices(hints[field.name], field, cls.__name__) for field in fields]):
        with suppress(PolicyError):  # a combination that it refuses
            yield cls(**{f.name: value for f, value in zip(fields, values, strict=True) if value is not ...})


_PLAIN: dict[Any, Any] = {int: 3, float: 0.5, str: "word"}


def _path(option: Option) -> TablePath:
    return option.kind(option.value or "")


def _values(kind: pa.DataType, numbers: typing.Iterable[int]) -> pa.Array:
    """Values of an Arrow type, a different one for each number."""
    if kind == tables.DOC_ID:
        return pa.array([i.to_bytes(16) for i in numbers], kind)
    if pa.types.is_fixed_size_list(kind):
        return pa.array([[np.float16(x) for x in (1, 0, 0, i)] for i in numbers], kind)
    if pa.types.is_string(kind):
        return pa.array([f"text {i}" for i in numbers], kind)
    if pa.types.is_boolean(kind):
        return pa.array([i % 2 == 0 for i in numbers], kind)
    return pa.array(list(numbers), pa.int64()).cast(kind)
