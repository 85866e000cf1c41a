"""Every rater of ours says in its file what its numbers are: their unit, their range, and what a high one means."""

import importlib

import pytest

from selector import plugins


@pytest.mark.parametrize("name", plugins.ours("raters"))
def test_a_rater_documents_unit_range_and_what_a_high_value_means(name: str) -> None:
    document = " ".join((importlib.import_module(f"selector.rate.{name}").__doc__ or "").split())
    for promised in ("Unit: ", "Range: ", "high"):
        assert promised in document, f"the docstring of selector/rate/{name}.py lacks {promised.strip()!r}"
