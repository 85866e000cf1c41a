"""How little a text can be compressed: repetition compresses well, and what is dense and varied does not.

Source: the compression ratio as a measure of diversity and difficulty (arXiv 2506.11300 orders by it, and finds it one
of the best cheap signals of a curriculum).

Unit: compressed bytes by bytes of the UTF-8. Range: above 0; a repetitive text about 0.1, English prose of a page about
0.5, and more than 1 for a text of a few words, which has nothing to repeat: so it falls with length, and is worth most
between texts of similar length. A high value means harder (dense); a very low one is boilerplate.

The bytes depend on the build of the codec. Ours is DEFLATE at level 6 as PyArrow's packages carry it, whose version is
in the fingerprint; the 6 bytes that zlib adds count, and not the 18 of gzip, so the numbers are those of classic zlib.

Measured (`python -m jobs.bench raters`): on short texts it is their length with the other sign: Spearman with CEFR
levels of sentences -0.510 (characters 0.494), with GSM8K's steps -0.326. Of long texts nothing was at hand.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from selector.rate import Rater
from selector.rate._words import texts_of

_LEVEL = 6
_GZIP_OVER_ZLIB = 12  # bytes that gzip's frame is longer than zlib's


@dataclass(frozen=True, kw_only=True)
class Compression(Rater):
    """The bytes of the compressed text by those of the text. An empty text has no ratio."""

    libraries = ("pyarrow",)
    higher_is = "harder"

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        codec = pa.Codec("gzip", compression_level=_LEVEL)
        texts = texts_of(batch)
        compress = codec.compress  # there is no call that compresses many texts apart
        sizes = [len(compress(text, asbytes=True)) for text in texts.cast(pl.Binary).to_list()]
        raw = texts.str.len_bytes().to_numpy()
        ratio = (np.array(sizes, np.int64) - _GZIP_OVER_ZLIB) / np.maximum(raw, 1)
        return pa.record_batch({"score": pa.array(ratio, mask=raw == 0)})
