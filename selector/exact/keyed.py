"""Keyed hashing of doc ids: the only source of randomness.

A number drawn for a document depends on (seed, purpose, doc_id) and on nothing else, so it is the same on
every machine, in every order, for every number of workers. The hash is SipHash-2-4 (Aumasson and
Bernstein, 2012), a keyed pseudo-random function, over the 16 bytes of the id; a purpose is a short word
("shuffled", "kmeans_quality") that keeps the draws of two plug-ins independent.
"""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.exact.pieces import in_pieces

UInt64 = npt.NDArray[np.uint64]


def words(ids: pa.Array | pa.ChunkedArray) -> UInt64:
    """The ids as two big-endian words each, shape (n, 2): comparing rows of words compares ids."""
    return in_place(ids).astype(np.uint64)


def in_place(ids: pa.Array | pa.ChunkedArray) -> UInt64:
    """The same as `words` without a copy, in the order of bytes that ids have: for whoever looks at a few of them."""
    return _as(ids, ">u8")


def _as(ids: pa.Array | pa.ChunkedArray, kind: str) -> npt.NDArray[Any]:
    """The bytes of the ids as numbers, shape (n, 2)."""
    column = tables.whole(ids)
    assert column.null_count == 0 and column.type == pa.binary(16)
    data = column.buffers()[1]
    if data is None:
        return np.empty((0, 2), kind)
    return np.frombuffer(data, kind, count=2 * len(column), offset=column.offset * 16).reshape(-1, 2)


def sortable(ids: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bytes_]:
    """The ids as values that NumPy sorts and searches fast. All have 16 bytes, so a zero at the end tells no less."""
    return words(ids).astype(">u8").view("S16").reshape(-1)


def ids(pairs: UInt64) -> pa.Array:
    """The inverse of `words`."""
    return pa.Array.from_buffers(
        pa.binary(16), len(pairs), [None, pa.py_buffer(np.ascontiguousarray(pairs, np.uint64).astype(">u8").tobytes())]
    )


def digest(data: bytes) -> bytes:
    """blake2b-128: how a key or a text becomes a doc_id."""
    return hashlib.blake2b(data, digest_size=16).digest()


def hashes(ids: pa.Array | pa.ChunkedArray, seed: int, purpose: str) -> UInt64:
    """One uniform 64-bit number per id."""
    key = hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=16).digest()
    return siphash(_as(ids, "<u8"), key)


def uniforms(ids: pa.Array | pa.ChunkedArray, seed: int, purpose: str) -> npt.NDArray[np.float64]:
    """One number per id, uniform on the open interval (0, 1)."""
    return fractions(hashes(ids, seed, purpose))


def fractions(numbers: UInt64) -> npt.NDArray[np.float64]:
    """Uniform 64-bit numbers as numbers of the open interval (0, 1)."""
    return ((numbers >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


@in_pieces
def siphash(messages: UInt64, key: bytes) -> UInt64:
    """SipHash-2-4 of 16-byte messages, each given as two little-endian words: shape (n, 2) to (n,)."""
    k0, k1 = (np.uint64(int.from_bytes(half, "little")) for half in (key[:8], key[8:]))
    n = len(messages)
    v0 = np.full(n, k0 ^ np.uint64(0x736F6D6570736575))
    v1 = np.full(n, k1 ^ np.uint64(0x646F72616E646F6D))
    v2 = np.full(n, k0 ^ np.uint64(0x6C7967656E657261))
    v3 = np.full(n, k1 ^ np.uint64(0x7465646279746573))
    length = np.full(n, np.uint64(16 << 56))
    for word in (messages[:, 0], messages[:, 1], length):
        v3 ^= word
        for _ in range(2):
            _round(v0, v1, v2, v3)
        v0 ^= word
    v2 ^= np.uint64(0xFF)
    for _ in range(4):
        _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


def _rotate(v: UInt64, bits: int) -> None:
    high = v >> np.uint64(64 - bits)
    v <<= np.uint64(bits)
    v |= high


def _round(v0: UInt64, v1: UInt64, v2: UInt64, v3: UInt64) -> None:
    v0 += v1
    _rotate(v1, 13)
    v1 ^= v0
    _rotate(v0, 32)
    v2 += v3
    _rotate(v3, 16)
    v3 ^= v2
    v0 += v3
    _rotate(v3, 21)
    v3 ^= v0
    v2 += v1
    _rotate(v1, 17)
    v1 ^= v2
    _rotate(v2, 32)
