"""A rater's answer as the table that is stored: checked, quantised, and with a state for every score of every row.

The one thing to know: a score has a value if and only if its state is `ok`. NaN and infinity never reach the disk. A
number that was computed keeps 20 bits of mantissa, so that the last bits of a float64 cannot decide an order; a whole
number, a date, a timestamp or a decimal is exact and stays what it is.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.exact import quantise
from selector.plugins.blame import fault
from selector.plugins.options import columns_of
from selector.rate import Fit, Meaning, Rater

_OK, _, _FAILED, _NOT_APPLICABLE = range(len(tables.STATES))
_STATES = pa.array(tables.STATES)
_MOST_DIGITS = 18  # of an exact decimal: as many as an int64 holds


def ratings_table(rater: Rater, name: str, batch: pa.RecordBatch, declared: Fit | None = None) -> pa.Table:
    """What `rater`, called `name` in the policy, says of a batch, in the schema `tables.ratings`.

    The batch holds doc_id and the columns that the rater reads; it is shown no others. A rater that a Fit made comes
    with that Fit as `declared`: it is shown what the Fit reads, and may not differ from what the Fit declares. The
    field of a score says in its metadata, as `higher_is`, what a large one means, or "label".
    Raises SelectorError where the answer breaks the rater's contract.
    """
    maker = rater if declared is None else declared
    meanings: dict[str, Meaning] = {**maker.scores(name)}
    problem = _wrong_meanings(meanings) or (declared and _difference(rater, declared, name))
    if problem:
        raise fault("rater", name, maker, problem)
    answer: Any = rater.rate(batch.select(shown_to(maker)))
    answered = _by_name(answer, maker, meanings)
    if problem := _wrong_answer(answer, answered, meanings, batch.num_rows):
        raise fault("rater", name, maker, problem)
    columns: list[pa.Array] = [batch["doc_id"]]
    fields: dict[str, pa.Field] = {}
    for score, meaning in meanings.items():
        try:
            values = _exact_or_quantised(answered[score], meaning)
        except pa.ArrowInvalid as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise fault("rater", name, maker, f"returned for {score!r} what cannot be stored: {reason}") from error
        codes = _states(values, answered.get("state", answered.get(tables.state_of(score))))
        values = values.take(pa.array(np.arange(len(values)), mask=codes != _OK))  # null wherever it does not count
        values = values.dictionary_encode() if meaning == "label" else values
        columns += [values, pa.DictionaryArray.from_arrays(pa.array(codes), _STATES)]
        fields[score] = pa.field(score, values.type, metadata={b"higher_is": meaning.encode()})
    return pa.Table.from_arrays(columns, schema=tables.ratings(fields))


def shown_to(maker: Rater | Fit) -> tuple[str, ...]:
    """The columns that a rater is shown: doc_id, what it needs, what its options name."""
    return columns_of(maker, always=("doc_id",))


def _by_name(answer: Any, maker: Rater | Fit, meanings: Mapping[str, Meaning]) -> dict[str, pa.Array]:
    """The columns of an answer by their full names.

    `rate` does not know what its rater is called. So it may answer with the names that `scores` gives to a rater called
    `score`; and where there is one score, that is its name in any case.
    """
    if not isinstance(answer, pa.RecordBatch):
        return {}
    shorts = ["score"] if len(meanings) == 1 else [*maker.scores("score")]
    full = dict(zip(shorts, meanings, strict=False))
    full |= {tables.state_of(short): tables.state_of(long) for short, long in full.items()}
    names: list[str] = answer.schema.names
    return {full.get(name, name): column for name, column in zip(names, answer.columns, strict=True)}


def _exact_or_quantised(values: pa.Array, meaning: Meaning) -> pa.Array:
    """The values in the type that is stored, a label as plain text. Raises ArrowInvalid for one it cannot hold."""
    kind = _stored_type(values.type, meaning)
    assert kind is not None, "the type was checked"
    if kind != pa.float32():
        return values.cast(kind)
    numbers = values.cast(kind, safe=False)
    return pa.array(quantise(numbers.to_numpy(zero_copy_only=False)), mask=_is_null(numbers))


def _stored_type(kind: pa.DataType, meaning: Meaning) -> pa.DataType | None:
    """The type that keeps a score which a rater gives as `kind`; None where there is none."""
    if meaning == "label":
        return pa.string() if pa.types.is_null(kind) or _is_text(kind) else None
    if pa.types.is_null(kind) or pa.types.is_floating(kind):
        return pa.float32()
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_date(kind):
        return pa.date32()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("ms" if kind.unit == "s" else kind.unit, kind.tz)  # Parquet has no seconds
    if pa.types.is_decimal(kind) and 0 <= kind.scale <= kind.precision <= _MOST_DIGITS:
        return pa.decimal128(kind.precision, kind.scale)
    return None


def _states(values: pa.Array, given: pa.Array | None) -> npt.NDArray[np.int32]:
    """Per row the index of a score's state in `tables.STATES`: the one given, but failed where it has no value."""
    is_null = _is_null(values)
    if given is None:
        codes = np.where(is_null, _NOT_APPLICABLE, _OK)
    else:
        states = given.cast(pa.string()).dictionary_encode()
        codes = np.array([tables.STATES.index(state) for state in states.dictionary.to_pylist()], np.int64)
        codes = codes[states.indices.to_numpy()]
    if pa.types.is_floating(values.type):
        is_null |= ~np.isfinite(values.to_numpy(zero_copy_only=False))
    return np.where((codes == _OK) & is_null, _FAILED, codes).astype(np.int32)


