"""A rater's answer as the table that is stored: checked, quantised, and with a state in every row.

The one thing to know: a row has its numbers if and only if its state is `ok`. NaN and infinity never reach
the disk, and scores keep 20 bits of mantissa, so that the last bits of a float64 cannot decide an order.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.errors import SelectorError
from selector.rate import FittedRater, Rater

Float32 = npt.NDArray[np.float32]

_OK, _, _FAILED, _NOT_APPLICABLE = range(len(tables.STATES))


def ratings_table(rater: Rater, name: str, batch: pa.RecordBatch, fitted: pa.Table | None = None) -> pa.Table:
    """What `rater`, called `name` in the policy, says of a batch, in the schema `tables.ratings(rater.scores(name))`.

    The batch holds doc_id and the columns that the rater needs; it is shown no others. A `FittedRater` needs
    its fit. A row that lacks one of its numbers keeps none; one that claims to be ok without is failed.
    Raises SelectorError where the answer breaks the rater's contract.
    """
    shown = batch.select(["doc_id", *rater.needs])
    if isinstance(rater, FittedRater):
        assert fitted is not None, f"the fit of {name} is not there"
        answer = rater.rate_fitted(shown, fitted)
    else:
        answer = rater.rate(shown)
    meanings: dict[str, str] = {**rater.scores(name)}
    if wrong := _wrong(answer, meanings, batch.num_rows):
        raise SelectorError(f"The rater {name!r} {wrong}. This is a fault of the rater, {type(rater).__qualname__}.")
    columns = {_score(column, meanings): answer.column(i) for i, column in enumerate(answer.schema.names)}
    scores = [columns[score].cast(pa.float32(), safe=False) for score in meanings]
    numbers = [quantise(column.to_numpy(zero_copy_only=False)) for column in scores]  # a null is NaN here
    is_null = np.any([column.is_null().to_numpy(zero_copy_only=False) for column in scores], axis=0)
    if "state" in columns:
        states = columns["state"].cast(pa.string()).dictionary_encode()
        code_of = np.array([tables.STATES.index(state) for state in states.dictionary.to_pylist()], np.int32)
        codes = code_of[states.indices.to_numpy()]
    else:
        codes = np.where(is_null, _NOT_APPLICABLE, _OK).astype(np.int32)
    codes[(codes == _OK) & ~np.all(np.isfinite(numbers), axis=0)] = _FAILED
    state = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(tables.STATES))
    stored = [pa.array(values, mask=codes != _OK) for values in numbers]
    return pa.Table.from_arrays([batch["doc_id"], *stored, state], schema=tables.ratings(meanings))


def quantise(values: Float32) -> Float32:
    """The values with 20 of float32's 23 bits of mantissa (steps of 1e-6, relative), to nearest, ties to even.

    Monotone and idempotent; -0.0 becomes 0.0; the largest values round down, never to infinity; NaN and
    infinity stay. It hides noise far below a step, such as float64's. A float32's last bit is an eighth of
    a step: noise there still moves about one value in eight to the next.
    """
    bits = values.astype(np.float32, order="C").view(np.uint32)
    sign, magnitude = bits & np.uint32(0x80000000), bits & np.uint32(0x7FFFFFFF)
    half = np.uint32(3) + (magnitude >> np.uint32(3) & np.uint32(1))
    rounded = np.minimum(magnitude + half, np.uint32(0x7F7FFFFF)) & np.uint32(0xFFFFFFF8)
    return np.where(np.isfinite(values), (sign | rounded).view(np.float32) + np.float32(0), values)


def _score(column: str, meanings: Mapping[str, str]) -> str:
    return next(iter(meanings)) if column == "score" and len(meanings) == 1 else column


def _wrong(answer: Any, meanings: Mapping[str, str], num_rows: int) -> str | None:
    """How an answer breaks the contract, to follow "The rater 'x' …"; None if it does not."""
    if not meanings or meanings.keys() & {"doc_id", "state"} or not set(meanings.values()) <= set(tables.HIGHER_IS):
        return f"declares the scores {meanings}: one or more, none called doc_id or state, each of {tables.HIGHER_IS}"
    if not isinstance(answer, pa.RecordBatch):
        return f"returned a {type(answer).__name__} instead of a pyarrow.RecordBatch"
    if answer.num_rows != num_rows:
        return f"returned {answer.num_rows} rows for a batch of {num_rows}"
    types = {_score(column.name, meanings): column.type for column in answer.schema}
    if len(types) != len(answer.schema) or types.keys() - {"state"} != set(meanings):
        return f"returned the columns {answer.schema.names} instead of {list(meanings)} and perhaps 'state'"
    for score in meanings:
        if not any(test(types[score]) for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_null)):
            return f"returned {score!r} as {types[score]} instead of a number"
    for state in answer["state"].cast(pa.string()).unique().to_pylist() if "state" in types else ():
        if state not in tables.STATES:
            return f"returned the state {state!r}, which is not one of {tables.STATES}"
    return None
