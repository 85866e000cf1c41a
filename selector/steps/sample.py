"""A keyed sample of the vectors: what centroids are fitted on.

The sample are the documents with the smallest keyed hash, whatever the cut into parts. Workers draw it. Where it fits
into one machine's memory it is held there, and elsewhere it stays in the store, in blocks that workers look at.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from selector.engine.canonical import fingerprint
from selector.engine.part import stretches
from selector.engine.step import Done
from selector.engine.store import Seal, Store
from selector.exact import UInt64, keyed
from selector.exact.vectors import vector_column, vectors_of
from selector.models import kmeans
from selector.models.neighbours import Halves
from selector.steps.embed import SAMPLES, sampled

HELD_BYTES = 1 << 30
"""A larger sample is not held in memory: workers look at it block by block."""

BLOCK_ROWS = 1 << 18

_ROWS_AT_ONCE = 1 << 16  # of the parts that are drawn from together
_HASHED_ROWS = 1 << 14  # of parts that are hashed together
_KEYS = pa.schema([("hash", pa.uint64()), ("high", pa.uint64()), ("low", pa.uint64())])


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The documents with the smallest keys, which are (hash, doc_id): rows of what was drawn of groups of parts."""

    done: Done
    drawn: tuple[str, ...]  # artefacts with `keys` and `vectors`
    keys: UInt64  # (n, 3), ascending: of the sample
    dimension: int

    @classmethod
    def of(cls, done: Done, wanted: int, seed: int, purpose: str) -> "Sample":
        """The sample of so many documents, or of all there are.

        They are drawn from all vectors, or from the smallest sample that lies beside them and surely has enough
        (`selector.steps.embed`).
        """
        embeddings, num_documents = done["embed"].parts, done["embed"].rows_out
        enough = int(1.1 * wanted) + 1000
        one_of = next((n for n in reversed(SAMPLES) if num_documents // n >= enough), 1)
        limit = np.uint64(min(2**64 - 1, int(min(1.0, enough * one_of / max(1, num_documents)) * 2**64)))
        draw = functools.partial(_draw, done.store, done.passing, one_of, limit, seed, purpose)
        sizes = [seal.tables["embeddings"].num_rows for seal in embeddings]
        items = [embeddings[some] for some in stretches(sizes, _ROWS_AT_ONCE)]
        drawn = tuple(done.map(draw, items))
        keys = np.concatenate([_keys(done.store, key) for key in drawn])
        order = np.lexsort((keys[:, 2], keys[:, 1], keys[:, 0]))[:wanted]
        kind = done.store.read(drawn[0], "vectors").schema.field("vector").type
        return cls(done=done, drawn=drawn, keys=keys[order], dimension=kind.list_size)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def is_held(self) -> bool:
        """Whether one machine holds it."""
        return 2 * len(self) * self.dimension <= HELD_BYTES

    @property
    def most_held(self) -> int:
        """How many documents of it one machine holds."""
        return min(len(self), max(1, HELD_BYTES // (2 * self.dimension)))

    def first(self, num: int) -> Halves:
        """The vectors of the first so many documents of the sample, in the order of their keys."""
        num = min(num, len(self))
        if not num:
            return np.empty((0, self.dimension), np.float16)
        below = self.below(num)
        pick = functools.partial(_pick, self.done.store, self.done.passing, below)
        picked = list(self.done.map(pick, [[key] for key in self.drawn]))
        keys = np.concatenate([_keys(self.done.store, key) for key in picked])
        vectors = np.concatenate([vectors_in(self.done.store, key) for key in picked])
        return vectors[np.lexsort((keys[:, 2], keys[:, 1], keys[:, 0]))]

    def limited(self, num: int) -> "Sample":
        """The first so many documents."""
        return replace(self, keys=self.keys[:num])

    def below(self, num: int) -> tuple[int, int, int]:
        """The largest key of the first so many documents."""
        high, middle, low = self.keys[num - 1].tolist()
        return high, middle, low

    def blocks(self) -> list[list[str]]:
        """What was drawn, in groups of about so many documents of the sample as a worker is given at a time."""
        sizes = [len(_keys(self.done.store, key)) for key in self.drawn]
        return [list(self.drawn[stretch]) for stretch in stretches(sizes, BLOCK_ROWS)]


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """A sample that stays in the store, a block to an artefact, with what it is along some directions."""

    done: Done
    keys: tuple[str, ...]

    @classmethod
    def of(cls, sample: Sample, directions: Halves | None) -> "Blocks":
        """The blocks of a sample, which workers make."""
        done = sample.done
        split = functools.partial(_block, done.store, done.passing, sample.below(len(sample)), given(done, directions))
        return cls(done=done, keys=tuple(done.map(split, sample.blocks())))

    def sums(self, centroids: Halves, of: str = "projected") -> kmeans.Sums:
        """The sums for some centroids, over all blocks: of the vectors along the directions, or of the whole
        `vectors`."""
        measure = functools.partial(_sums, self.done.store, self.done.passing, given(self.done, centroids), of)
        answers = [self.done.store.sealed(key) for key in self.done.map(measure, self.keys)]
        return functools.reduce(kmeans.Sums.__add__, (_sums_of(self.done.store, seal) for seal in answers))


def given(done: Done, vectors: Halves | None) -> str:
    """Where some vectors lie for workers, under a hash of their bytes; empty for none."""
    if vectors is None:
        return ""
    key = f"{done.passing}/given/{keyed.digest(vectors.tobytes()).hex()}"
    if done.store.find(key) is None:
        done.store.seal(key, [("vectors", pa.table([vector_column(vectors)], names=["vector"]))], form="arrow")
    return key


def _keys(store: Store, key: str) -> UInt64:
    table = store.read(key, "keys")
    return np.column_stack([column.to_numpy() for column in table.columns])


def vectors_in(store: Store, key: str, name: str = "vectors") -> Halves:
    """The vectors of an artefact."""
    return vectors_of(store.read(key, name)["vector"])


# What is asked of workers.


def _draw(
    store: Store, passing: str, one_of: int, limit: np.uint64, seed: int, purpose: str, parts: Sequence[Seal]
) -> str:
    """Stores the keys and vectors of some parts' documents whose hash is within the limit; where they are."""
    key = f"{passing}/drawn/{fingerprint([one_of, int(limit), seed, purpose, [seal.key for seal in parts]])}"
    if store.find(key) is None:
        pieces: list[pa.Table] = []
        keys: list[UInt64] = []
        for some in stretches([seal.tables["embeddings"].num_rows for seal in parts], _HASHED_ROWS):
            table = pa.concat_tables(sampled(store, seal, one_of) for seal in parts[some])
            hashes = keyed.hashes(table["doc_id"], seed, purpose)
            within = hashes <= limit
            keys.append(np.column_stack([hashes, keyed.words(table["doc_id"])])[within])
            pieces.append(table.select(["embedding"]).filter(pa.array(within)))
        vectors = pa.concat_tables(pieces).combine_chunks().rename_columns(["vector"])
        _store(store, key, np.concatenate(keys), vectors)
    return key


def _pick(store: Store, passing: str, below: tuple[int, int, int], drawn: Sequence[str]) -> str:
    """Stores those of the drawn documents whose key is not above this one; where they are."""
    key = f"{passing}/picked/{fingerprint([list(below), list(drawn)])}"
    if store.find(key) is None:
        _store(store, key, *_up_to(store, below, drawn))
    return key


def _block(store: Store, passing: str, below: tuple[int, int, int], directions: str, drawn: Sequence[str]) -> str:
    """Stores a block of the sample, whole and along the directions; where it is."""
    key = f"{passing}/blocks/{fingerprint([list(below), directions, list(drawn)])}"
    if store.find(key) is None:
        vectors = _up_to(store, below, drawn)[1]
        along = vectors_in(store, directions) if directions else None
        projected = kmeans.projected(vectors_of(vectors["vector"]), along)
        tables = [("vectors", vectors), ("projected", pa.table([vector_column(projected)], names=["vector"]))]
        store.seal(key, tables, form="arrow")
    return key


def _sums(store: Store, passing: str, centroids: str, of: str, block: str) -> str:
    """Stores the sums over a block for some centroids; where they are."""
    key = f"{passing}/sums/{fingerprint([centroids, of, block])}"
    if store.find(key) is None:
        along = vectors_in(store, block, "projected")
        sums = kmeans.sums(along, vectors_in(store, centroids), vectors_in(store, block, of))
        columns = [vector_column(sums.vectors), pa.array(sums.sizes)]
        store.seal(key, [("sums", pa.table(columns, names=["sum", "size"]))], form="arrow")
    return key


def _sums_of(store: Store, seal: Seal) -> kmeans.Sums:
    table = store.table(seal, "sums")
    return kmeans.Sums(vectors=vectors_of(table["sum"]), sizes=table["size"].to_numpy())


def _up_to(store: Store, below: tuple[int, int, int], drawn: Sequence[str]) -> tuple[UInt64, pa.Table]:
    keys = np.concatenate([_keys(store, key) for key in drawn])
    first, second, third = (keys[:, column] for column in range(3))
    limits = [np.uint64(word) for word in below]
    is_same = first == limits[0]
    is_within = (first < limits[0]) | (is_same & (second < limits[1]))
    is_within |= is_same & (second == limits[1]) & (third <= limits[2])
    vectors = pa.concat_tables([store.read(key, "vectors") for key in drawn])
    return keys[is_within], vectors.filter(pa.array(is_within)).combine_chunks()


def _store(store: Store, key: str, keys: UInt64, vectors: pa.Table) -> None:
    columns = [pa.array(np.ascontiguousarray(column)) for column in keys.T]
    store.seal(key, [("keys", pa.table(columns, schema=_KEYS)), ("vectors", vectors)], form="arrow")