def _is_null(values: pa.Array) -> npt.NDArray[np.bool_]:
    return values.is_null().to_numpy(zero_copy_only=False)


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(test(value) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


# ---------------------------------------------------------------- how an answer breaks the contract
# Each says it in words that follow "The rater 'x' …", and None where nothing is wrong.


def _wrong_meanings(meanings: Mapping[str, str]) -> str | None:
    known = (*tables.HIGHER_IS, "label")
    taken = {"doc_id", "state", *map(tables.state_of, meanings)}
    if meanings and not meanings.keys() & taken and set(meanings.values()) <= set(known):
        return None
    return f"declares the scores {meanings}: one or more, none called doc_id or state or as a state is, each of {known}"


def _difference(rater: Rater, declared: Fit, name: str) -> str | None:
    class_name = type(rater).__qualname__
    if more := [need for need in rater.needs if need not in shown_to(declared)]:
        return f"made a {class_name} that needs {more}, which the Fit does not declare: it needs {list(declared.needs)}"
    if (scores := {**rater.scores(name)}) != {**declared.scores(name)}:
        return f"made a {class_name} with the scores {scores}; the Fit declares {declared.scores(name)}"
    if rater.resources != declared.resources:
        return f"made a {class_name} with {rater.resources}; the Fit declares {declared.resources}"
    return None


def _wrong_answer(
    answer: Any, answered: Mapping[str, pa.Array], meanings: Mapping[str, Meaning], rows: int
) -> str | None:
    if not isinstance(answer, pa.RecordBatch):
        return f"returned a {type(answer).__name__} instead of a pyarrow.RecordBatch"
    if answer.num_rows != rows:
        return f"returned {answer.num_rows} rows for a batch of {rows}"
    states = {"state", *map(tables.state_of, meanings)} & answered.keys()
    if len(answered) != len(answer.schema) or answered.keys() - states != set(meanings):
        either = " (or 'score')" if len(meanings) == 1 else ""
        return f"returned the columns {answer.schema.names} instead of {list(meanings)}{either} and perhaps 'state'"
    if "state" in states and len(states) > 1:
        return f"returned both 'state', which is for every score, and {min(states - {'state'})!r}"
    for score, meaning in meanings.items():
        if _stored_type(answered[score].type, meaning) is None:
            return f"returned {score!r} as {answered[score].type} instead of {_wanted(answered[score].type, meaning)}"
    for name in sorted(states):
        kind = answered[name].type
        if not pa.types.is_null(kind) and not _is_text(kind):
            return f"returned {name!r} as {kind} instead of text"
        for state in answered[name].cast(pa.string()).unique().to_pylist():
            if state not in tables.STATES:
                return f"returned the state {state!r}, which is not one of {tables.STATES}"
    return None


def _wanted(kind: pa.DataType, meaning: Meaning) -> str:
    if meaning == "label":
        return "text, as a label is"
    if pa.types.is_decimal(kind):
        return f"a decimal of at most {_MOST_DIGITS} digits"
    return "a number, a date or a timestamp"
