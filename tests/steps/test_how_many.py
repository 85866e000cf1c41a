"""`num_clusters: auto`: the largest number that separates, and agrees from fit to fit, nearly as well as the best."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selector.steps.how_many import adjusted_rand, largest_sound, most_clusters, numbers_to_try


def row(number: int, silhouette: float, error: float = 0.0, agreement: float = 1.0) -> dict[str, Any]:
    return {"num_clusters": number, "silhouette": silhouette, "standard_error": error, "agreement": agreement}


CHOICES: dict[str, tuple[list[dict[str, Any]], int]] = {
    "the best alone": ([row(8, 0.2), row(16, 0.4), row(32, 0.3)], 16),
    "a larger one within a standard error of the best": ([row(16, 0.40, 0.02), row(32, 0.38), row(64, 0.37)], 32),
    "the error that counts is the best one's": ([row(16, 0.40, 0.01), row(32, 0.38, 0.5)], 16),
    "a larger one of which fits agree too little": ([row(16, 0.40, 0.1, 0.9), row(32, 0.39, 0.1, 0.84)], 16),
    "agreement within .05": ([row(16, 0.40, 0.1, 0.9), row(32, 0.39, 0.1, 0.85)], 32),
    "the best is not stable, another one within its error is": ([row(8, 0.39, 0, 0.9), row(16, 0.4, 0.02, 0.5)], 8),
    "none is both: the best of the stable ones": (
        [row(4, 0.1, 0, 0.97), row(8, 0.2, 0, 0.96), row(16, 0.4, 0.01, 0.5)],
        8,
    ),
    "of equal ones the largest": ([row(8, 0.4), row(16, 0.4)], 16),
    "one alone": ([row(1, 0.0)], 1),
}


@pytest.mark.parametrize(("evidence", "number"), CHOICES.values(), ids=list(CHOICES))
def test_the_largest_sound_number_is_taken(evidence: list[dict[str, Any]], number: int) -> None:
    assert largest_sound(evidence) == largest_sound(evidence[::-1]) == number


def test_two_partitions_agree_as_in_the_worked_case() -> None:
    one, other = np.array([0, 0, 1, 1, 2, 2]), np.array([1, 1, 0, 0, 0, 2])
    assert adjusted_rand(one, other) == adjusted_rand(other, one) == pytest.approx(0.444444444, abs=1e-9)
    assert adjusted_rand(one, np.array([5, 5, 0, 0, 9, 9])) == 1
    assert adjusted_rand(np.zeros(4, np.int64), np.zeros(4, np.int64)) == 1
    assert adjusted_rand(np.zeros(4, np.int64), np.arange(4)) == 0


@given(pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=2, max_size=60))
def test_agreement_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    from sklearn.metrics import adjusted_rand_score

    one, other = np.array(pairs).T
    assert adjusted_rand(one, other) == pytest.approx(adjusted_rand_score(one, other), abs=1e-12)


def test_the_numbers_in_question_are_powers_of_two_up_to_forty_documents_a_cluster() -> None:
    assert [most_clusters(n) for n in (0, 39, 80, 4_000, 10**9)] == [1, 1, 2, 100, 4096]
    assert numbers_to_try(1) == [1] and numbers_to_try(2) == numbers_to_try(3) == [2]
    assert numbers_to_try(100) == [32, 64] and numbers_to_try(4096)[0] == 64 and numbers_to_try(4096)[-1] == 4096
    assert all(numbers_to_try(most) for most in range(1, 4097))
