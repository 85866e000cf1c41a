"""A run's parts, shared out between processes that know nothing of each other."""

import pytest

from selector.engine.local import LocalExecutor
from selector.engine.share import Shared
from selector.errors import UsageError


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/", "/2", "-1/2", "1/0", "a/b", "1/2/3", "1/1000000", "²/3"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--share"):
        Shared.of(LocalExecutor(), text)


@pytest.mark.parametrize("num_shares", [1, 2, 3, 8])
def test_the_shares_of_any_number_of_parts_are_all_of_them_once(num_shares: int) -> None:
    for num_tasks in (0, 1, 5, 8, 100):
        bounds = [num_tasks * share // num_shares for share in range(num_shares + 1)]
        assert bounds[0] == 0 and bounds[-1] == num_tasks and bounds == sorted(bounds)
