"""Keyed hashing: the reference vectors, and that a number belongs to its document alone."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector.exact import keyed

IDS = st.lists(st.binary(min_size=16, max_size=16), max_size=20)
MASK = 2**64 - 1


def siphash_2_4(key: bytes, message: bytes) -> int:
    """SipHash-2-4 as in the paper (Aumasson and Bernstein, 2012), one byte string at a time."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotated(x: int, bits: int) -> int:
        return (x << bits | x >> (64 - bits)) & MASK

    def rounds(count: int) -> None:
        a, b, c, d = v
        for _ in range(count):
            a, c = (a + b) & MASK, (c + d) & MASK
            b, d = rotated(b, 13) ^ a, rotated(d, 16) ^ c
            a = rotated(a, 32)
            c, a = (c + b) & MASK, (a + d) & MASK
            b, d = rotated(b, 17) ^ c, rotated(d, 21) ^ a
            c = rotated(c, 32)
        v[:] = [a, b, c, d]

    end = len(message) - len(message) % 8
    last = message[end:].ljust(7, b"\0") + bytes([len(message) % 256])
    for block in [message[i : i + 8] for i in range(0, end, 8)] + [last]:
        word = int.from_bytes(block, "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def of_messages(messages: list[bytes], key: bytes) -> list[int]:
    blocks = np.frombuffer(b"".join(messages), "<u8").reshape(-1, 2).astype(np.uint64)
    return keyed.siphash(blocks, key).tolist()


def test_the_scalar_siphash_gives_the_vector_of_the_paper() -> None:
    assert siphash_2_4(bytes(range(16)), bytes(range(15))) == 0xA129CA6149BE45E5


def test_siphash_gives_the_reference_vector_for_sixteen_bytes() -> None:
    assert siphash_2_4(bytes(range(16)), bytes(range(16))) == 0x3F2ACC7F57C29BDB
    assert of_messages([bytes(range(16))], bytes(range(16))) == [0x3F2ACC7F57C29BDB]


@given(IDS, st.binary(min_size=16, max_size=16))
def test_siphash_agrees_with_the_scalar_one(messages: list[bytes], key: bytes) -> None:
    assert of_messages(messages, key) == [siphash_2_4(key, message) for message in messages]


@given(IDS, st.integers(0, 5))
def test_words_sort_like_ids_and_turn_back_into_them(ids: list[bytes], start: int) -> None:
    array = pa.array(ids, pa.binary(16)).slice(start)
    words = keyed.words(array)
    assert keyed.ids(words).equals(array)
    assert sorted(words.tolist()) == keyed.words(pa.array(sorted(array.to_pylist()), pa.binary(16))).tolist()


@given(IDS, st.integers(-(2**70), 2**70))
def test_a_hash_depends_on_the_id_and_not_on_its_batch(ids: list[bytes], seed: int) -> None:
    whole = keyed.hashes(pa.array(ids, pa.binary(16)), seed, "purpose").tolist()
    assert whole == [keyed.hashes(pa.array([i], pa.binary(16)), seed, "purpose")[0] for i in ids]
    assert whole == keyed.hashes(pa.chunked_array([[i] for i in ids], pa.binary(16)), seed, "purpose").tolist()


@given(IDS, st.lists(st.integers(0, 3), min_size=1, max_size=5), st.integers(-(2**70), 2**70))
def test_ids_may_each_be_hashed_for_a_purpose_of_their_own(ids: list[bytes], chosen: list[int], seed: int) -> None:
    purpose, array = np.resize(chosen, len(ids)), pa.array(ids, pa.binary(16))
    each = [keyed.hashes(array, seed, name).tolist() for name in ("", "a", "b", "a/1")]
    hashes = keyed.hashes_by(array, seed, ("", "a", "b", "a/1"), purpose).tolist()
    assert hashes == [each[number][i] for i, number in enumerate(purpose.tolist())]


def test_seeds_and_purposes_draw_independently() -> None:
    ids = pa.array([keyed.digest(b"%d" % i) for i in range(2000)], pa.binary(16))
    draws = [keyed.uniforms(ids, seed, purpose) for seed in (1, 2) for purpose in ("a", "b")]
    correlation = np.corrcoef(draws) - np.eye(4)
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)
    assert all(abs(draw.mean() - 0.5) < 5 * np.sqrt(1 / 12 / 2000) for draw in draws)


@pytest.mark.parametrize("bits", [0, 2**64 - 1])
def test_uniforms_never_reach_zero_or_one(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed, "siphash", lambda *_: np.array([bits], np.uint64))
    (uniform,) = keyed.uniforms(pa.array([bytes(16)], pa.binary(16)), 0, "")
    assert 0 < uniform < 1


@given(IDS)
def test_ids_are_sorted_and_searched_as_bytes_are_also_with_zeros_at_the_end(ids: list[bytes]) -> None:
    ids = [*ids, bytes(16), b"\1" + bytes(15), bytes(15) + b"\1", *(one[:9] + bytes(7) for one in ids)]
    values = keyed.sortable(pa.array(ids, pa.binary(16)))
    places = np.argsort(values, kind="stable")
    assert [ids[i] for i in places] == sorted(ids)
    assert (values[places][np.searchsorted(values[places], values)] == values).all()
    assert len(np.unique(values)) == len(set(ids))
