"""A Ray for all tests of a file that works on one: a file that imports `cluster` has it."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import ray as _ray

from jobs.executor import RayExecutor

ray: Any = _ray
TESTS = Path(__file__).parent


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Generator[None]:
    """One Ray for all tests of this file, which the executors in it find and leave as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS / "jobs"), str(TESTS), str(TESTS.parent)]))
        with RayExecutor():
            yield
    assert not ray.is_initialized()
