"""One Arrow schema for every table on disk, in the order of the flow.

Think of a table as a contract between two steps: whoever writes it and whoever reads it agree on this
page and on nothing else. Tables of one part have one row per document, in the order of the corpus file.
"""

import pyarrow as pa

DOC_ID = pa.binary(16)
LABEL = pa.dictionary(pa.int32(), pa.string())

# What `higher_is` can say of a score; it travels as metadata of the score's field.
HIGHER_IS = ("harder", "better", "rarer", "closer")

# Why a rating has no number. `ok` means that it has one.
STATES = ("ok", "missing", "failed", "not_applicable")

FILES = pa.schema(
    [
        ("uri", pa.string()),
        ("format", pa.string()),  # jsonl, jsonl.gz or parquet
        ("num_rows", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
    ]
)

# A document's `row` is its line number (JSONL) or row number (Parquet) in its file, counted from 0.
DOCUMENTS = pa.schema(
    [
        ("doc_id", DOC_ID),
        ("text_id", DOC_ID),  # blake2b-128 of the canonical text; equals doc_id when no key column is declared
        ("row", pa.uint32()),
        ("source", LABEL),
        ("num_bytes", pa.uint32()),
        ("num_tokens", pa.uint32()),
    ]
)

QUARANTINE = pa.schema(
    [
        ("doc_id", DOC_ID),  # null where the row never became a document
        ("row", pa.int64()),  # null where the whole file is unreadable
        ("step", pa.string()),
        ("reason", pa.string()),  # one word, e.g. not_json
        ("detail", pa.string()),
    ]
)

DUPLICATES = pa.schema([("row", pa.uint32()), ("duplicate_of", DOC_ID)])


def embeddings(dimension: int) -> pa.Schema:
    """Unit vectors, one per document: float16 of the given dimension."""
    return pa.schema([("doc_id", DOC_ID), ("embedding", pa.list_(pa.float16(), dimension))])


def centroids(dimension: int) -> pa.Schema:
    return pa.schema([("cluster", pa.int32()), ("centroid", pa.list_(pa.float32(), dimension))])


CLUSTERS = pa.schema(
    [
        ("doc_id", DOC_ID),
        ("cluster", pa.int32()),
        ("distance", pa.float32()),  # Euclidean, to the nearest centroid
    ]
)


def ratings(scores: dict[str, str]) -> pa.Schema:
    """One float32 column per score, null wherever `state` is not `ok`; `scores` maps a name to its `higher_is`."""
    fields = [pa.field(name, pa.float32(), metadata={"higher_is": meaning}) for name, meaning in scores.items()]
    return pa.schema([pa.field("doc_id", DOC_ID), *fields, pa.field("state", LABEL)])


# What a selector says of each document of its pool.
DECISIONS = pa.schema(
    [
        ("kept", pa.bool_()),
        ("reason", LABEL),
        ("inclusion_probability", pa.float32()),
        ("round", pa.uint16()),  # 0 for selectors that choose in one go
    ]
)

FATES = ("kept", "left_out", "duplicate", "quarantined")

# What became of every document of the corpus: one row each, as committed beside the manifest.
FATE = pa.schema(
    [
        ("doc_id", DOC_ID),
        ("file", pa.uint32()),
        ("row", pa.uint32()),
        ("fate", LABEL),  # one of FATES
        ("reason", LABEL),
        ("duplicate_of", DOC_ID),
        ("inclusion_probability", pa.float32()),
        ("round", pa.uint16()),
    ]
)

# A visit: one appearance of a chosen document in the order. Row i is position i.
VISITS = pa.schema(
    [
        ("document", pa.int64()),  # index into the chosen documents, in corpus order
        ("visit", pa.uint16()),
        ("phase", LABEL),
        ("loss_weight", pa.float32()),
    ]
)

MANIFEST = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("doc_id", DOC_ID, nullable=False),
        pa.field("visit", pa.uint16(), nullable=False),
        pa.field("phase", LABEL, nullable=False),
        pa.field("source", LABEL, nullable=False),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("file", pa.uint32(), nullable=False),
        pa.field("row", pa.uint32(), nullable=False),
        pa.field("num_tokens", pa.uint32(), nullable=False),
        pa.field("token_start", pa.int64(), nullable=False),
        pa.field("loss_weight", pa.float32(), nullable=False),
        pa.field("inclusion_probability", pa.float32(), nullable=False),
        pa.field("difficulty", pa.float32()),
        pa.field("quality", pa.float32()),
        pa.field("reason", LABEL, nullable=False),
    ]
)
