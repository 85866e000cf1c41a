"""How often each word occurs in the corpus: what raters of common and rare words learn first."""

import numpy as np
import polars as pl
import pyarrow as pa

from selector.exact import Ints
from selector.plugins.pool import Pool
from selector.rate._words import Words, texts_of, words_of

_MOST_WORDS = 1 << 20
"""Different words that are kept, the most frequent ones; any other counts as one that was never seen."""
_EVERY = 16  # shards whose words are added up together


def lower_words(batch: pa.RecordBatch) -> Words:
    """The words of a batch's texts in lower case."""
    return words_of(texts_of(batch).str.to_lowercase())


def vocabulary_of(sample: Pool) -> pa.Table:
    """The words of the texts of a sample, in lower case: `word`, in order, `count`, and `documents` that have it."""
    waiting = [_SCHEMA.empty_table()]
    for counted in sample.map(_of_shard, "text"):
        waiting.append(counted)
        if len(waiting) > _EVERY:
            waiting = [_added(waiting)]
    total = _added(waiting)
    kept = total.sort_by([("count", "descending"), ("word", "ascending")]).slice(0, _MOST_WORDS)
    return kept.sort_by("word")


_SCHEMA = pa.schema([("word", pa.string()), ("count", pa.int64()), ("documents", pa.int64())])


def _of_shard(batch: pa.RecordBatch) -> pa.Table:
    words = lower_words(batch)
    owners = np.repeat(np.arange(len(words.counts)), words.counts)
    size = len(words.vocabulary)
    pairs = np.unique(owners * np.int64(max(1, size)) + words.codes)
    counts = np.bincount(words.codes, minlength=size)
    documents = np.bincount(pairs % max(1, size), minlength=size)
    return pa.table([words.vocabulary, pa.array(counts), pa.array(documents)], schema=_SCHEMA)


def _added(parts: list[pa.Table]) -> pa.Table:
    whole = pa.concat_tables(parts).group_by("word", use_threads=False)
    added = whole.aggregate([("count", "sum"), ("documents", "sum")])
    return added.select(["word", "count_sum", "documents_sum"]).rename_columns(_SCHEMA.names)


def places(words: Words, vocabulary: pa.Array) -> Ints:
    """Where each word of a batch's own vocabulary is in a sorted one; its length for one that it lacks."""
    own = pl.DataFrame({"word": pl.Series(words.vocabulary, dtype=pl.String)})
    known = pl.DataFrame({"word": pl.Series(vocabulary, dtype=pl.String)}).with_row_index("place")
    joined = own.join(known, on="word", how="left", maintain_order="left")
    return joined["place"].fill_null(len(vocabulary)).to_numpy().astype(np.int64)
