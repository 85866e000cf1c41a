"""The order digest: what proves an order, and that two of them begin alike.

So that any language can check it: a row is the bytes of position (int64), doc_id (16
bytes), visit (uint16), phase (uint16 length, then UTF-8) and loss_weight (float32), little-endian. A leaf
is blake2b-256 over a zero byte and the rows of 65,536 consecutive positions; a node is blake2b-256 over a
one byte and its two children, an odd child moves up unchanged; the digest is the root in hex. An order
without visits has one leaf, over no rows. So equal first leaves prove an equal beginning.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.exact import keyed

LEAF_ROWS = 65_536


def encode(rows: pa.Table) -> npt.NDArray[np.uint8]:
    """The bytes of the rows that the order digest covers, one row after the other."""
    names, codes = labels(rows["phase"])
    phases = [name.encode() for name in names]
    lengths = np.array([len(phase) for phase in phases], np.int64)
    longest = max(len(phase) for phase in phases)
    titles = np.zeros((len(phases), 2 + longest), np.uint8)
    for title, phase in zip(titles, phases, strict=True):
        title[: 2 + len(phase)] = np.frombuffer(len(phase).to_bytes(2, "little") + phase, np.uint8)
    columns = [
        _bytes(rows["position"].to_numpy().astype("<i8")),
        _bytes(keyed.words(rows["doc_id"]).astype(">u8")),
        _bytes(rows["visit"].to_numpy().astype("<u2")),
        titles[codes],
        _bytes(rows["loss_weight"].to_numpy().astype("<f4")),
    ]
    encoded = np.concatenate(columns, axis=1)
    if np.all(lengths == longest):
        return encoded.reshape(-1)
    written = np.ones(encoded.shape, np.bool_)
    written[:, 28 : 28 + longest] = np.arange(longest) < lengths[codes, None]
    return encoded[written]


def root(leaf_digests: Sequence[str]) -> str:
    """The order digest of these leaves, in hex."""
    nodes = [bytes.fromhex(leaf) for leaf in leaf_digests]
    while len(nodes) > 1:
        pairs = [b"\1" + left + right for left, right in zip(nodes[::2], nodes[1::2], strict=False)]
        odd = nodes[-1:] if len(nodes) % 2 else []
        nodes = [hashlib.blake2b(pair, digest_size=32).digest() for pair in pairs] + odd
    return nodes[0].hex()


def labels(column: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int32]]:
    """The names in a column of `tables.LABEL`, and for each row the index of its name; null has the name ""."""
    column = tables.whole(column)
    names = [name or "" for name in column.dictionary.to_pylist()]
    if column.null_count:
        return [*names, ""], column.indices.fill_null(len(names)).to_numpy()
    return names, column.indices.to_numpy()


def _bytes(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Each row's bytes, shape (rows, bytes of a row)."""
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
