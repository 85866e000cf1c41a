"""Absent: names in a policy that no document has, such as a source that is written wrong.

A share of a source that is not there is nothing to stop for: its part goes to the others. It is said, since it is most
often a slip of the pen.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyarrow as pa

from selector.plugins import name_of
from selector.plugins.options import plugins_in
from selector.plugins.pool import Pool
from selector.select import Selector
from selector.steps.constraints import Limits

_MOST_KNOWN = 20  # values of a column in the facts


def absent(selector: Selector, limits: Limits | None, pool: Pool) -> list[dict[str, Any]]:
    """For each option that names values of a column which no document of the pool has: the `option` and the `column`,
    these `names`, the `nearest` to each that there is, and some that are `known`."""
    answers: list[dict[str, Any]] = []
    by_column: dict[str, set[str]] = {}
    for option, column, names in _named(selector, limits):
        if column not in by_column:
            by_column[column] = set().union(*pool.map(_values, column))
        known = by_column[column]
        if missing := sorted(set(names) - known):
            nearest = {name: near for name in missing for near in difflib.get_close_matches(name, known, n=1)}
            answers.append(
                {
                    "option": option,
                    "column": column,
                    "names": missing,
                    "nearest": nearest,
                    "known": sorted(known)[:_MOST_KNOWN],
                }
            )
    return answers


def _named(selector: Selector, limits: Limits | None) -> Iterator[tuple[str, str, Collection[str]]]:
    """The options that name values: each with the column and the names."""
    if limits is not None and limits.by is not None:
        yield "select.shares", limits.by, limits.bounds
    for plugin in plugins_in(selector):
        if isinstance(plugin, Selector):
            of_plugin: Mapping[str, tuple[str, Collection[str]]] = plugin.named_values
            yield from ((f"{name_of(plugin)}.{option}", *values) for option, values in of_plugin.items())


def _values(batch: pa.RecordBatch) -> set[str]:
    """The different values of a column, as people write them."""
    column: Any = batch.column(0)
    return {str(value) for value in column.unique().to_pylist()}
