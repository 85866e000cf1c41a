"""One Arrow schema for every table on disk, in the order of the flow.

Think of a table as a contract between two steps: whoever writes it and whoever reads it agree on this
page and on nothing else. Tables of one part have one row per document, in the order of the corpus. They name a row by
its *place*: rows are counted from 0 through all files of the part (`selector.engine.part`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

DOC_ID = pa.binary(16)
LABEL = pa.dictionary(pa.int32(), pa.string())

# What `higher_is` can say of a score; it travels as metadata of the score's field.
HIGHER_IS = ("harder", "easier", "better", "rarer", "closer")

# Why a score has no value. `ok` means that it has one.
STATES = ("ok", "missing", "failed", "not_applicable")

FILES = pa.schema(
    [
        ("uri", pa.string()),
        ("format", pa.string()),  # the name of one of `selector.corpus.formats`; null where the file was left unread
        ("num_rows", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
        ("unread", pa.string()),  # why the file was not read; null where it was
    ]
)

DOCUMENTS = pa.schema(
    [
        ("doc_id", DOC_ID),
        ("text_id", DOC_ID),  # blake2b-128 of the canonical text; equals doc_id when no key column is declared
        ("place", pa.uint32()),
        ("source", LABEL),
        ("num_bytes", pa.uint32()),
        ("num_tokens", pa.uint32()),
        ("byte_offset", pa.int64()),  # of the row in the file's uncompressed bytes; null for other formats than lines
        ("byte_length", pa.uint32()),  # without the end of the line
    ]
)

BYTES = ("byte_offset", "byte_length")

# The text of each document, as the policy renders it; only where `corpus.keep_texts` says so.
TEXTS = pa.schema([("place", pa.uint32()), ("text", pa.large_string())])

QUARANTINE = pa.schema(
    [
        ("doc_id", DOC_ID),  # null where the row never became a document
        ("place", pa.int64()),  # null where the whole file is unreadable
        ("step", pa.string()),
        ("reason", pa.string()),  # one word, e.g. not_json
        ("detail", pa.string()),
    ]
)


_NOTHING_LOST = QUARANTINE.empty_table()


def quarantine(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The rows as a table. Most parts lose none."""
    return pa.Table.from_pylist([*rows], schema=QUARANTINE) if rows else _NOTHING_LOST


def embeddings(dimension: int) -> pa.Schema:
    """Unit vectors, one per document: float16 of the given dimension."""
    return pa.schema([("doc_id", DOC_ID), ("embedding", pa.list_(pa.float16(), dimension))])


def centroids(dimension: int) -> pa.Schema:
    return pa.schema([("cluster", pa.int32()), ("centroid", pa.list_(pa.float16(), dimension))])


CLUSTERS = pa.schema(
    [
        ("doc_id", DOC_ID),
        ("cluster", pa.int32()),
        ("distance", pa.float32()),  # Euclidean, to the nearest centroid
        ("branches", pa.list_(pa.int32())),  # the clusters of the coarser levels that hold it, the coarsest first
    ]
)

NEIGHBOURS = pa.schema(
    [
        ("doc_id", DOC_ID),
        ("neighbours", pa.list_(DOC_ID)),  # those of its cluster that are most like it, the nearest first
        ("neighbour_cosines", pa.list_(pa.float32())),  # to each of them: 24 bits, at most 1
    ]
)

# Comparisons that a rater made. A file of them is of one criterion, and has the other columns.
PAIRS = pa.schema(
    [
        ("criterion", pa.string()),
        ("first", pa.string()),  # the text, as it was shown
        ("second", pa.string()),
        ("better", pa.float64()),  # the chance that the first is the better one, over both orders
        ("disagreement", pa.float64()),  # between the orders
    ]
)

# What a step in which documents of different parts meet has stored of each part.
SHARES_OF_PARTS = pa.schema([("key", pa.string()), ("num_documents", pa.int64())])


def state_of(score: str) -> str:
    """The column that says why a score has no value."""
    return f"{score}.state"


def ratings(scores: Mapping[str, pa.Field]) -> pa.Schema:
    """Per score its column and, after it, its state; a value is null wherever the state is not `ok`."""
    columns = [column for field in scores.values() for column in (field, pa.field(state_of(field.name), LABEL))]
    return pa.schema([pa.field("doc_id", DOC_ID), *columns])


# What a selector says of each document of its pool. A reason is a template; its arguments are a JSON object of what
# stands in the braces: "cluster {cluster}: beyond quota {quota}" and {"cluster":17,"quota":12}. Both are shared by many
# documents, and become a sentence only where somebody reads it (`selector.manifest.sentence`).
VERDICTS = pa.schema(
    [
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("reason", LABEL, nullable=False),
        ("arguments", LABEL),  # null: the reason is a sentence as it stands
        pa.field("visits", pa.uint16(), nullable=False),  # how often a kept document is to be seen
        pa.field("round", pa.uint16(), nullable=False),  # 0 for selectors that choose in one go
        ("inclusion_probability", pa.float32()),  # null where the method defines none
        ("value", pa.float64()),  # what the method compared: the larger comes first
        ("cut", pa.float64()),  # the value of the first document of its group that was left out
        ("rank", pa.int64()),  # its place in its group, counted from 0
        ("other", DOC_ID),  # the document that decided this one's lot, e.g. the one that it is too close to
    ]
)

