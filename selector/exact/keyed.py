"""Keyed hashing of doc ids: the only source of randomness.

A number drawn for a document depends on (seed, purpose, doc_id) and on nothing else, so it is the same on
every machine, in every order, for every number of workers. The hash is SipHash-2-4 (Aumasson and
Bernstein, 2012), a keyed pseudo-random function, over the 16 bytes of the id; a purpose is a short word
("shuffled", "kmeans_quality") that keeps the draws of two plug-ins independent.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.exact.pieces import in_pieces
from selector.exact.sortkeys import Ints

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
    return siphash(_as(ids, "<u8"), _key(seed, purpose))


def hashes_by(ids: pa.Array | pa.ChunkedArray, seed: int, purposes: Sequence[str], purpose: Ints) -> UInt64:
    """One uniform 64-bit number per id, as `hashes` gives it for `purposes[purpose]`; `purpose` has shape (n,)."""
    messages = np.column_stack([_as(ids, "<u8"), purpose.astype(np.uint64)])
    return siphash_by(messages, [_key(seed, name) for name in purposes])


def _key(seed: int, purpose: str) -> bytes:
    return digest(f"{seed}:{purpose}".encode())


def uniforms(ids: pa.Array | pa.ChunkedArray, seed: int, purpose: str) -> npt.NDArray[np.float64]:
    """One number per id, uniform on the open interval (0, 1)."""
    return fractions(hashes(ids, seed, purpose))


def fractions(numbers: UInt64) -> npt.NDArray[np.float64]:
    """Uniform 64-bit numbers as numbers of the open interval (0, 1)."""
    return ((numbers >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


@in_pieces
def siphash(messages: UInt64, key: bytes) -> UInt64:
    """SipHash-2-4 of 16-byte messages, each given as two little-endian words: shape (n, 2) to (n,)."""
    return _siphash(messages, _halves(key))


@in_pieces
def siphash_by(messages: UInt64, keys: Sequence[bytes]) -> UInt64:
    """SipHash-2-4 of 16-byte messages by one of several keys each: a third word says which. Shape (n, 3) to (n,)."""
    return _siphash(messages, np.array([_halves(key) for key in keys]).T[:, messages[:, 2].astype(np.int64)])


def _halves(key: bytes) -> UInt64:
    return np.frombuffer(key, "<u8").astype(np.uint64)


def _siphash(messages: UInt64, key: UInt64) -> UInt64:
    """SipHash-2-4 by a key of two words, or two words for each message: shape (2,) or (2, n).

    The state's four words are two pairs, and each round takes both of a pair at once: NumPy is called half as often,
    which is what a few messages cost.
    """
    first, second, spare = np.empty((3, 2, len(messages)), np.uint64)
    v0, v2 = first
    v1, v3 = second
    for word, half, constant in zip((v0, v1, v2, v3), (*key, *key), _BEGIN, strict=True):
        np.bitwise_xor(half, constant, out=word)
    crossed, spare_word = first[::-1], spare[0]

    def rounds(count: int) -> None:
        for _ in range(count):
            np.add(first, second, out=first)
            _rotate(second, _BY_13_AND_16, spare)
            np.bitwise_xor(second, first, out=second)
            _rotate(v0, _BY_32, spare_word)
            np.add(crossed, second, out=crossed)
            _rotate(second, _BY_17_AND_21, spare)
            np.bitwise_xor(second, crossed, out=second)
            _rotate(v2, _BY_32, spare_word)

    for word in (messages[:, 0], messages[:, 1], _LENGTH):
        np.bitwise_xor(v3, word, out=v3)
        rounds(2)
        np.bitwise_xor(v0, word, out=v0)
    np.bitwise_xor(v2, _END, out=v2)
    rounds(4)
    np.bitwise_xor(first, second, out=first)
    return v0 ^ v2


def _rotate(v: UInt64, bits: tuple[Any, Any], spare: UInt64) -> None:
    """Rotates words to the left."""
    left, right = bits
    np.right_shift(v, right, out=spare)
    np.left_shift(v, left, out=v)
    np.bitwise_or(v, spare, out=v)


_BEGIN = np.array([0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573], np.uint64)
_LENGTH, _END = np.uint64(16 << 56), np.uint64(0xFF)
_BY_32 = np.uint64(32), np.uint64(32)
_BY_13_AND_16 = np.array([[13], [16]], np.uint64), np.array([[51], [48]], np.uint64)
_BY_17_AND_21 = np.array([[17], [21]], np.uint64), np.array([[47], [43]], np.uint64)
