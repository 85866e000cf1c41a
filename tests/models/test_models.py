"""Models: where they are, what goes through one together, and what is nearest to what."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from selector.errors import PolicyError
from selector.models.batching import Room, Side, batches, each_batch, padded, pooled
from selector.models.find import checksum, find_model
from selector.models.neighbours import closest, nearest


@given(rows=st.lists(st.lists(st.integers(0, 2**31), max_size=9), max_size=9), side=st.sampled_from(["left", "right"]))
def test_padded_rows_are_as_long_as_the_longest_and_a_mask_tells_what_is_theirs(
    rows: list[list[int]], side: Side
) -> None:
    whole, mask = padded(rows, 7, side)
    longest = max(map(len, rows), default=0)
    rest = [[7] * (longest - len(row)) for row in rows]
    assert whole.tolist() == [a + b if side == "right" else b + a for a, b in zip(rows, rest, strict=True)]
    assert [row[own == 1].tolist() for row, own in zip(whole, mask, strict=True)] == rows
    assert whole.dtype == mask.dtype == np.int64


@given(lengths=st.lists(st.integers(1, 512), max_size=60), batch_tokens=st.integers(1, 2048))
def test_every_window_is_in_one_batch_and_no_batch_is_too_large(lengths: list[int], batch_tokens: int) -> None:
    found = [batch.tolist() for batch in batches(np.array(lengths, np.int64), Room(tokens=batch_tokens))]
    assert sorted(window for batch in found for window in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[window] for window in batch) <= batch_tokens


def test_a_text_is_the_mean_of_its_windows_by_their_tokens() -> None:
    vectors = np.array([[1, 0], [0, 1], [2, 2]], np.float32)
    mean = pooled(vectors, np.array([3, 1, 5]), np.array([1, 1, 0]), 2)
    assert mean.tolist() == [[2, 2], [0.75, 0.25]]


def test_the_nearest_are_those_of_a_search_through_all() -> None:
    random = np.random.default_rng(5)
    vectors, base = (random.standard_normal((n, 8)).astype(np.float16) for n in (40, 25))
    labels, distances = nearest(vectors, base, 3)
    every = np.linalg.norm(vectors[:, None].astype(np.float64) - base[None], axis=2)
    assert labels.tolist() == np.argsort(every, axis=1)[:, :3].tolist()
    assert np.allclose(distances, np.sort(every, axis=1)[:, :3], atol=1e-5)


def test_the_nearest_are_the_same_bits_for_any_number_of_threads() -> None:
    random = np.random.default_rng(3)
    vectors, base = (random.standard_normal((n, 384)) for n in (4096, 8))
    vectors, base = (
        (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16) for rows in (vectors, base)
    )
    base[5] = base[2]  # one is as near as the other
    found = list[tuple[bytes, ...]]()
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            labels, distances = nearest(vectors, base, 1)
            found.append((labels.tobytes(), distances.tobytes(), closest(vectors, base).tobytes()))
        assert 5 not in labels, "of equal ones the lower index is nearer"
    assert len(set(found)) == 1


def test_a_model_is_found_by_its_folder_and_known_by_its_weights(tiny_model: Path, tmp_path: Path) -> None:
    assert find_model(str(tiny_model)) == tiny_model.resolve()
    copy = Path(shutil.copytree(tiny_model, tmp_path / "elsewhere"))
    assert checksum(copy) == checksum(tiny_model)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert checksum(copy) != checksum(tiny_model)
    weights.unlink()
    with pytest.raises(PolicyError, match=r"embed\.model: .*elsewhere holds no \.safetensors file"):
        find_model(str(copy))
    with pytest.raises(PolicyError, match=r"there is no folder 'all-MiniLM-L6', .*Did you mean 'all-MiniLM-L6-v2'"):
        find_model("all-MiniLM-L6")


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    fits=st.integers(40, 400),
    words=st.sampled_from([MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.")]),
)
def test_what_runs_out_of_memory_is_halved_until_it_fits_and_the_size_is_remembered(
    lengths: list[int], fits: int, words: Exception
) -> None:
    sizes: list[int] = []

    def compute(batch: Any) -> list[int]:
        sizes.append(len(batch) * max(lengths[i] for i in batch))
        if sizes[-1] > fits:
            raise words
        return batch.tolist()

    room = Room(tokens=1000)
    done = [(batch.tolist(), answer) for batch, answer in each_batch(np.array(lengths, np.int64), room, compute)]
    assert all(batch == answer for batch, answer in done)
    assert sorted(i for batch, _ in done for i in batch) == list(range(len(lengths)))
    failed = [size for size in sizes if size > fits]
    assert all(2 * later <= earlier for earlier, later in itertools.pairwise(failed)), "nothing as large is tried again"
    again = len(sizes)
    assert [*each_batch(np.array(lengths, np.int64), room, compute)]
    assert max(sizes[again:]) <= fits


def test_other_errors_and_a_window_that_does_not_fit_alone_are_raised() -> None:
    for error, lengths in ((RuntimeError("CUDA error: an illegal memory access"), [3, 3]), (MemoryError("alone"), [3])):

        def compute(_: Any, error: Exception = error) -> int:
            raise error

        with pytest.raises(type(error), match=str(error)):
            list(each_batch(np.array(lengths, np.int64), Room(tokens=10), compute))
