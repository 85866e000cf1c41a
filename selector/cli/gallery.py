"""A gallery of orders: for each one a small picture of what it does, and what its docstring says of it.

There is no list of orders here: each one that a policy can name is drawn, over the same made-up documents. What an
option without a default is to be follows from its type, or from the order's `example`.
"""

import dataclasses
import inspect
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import yaml

from selector import plugins, tables
from selector.cli import drawing
from selector.errors import PolicyError, SelectorError, UsageError
from selector.exact import keyed
from selector.exact.rates import Schedule, Training
from selector.exact.vectors import vector_column
from selector.manifest.measures import GroupMeasures, ScoreMeasures, window_of
from selector.order import Order, Pool, Positions, arranged
from selector.plugins.attached import attach, empty
from selector.plugins.catalogue import CORPUS
from selector.plugins.options import TABLE_KINDS, ManifestPath, Option, columns_of, hints_of, kind_of, plugins_in

SOURCES = ("web", "books", "code", "math")
PAGE = "gallery.md"
SCORE = "difficulty"
SCORES = (SCORE, "quality")
"""What options that must name a score are said to name: the first of them one, the second the other."""
TABLE = "example.jsonl"
"""What an option that names a table is said to name; here the table is made up."""

_NUM_DOCUMENTS = 12_000
_COLUMNS = 96  # of a picture
_SHARES = (0.1, 0.5, 0.9)  # of the documents of a column: the borders of what is drawn of their difficulty
_RED, _GREEN = "#e45756", "#2e7d32"
_TRAINING = Training(
    global_batch_size=120, schedule=Schedule(peak=0.5, decay="wsd", warmup=0.02, falling=0.3, weight_decay=0.1)
)
_TRAINED = "100 steps with a rate that falls in the last three tenths"
_PARAGRAPHS = {"Evidence": "Evidence", "When": "When the evidence supports it"}
_SEED = 7

_ABOUT = f"""# Gallery of orders

Every order that a policy can name, over the same {_NUM_DOCUMENTS:,} made-up documents of four sources, whose later
sources are harder. Made by `selector plugins --gallery`; the words are those of each order's docstring.

In a picture the order goes from left to right. Above: difficulty, from easy (below) to hard; the line is the median of
the documents that are visited at that time, the band has the middle eight tenths of them. Below: the mixture of the
sources {", ".join(SOURCES)}, from below. A dashed line is where a phase begins; the red line is the loss weight, where
that varies; the green one how much updates count, where the order goes by that ({_TRAINED}).
Below each picture are the measures that `selector show` has of a manifest, and the order's own facts.

"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An order in the gallery."""

    name: str
    docstring: str
    options: dict[str, Any]  # as a policy writes them
    picture: str | None = None  # SVG
    measures: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    problem: str = ""  # why there is no picture