OUTCOMES = ("kept", "left_out", "duplicate", "marked", "quarantined")

# What became of every document of the corpus: one row each, as committed beside the manifest. `row` is its line number
# (JSONL) or row number (Parquet) in its file, counted from 0.
DECISIONS = pa.schema(
    [
        pa.field("doc_id", DOC_ID, nullable=False),
        pa.field("file", pa.uint32(), nullable=False),
        pa.field("row", pa.uint32(), nullable=False),
        pa.field("outcome", LABEL, nullable=False),  # one of OUTCOMES
        *[field for field in VERDICTS if field.name != "kept"],  # `other` of a duplicate: the document that it repeats
    ]
)

# A visit: one appearance of a chosen document in the order. Row i is position i.
VISITS = pa.schema(
    [
        pa.field("document", pa.int64(), nullable=False),  # index into the order's pool
        pa.field("visit", pa.uint16(), nullable=False),
        pa.field("phase", LABEL, nullable=False),
        pa.field("loss_weight", pa.float32(), nullable=False),
    ]
)

# The documents of an order's pool that it does not visit at all, and why.
LEFT = pa.schema(
    [
        pa.field("document", pa.int64(), nullable=False),  # index into the order's pool
        pa.field("reason", LABEL, nullable=False),
        ("arguments", LABEL),
    ]
)

# The same as committed beside the manifest: visits that selection decided and the order does not make.
UNVISITED = pa.schema(
    [
        pa.field("doc_id", DOC_ID, nullable=False),
        pa.field("file", pa.uint32(), nullable=False),
        pa.field("row", pa.uint32(), nullable=False),
        pa.field("reason", LABEL, nullable=False),  # as a sentence
    ]
)

MANIFEST = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("doc_id", DOC_ID, nullable=False),
        pa.field("visit", pa.uint16(), nullable=False),
        pa.field("phase", LABEL, nullable=False),
        pa.field("source", LABEL, nullable=False),
        pa.field("cluster", pa.int32()),  # null where nothing needed clusters
        pa.field("file", pa.uint32(), nullable=False),
        pa.field("row", pa.uint32(), nullable=False),
        pa.field("byte_offset", pa.int64()),  # as `DOCUMENTS` has them
        pa.field("byte_length", pa.uint32()),
        pa.field("num_tokens", pa.uint32(), nullable=False),
        pa.field("token_start", pa.int64(), nullable=False),
        pa.field("loss_weight", pa.float32(), nullable=False),
        pa.field("inclusion_probability", pa.float32()),
        pa.field("difficulty", pa.float32()),
        pa.field("quality", pa.float32()),
        pa.field("reason", LABEL, nullable=False),  # as a sentence
    ]
)

# Where a document is in the order: the first 8 bytes of its id as a number, sorted, with one row per visit.
IDS = pa.schema(
    [
        pa.field("prefix", pa.uint64(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
    ]
)

# What arms of a study are evaluated on: documents that no selection has.
HELD_OUT = pa.schema(
    [
        pa.field("doc_id", DOC_ID, nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),  # of the text, as UTF-8
        pa.field("text", pa.string(), nullable=False),
    ]
)

# Documents that were held out and are not evaluated on, since another document that may be chosen is like them.
HELD_OUT_LEFT = pa.schema(
    [
        pa.field("doc_id", DOC_ID, nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("shared", pa.float64(), nullable=False),  # the share of its text that the other one has
        pa.field("other", DOC_ID, nullable=False),
    ]
)

# What an objective says of one manifest: a number for each metric, or one for each metric and held-out document.
MEASURED = pa.schema(
    [
        pa.field("metric", pa.string(), nullable=False),
        pa.field("doc_id", DOC_ID),
        pa.field("domain", pa.string()),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
    ]
)


def whole(column: Any) -> Any:
    """The values of a column as one Arrow array: where they lie in one already, that one, and no copy of it."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def nulls(num_rows: int, kind: pa.DataType) -> pa.Array:
    """A column of nulls. Of values of one width they take no memory unless somebody reads them: Arrow writes zeros."""
    if not (pa.types.is_primitive(kind) or pa.types.is_fixed_size_binary(kind)) or kind.bit_width % 8:
        return pa.nulls(num_rows, kind)
    bits, values = np.zeros(-(-num_rows // 8), np.uint8), np.zeros(num_rows * kind.bit_width // 8, np.uint8)
    return pa.Array.from_buffers(kind, num_rows, [pa.py_buffer(bits), pa.py_buffer(values)], null_count=num_rows)