def write(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Writes the page and the pictures of these orders, and says where the page is and what is in it.

    Raises UsageError where the folder cannot be written to.
    """
    entries = [entry_of(name) for name in names]
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for entry in entries:
            if entry.picture is not None:
                Path(folder, _file_of(entry.name)).write_text(entry.picture, "utf-8")
        Path(folder, PAGE).write_text(page(entries), "utf-8")
    except OSError as error:
        raise UsageError(
            f"--gallery {folder}: {error.strerror or error}. Name a folder that can be written."
        ) from error
    listed = [
        {"name": entry.name, "picture": None if entry.picture is None else _file_of(entry.name)}
        | ({"problem": entry.problem} if entry.problem else {})
        for entry in entries
    ]
    return {"page": str(Path(folder, PAGE)), "orders": listed}


def page(entries: Sequence[Entry]) -> str:
    """The gallery in Markdown."""
    links = " · ".join(f"[{entry.name}](#{_anchor(entry.name)})" for entry in entries)
    return _ABOUT + links + "\n" + "".join(f"\n{_section(entry)}" for entry in entries)


def _section(entry: Entry) -> str:
    options = {entry.name: entry.options} if entry.options else entry.name
    using = yaml.safe_dump({"using": options}, default_flow_style=True, sort_keys=False, width=1000).strip()
    shown = f"![{entry.name}]({_file_of(entry.name)})" if entry.picture else f"No picture: {entry.problem}"
    measures = f"\n{entry.measures}\n" if entry.measures else ""
    if entry.facts:
        measures += f"\nFacts: `{json.dumps(entry.facts, sort_keys=True)}`\n"
    words = "\n\n".join(_headed(paragraph) for paragraph in _paragraphs(entry.docstring))
    return f"## {entry.name}\n\n{shown}\n{measures}\n{words}\n\n`{using}`\n"


def _paragraphs(docstring: str) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", docstring.strip())]


def _headed(paragraph: str) -> str:
    """A paragraph that begins with one of the words that have a heading, with it; any other as it is."""
    word, colon, rest = paragraph.partition(":")
    if not colon or word not in _PARAGRAPHS:
        return paragraph
    return f"**{_PARAGRAPHS[word]}.** {rest.strip()[:1].upper()}{rest.strip()[1:]}"


def entry_of(name: str) -> Entry:
    """The entry of an order; without a picture where its options or columns cannot be made up, or where it fails."""
    docstring, options = "", dict[str, Any]()
    try:
        cls: Any = plugins.find("orders", name)
        docstring = inspect.getdoc(cls) or ""
        options = example_of(cls)
        order = plugins.make("orders", name, options, "order.using", Order)
        order = attach(order, {option.path: _table_for(option) for option in plugins.options_of(order, *TABLE_KINDS)})
        documents = _with_needs(order, _documents())
        pool, training = Pool.of(documents), None
        if any(isinstance(inner, Order) and inner.reads_training for inner in plugins_in(order)):
            training = _TRAINING
        pool = replace(pool, training=training)
        positions = arranged(name, order, pool, keyed.words(documents["doc_id"]), _SEED)
    except SelectorError as error:
        return Entry(name=name, docstring=docstring, options=options, problem=str(error))
    difficulty = documents[SCORE].to_numpy()
    source = documents["source"].combine_chunks().indices.to_numpy()
    rows = positions.visits["document"].to_numpy()
    return Entry(
        name=name,
        docstring=docstring,
        options=options,
        picture=_picture(name, positions, difficulty[rows], source[rows], training),
        measures=_measured(difficulty[rows], source[rows]),
        facts=positions.facts,
    )


# ---------------------------------------------------------------- what is arranged


def example_of(cls: type[Any]) -> dict[str, Any]:
    """Options with which an order can be made, or options that belong together: its `example`, and for those without a
    default what their types say. Raises PolicyError where that is nothing."""
    options = dict(getattr(cls, "example", {}))
    hints, scores = hints_of(cls), itertools.cycle(SCORES)
    for option in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        is_required = option.default is dataclasses.MISSING and option.default_factory is dataclasses.MISSING
        if is_required and option.name not in options:
            kind = kind_of(hints[option.name])
            if kind.base in (plugins.ScoreName, plugins.SignalName):
                value: Any = next(scores)
            elif plugins.family_of(kind.base) == "orders":
                value = {"by_score": {"score": SCORE}}
            elif kind.base in TABLE_KINDS and kind.base is not ManifestPath:
                value = TABLE
            elif dataclasses.is_dataclass(kind.base):
                value = example_of(kind.base)
            else:
                raise PolicyError(
                    f"the option {option.name} cannot be made up. Say `example: ClassVar = {{{option.name!r}: …}}` in "
                    f"{cls.__name__}."
                )
            options[option.name] = [value] if kind.is_many else value
    return options


def _table_for(option: Option) -> pa.Table:
    """A table for an option: none where it was left out; three reports on each document where its columns are about
    documents; else the sources' names, so that of two columns the second has the source after that of the first."""
    schema = empty(option).schema
    if option.value is None:
        return schema.empty_table()
    if all(pa.types.is_string(field.type) for field in schema):
        count = len(SOURCES) - len(schema) + 1
        return pa.table([pa.array(SOURCES[i : i + count]) for i in range(len(schema))], schema=schema)
    documents, number = _documents(), np.repeat(np.arange(3), _NUM_DOCUMENTS)
    reported = np.tile(documents[SCORE].to_numpy(), 3).astype(np.float64) / (number + 1)
    values: dict[pa.DataType, Any] = {
        tables.DOC_ID: pa.concat_arrays([documents["doc_id"].combine_chunks()] * 3),
        pa.int64(): number,
        pa.float64(): reported,
        pa.float32(): reported.astype(np.float32),
        pa.bool_(): np.tile(np.arange(_NUM_DOCUMENTS) % 10 == 0, 3),
        pa.string(): pa.concat_arrays([documents["source"].cast(pa.string()).combine_chunks()] * 3),
    }
    if tables.DOC_ID not in schema.types or not set(schema.types) <= set(values):
        raise PolicyError(f"a table for the option {option.path} cannot be made up.")
    return pa.table([values[field.type] for field in schema], schema=schema)


def _documents() -> pa.Table:
    """The documents: hard ones are more often from the later sources."""
    numbers = np.arange(_NUM_DOCUMENTS, dtype=np.uint64)
    ids = keyed.ids(np.column_stack([np.zeros_like(numbers), numbers]))
    difficulty, quality, chance, other = (keyed.uniforms(ids, _SEED, word) for word in (*SCORES, "source", "cluster"))
    source = np.searchsorted([0.35, 0.55, 0.75], 0.6 * chance + 0.4 * difficulty)
    cluster = 3 * source + (3 * other).astype(np.int64)
    angle = cluster * np.pi / 6 + 0.2 * other
    vectors = np.column_stack([np.cos(angle), np.sin(angle), np.zeros((len(angle), 2))]).astype(np.float16)
    columns: dict[str, tuple[Any, dict[str, str] | None]] = {
        "doc_id": (ids, None),
        "source": (pa.DictionaryArray.from_arrays(source.astype(np.int32), pa.array(SOURCES)), None),
        "num_bytes": (pa.array(np.full(len(ids), 2_000, np.uint32)), None),
        "num_tokens": (pa.array((100 + 400 * difficulty).astype(np.uint32)), None),
        "cluster": (pa.array(cluster.astype(np.int32)), None),
        "distance": (pa.array(other.astype(np.float32)), None),
        "embedding": (vector_column(vectors), None),
        SCORE: (pa.array(difficulty.astype(np.float32)), {"higher_is": "harder"}),
        "quality": (pa.array(quality.astype(np.float32)), {"higher_is": "better"}),
        "visits": (pa.array(np.ones(len(ids), np.uint16)), None),
        "round": (pa.array(np.zeros(len(ids), np.uint16)), None),
        "inclusion_probability": (pa.array(np.ones(len(ids), np.float32)), None),
    }
    schema = pa.schema([pa.field(name, column.type, metadata=words) for name, (column, words) in columns.items()])
    return pa.table([column for column, _ in columns.values()], schema=schema)


def _with_needs(order: Order, documents: pa.Table) -> pa.Table:
    """The documents with the columns of the corpus that the order names: they hold the source."""
    for need in columns_of(order):
        if need in documents.schema.names:
            continue
        if not need.startswith(CORPUS):
            raise PolicyError(f"the column {need} cannot be made up.")
        documents = documents.append_column(need, documents["source"].cast(pa.string()))
    return documents


# ---------------------------------------------------------------- how it is shown


def _measured(difficulty: npt.NDArray[Any], source: npt.NDArray[Any]) -> str:
    """The measures of `selector show`, in a line."""
    of_score, of_sources = ScoreMeasures(len(difficulty)), GroupMeasures(len(source))
    of_score.take_in(0, difficulty.astype(np.float64))
    of_sources.take_in(0, SOURCES, source)
    measures = of_score.to_json() or {}
    shown = {name: measures.get(name) for name in ("tau", "displacement", "continuity")}
    shown[f"diversity in {window_of(len(source))} visits"] = of_sources.to_json()
    words = [
        f"{name} {value:,.0f}" if value >= 100 else f"{name} {value:.3g}"
        for name, value in shown.items()
        if value is not None
    ]
    return f"{len(difficulty):,} visits · " + " · ".join(words)


_WIDTH, _HIGH, _GAP, _LOW = 480, 120, 8, 40  # of a picture, of its upper half, between both, of its lower half


def _picture(
    name: str, positions: Positions, difficulty: npt.NDArray[Any], source: npt.NDArray[Any], training: Training | None
) -> str:
    """Difficulty and mixture along the positions, as SVG."""
    column = np.arange(len(source)) * _COLUMNS // max(len(source), 1)
    used = np.unique(column)
    middles = (used + 0.5) * _WIDTH / _COLUMNS
    borders = np.array([np.quantile(difficulty[column == one], _SHARES) for one in used]).reshape(len(used), 3).T
    low, median, high = _HIGH * (1 - borders)
    band = [*zip(middles, high, strict=True), *zip(middles[::-1], low[::-1], strict=True)]
    shapes = [
        f'<polygon points="{drawing.points(band)}" fill="#4c78a8" fill-opacity="0.25"/>',
        drawing.polyline(zip(middles, median, strict=True), "#1f3b57"),
    ]
    for one, middle in zip(used, middles, strict=True):
        shares = np.bincount(source[column == one], minlength=len(SOURCES)) / np.count_nonzero(column == one)
        bottom = float(_HIGH + _GAP + _LOW)
        for share, colour in zip(shares, drawing.COLOURS, strict=False):
            bottom -= share * _LOW
            shapes.append(
                f'<rect x="{middle - _WIDTH / _COLUMNS / 2:.1f}" y="{bottom:.1f}" width="{_WIDTH / _COLUMNS:.1f}" '
                f'height="{share * _LOW:.1f}" fill="{colour}"/>'
            )
    shapes += [
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HIGH + _GAP + _LOW}" stroke="#666" stroke-dasharray="3 3"/>'
        for x in _phase_begins(positions) * _WIDTH / max(len(source), 1)
    ]
    weight = positions.visits["loss_weight"].to_numpy()
    lines = [(_RED, weight)] if len(weight) and weight.min() < weight.max() else []
    if training is not None:
        lines.append((_GREEN, training.whole_counts(len(source))))
    for colour, values in lines:
        means = np.array([values[column == one].mean() for one in used])
        line = zip(middles, _HIGH * (1 - means / values.max(initial=1)), strict=True)
        shapes.append(drawing.polyline(line, colour))
    return drawing.page(f"{name}: difficulty and mixture along the order", _WIDTH, _HIGH + _GAP + _LOW, shapes)


def _phase_begins(positions: Positions) -> npt.NDArray[Any]:
    """The positions at which a phase begins, but for the first."""
    phase = positions.visits["phase"].unify_dictionaries().combine_chunks()
    codes = phase.indices.to_numpy() if len(phase) else np.empty(0, np.int32)
    return np.flatnonzero(codes[1:] != codes[:-1]) + 1


def _file_of(name: str) -> str:
    return f"{re.sub(r'[^0-9A-Za-z_-]', '_', name)}.svg"


def _anchor(name: str) -> str:
    """What the heading of an order is called in a link."""
    return re.sub(r"[^0-9a-z_-]", "", name.lower())
