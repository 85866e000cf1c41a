"""The laws that every rater keeps. Put yours before them in a test of your own: `check_rater("my_package.mine:Mine")`.

A rater is tried on documents that are made up, with every combination of its documented choices; a `Fit` first learns
from them. What it answers is checked as it is in a run: an answer that breaks the form is put on the rater by name.
"""

import dataclasses
import datetime
import decimal
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from selector import tables
from selector.engine.store import from_parquet, to_parquet
from selector.exact import quantise
from selector.plugins import Pool, TablePath, options_of
from selector.plugins.catalogue import CORPUS
from selector.plugins.catalogue import SCORE as SCORES
from selector.rate import Fit, Rater
from selector.rate._answer import ratings_table, shown_to
from selector.rate._fitted import learned as learned_by
from selector.rate._fitted import rater_of
from selector.testing._law import EXAMPLES, Law, Values, check, corpus_values, tries
from selector.testing._trials import EXACT, SCORE, TOPIC, documents, made_for, variants

_NAME = "it"  # what the policy calls the rater
_SEED = 7


def check_rater(
    name: str, *, examples: int = EXAMPLES, corpus: Mapping[str, Values] | None = None, **given: Any
) -> None:
    """Every law, for every variant of the rater or fit of this name, which is anything that a policy may say.

    `given` are values for options that cannot be made up, `corpus` what columns of the corpus may hold: by default
    anything that a corpus can hold at all.
    """
    check(RATER_LAWS, variants("raters", name, **given), examples, corpus)


# ---------------------------------------------------------------- what a law is tried on

_EMPTYISH = ["", " \n\t", ".", "?!…", "\0", "a\0b.", "\u0301", "\u200b", "'", "''a''", "\u2019s", "3.14", "\ue000"]
_FOREIGN = ["🎉", "👩‍👩‍👧‍👦 ok.", "日本語の文です。", "हिन्दी भाषा।", "e\u0301lan", "\ufeffHi.", "İSTANBUL", "\u202eß"]
_EMOJI = ["🎉🎊🥳", "👍🏽 👎🏿", "🏳️‍🌈"]
_MIXED = ["Привет, hello, 你好, مرحبا!", "αβγ abc אבג", "x"]
_CODE = ["def f(x):\n    return x if x else None\n", "int main() { return 0; } // {", "SELECT * FROM t WHERE a = 'b';"]
_WEIRD = _EMPTYISH + _FOREIGN + _EMOJI + _MIXED + _CODE
_LONG = " ".join(f"word{i % 997}s" for i in range(100_000))
_HUGE = [_LONG, "x" * 100_000, "a. " * 33_333, "!" * 100_000, "\u0301" * 100_000, "語" * 100_000, "\0" * 100_000]

_TEXT = st.one_of(st.sampled_from(_WEIRD), st.text(max_size=40), st.text(alphabet="aeiou rst.'!", max_size=80))
_UINT32 = st.integers(0, 2**32 - 1)
_JSON = ["1", " 2.5 ", '"3"', "true", "null", "", "x", "[1]", "1e999", "NaN", "-0"]
_VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "text": _TEXT,
    "source": st.sampled_from(["web", "books"]),
    "num_bytes": _UINT32,
    "num_tokens": _UINT32,
    "cluster": st.integers(0, 3),
    "distance": st.floats(0, 2, width=32),
    "embedding": st.lists(st.floats(-1, 1, width=16).map(np.float16), min_size=4, max_size=4),
    SCORE: st.none() | st.floats(-1e3, 1e3, width=32),
    EXACT: st.none() | st.integers(-(2**63), 2**63 - 1),
    TOPIC: st.sampled_from([None, "art", "law"]),
}
_MOMENTS = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1))
_CORPUS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.float64(), st.none() | st.floats()),
    (pa.int64(), st.none() | st.integers(-(2**63), 2**63 - 1)),
    (pa.bool_(), st.none() | st.booleans()),
    (pa.string(), st.none() | st.sampled_from(_JSON) | _TEXT),
    (tables.LABEL, st.none() | st.sampled_from(_JSON)),
    (pa.date32(), st.none() | st.dates()),
    (pa.timestamp("us", "UTC"), st.none() | _MOMENTS),
    (pa.decimal128(18, 3), st.none() | st.decimals(-(10**14), 10**14, places=3).map(decimal.Decimal)),
    (pa.list_(pa.int64()), st.none() | st.just([1])),
    (pa.null(), st.none()),
]


@st.composite
def _batches(draw: st.DrawFn, plugin: Rater | Fit) -> pa.RecordBatch:
    """One to eight documents with the columns that a rater is shown."""
    read = {column.removeprefix(SCORES) for column in shown_to(plugin)}
    rows = st.fixed_dictionaries({name: values for name, values in _VALUES.items() if name in read})
    table = documents(draw(st.lists(rows, min_size=1, max_size=8)))
    for need in plugin.needs:
        if need.startswith(CORPUS):
            known = corpus_values(need.removeprefix(CORPUS))
            if known is None:
                kind, values = draw(st.sampled_from(_CORPUS))
            else:
                kind, values = known.type, st.sampled_from(known.to_pylist())
            column = draw(st.lists(values, min_size=table.num_rows, max_size=table.num_rows))
            table = table.append_column(need, pa.array(column, kind))
    return _shown(plugin, table)


def _shown(plugin: Rater | Fit, table: pa.Table) -> pa.RecordBatch:
    """The documents as one batch, with doc_id and the columns that a rater is shown, its attached tables' included."""
    chosen = made_for(plugin, table).select(shown_to(plugin)).combine_chunks()
    (batch,) = chosen.to_batches() or [pa.RecordBatch.from_pylist([], chosen.schema)]
    return batch


def stored(plugin: Rater | Fit, *batches: pa.RecordBatch, corpus: pa.RecordBatch) -> pa.Table:
    """What a run would store of these batches, one after the other; a Fit has learned from `corpus` before.

    Words are not in dictionaries here, and a score that no document has is null without a type: what is left of two
    tables that say the same is equal.
    """
    declared = plugin if isinstance(plugin, Fit) else None
    rater = _ready(plugin, corpus)
    return _as_one([ratings_table(rater, _NAME, batch, declared) for batch in batches])


def _ready(plugin: Rater | Fit, corpus: pa.RecordBatch) -> Rater:
    """The rater, prepared; that of a Fit learned from `corpus` before."""
    rater = rater_of(_NAME, plugin, learned(plugin, corpus)) if isinstance(plugin, Fit) else plugin
    rater.prepare()
    return rater


def _scores_with_states(plugin: Rater | Fit, batch: pa.RecordBatch) -> list[tuple[pa.Array, pa.Array]]:
    """The scores of a rater's own answer that come with states, each with its states."""
    answer = _ready(plugin, batch).rate(batch)
    names: list[str] = [name for name in answer.schema.names if name != "state" and not name.endswith(".state")]
    states = {name: f"{name}.state" if f"{name}.state" in answer.schema.names else "state" for name in names}
    return [(answer[name], answer[state]) for name, state in states.items() if state in answer.schema.names]


def learned(fit: Fit, corpus: pa.RecordBatch, shard_rows: int = 8) -> pa.Table:
    """What a fit says of a corpus in shards of so many documents, as it comes back from the store."""
    fitted = learned_by(_NAME, fit, Pool.of(pa.Table.from_batches([corpus]), shard_rows), _SEED)
    return from_parquet(to_parquet(fitted), fitted.num_rows, "fit")


def _as_one(answers: list[pa.Table]) -> pa.Table:
    schema = answers[0].schema
    columns: dict[str, pa.ChunkedArray] = {}
    for name in schema.names:
        chunks = [_plain(answer[name].combine_chunks()) for answer in answers]
        kinds = {chunk.type for chunk in chunks if chunk.null_count < len(chunk)}
        assert len(kinds) <= 1, f"{name} has the types {kinds} in batches of one corpus"
        kind = next(iter(kinds), pa.null())
        chunks = [chunk if chunk.type == kind else pa.nulls(len(chunk), kind) for chunk in chunks]
        columns[name] = pa.chunked_array(chunks, kind)
    fields = [pa.field(name, column.type, metadata=schema.field(name).metadata) for name, column in columns.items()]
    return pa.table(list(columns.values()), schema=pa.schema(fields)).combine_chunks()


def _plain(values: pa.Array) -> pa.Array:
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _agree(answer: pa.Table, expected: pa.Table, complaint: str, *, is_exact: bool = True) -> None:
    """Raises AssertionError where two tables differ, with the first place and what stands there in both. Numbers of a
    rater that is not exact may differ in their last bits."""
    if answer.equals(expected, check_metadata=True) or (not is_exact and _is_near(answer, expected)):
        return
    if answer.num_rows == expected.num_rows and answer.schema.names == expected.schema.names:
        for name in expected.schema.names:
            for row, (value, wanted) in enumerate(
                zip(answer[name].to_pylist(), expected[name].to_pylist(), strict=True)
            ):
                if value != wanted:
                    raise AssertionError(f"{complaint}: {name!r} of row {row} is {value!r}, and was {wanted!r}")
    shapes = [f"{table.num_rows} rows of {_described(table.schema)}" for table in (answer, expected)]
    raise AssertionError(f"{complaint}: there are {shapes[0]}, and there were {shapes[1]}")


def _is_near(answer: pa.Table, expected: pa.Table) -> bool:
    """Whether two tables say the same but for the last bits of numbers."""
    if answer.schema != expected.schema or answer.num_rows != expected.num_rows:
        return False
    for name in expected.schema.names:
        ours, theirs = (table[name].combine_chunks() for table in (answer, expected))
        if not pa.types.is_float32(ours.type):
            if not ours.equals(theirs):
                return False
        elif not ours.is_null().equals(theirs.is_null()) or not np.allclose(
            *(values.fill_null(0).to_numpy() for values in (ours, theirs)), rtol=4e-6, atol=4e-6
        ):
            return False
    return True


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _law(check: Callable[[Rater | Fit, pa.RecordBatch, st.DataObject], None]) -> Law[Rater | Fit]:
    """A law of every rater, from what it says of one batch of documents that Hypothesis makes up."""

    def law(plugin: Rater | Fit) -> None:
        @tries()
        @given(data=st.data())
        def trial(data: st.DataObject) -> None:
            check(plugin, data.draw(_batches(plugin), "the batch"), data)

        trial()

    law.__name__, law.__doc__ = check.__name__, check.__doc__
    return law


# ---------------------------------------------------------------- the laws


@_law
def law_an_answer_has_the_form_that_was_declared(
    plugin: Rater | Fit, batch: pa.RecordBatch, data: st.DataObject
) -> None:
    """One row for each document, the scores that were declared, states that there are; and of a Fit's rater, what the
    Fit declares."""
    start = data.draw(st.integers(0, batch.num_rows - 1), "then from this row on")
    stored(plugin, batch, corpus=batch)
    stored(plugin, batch.slice(start), corpus=batch)


@_law
def law_any_split_of_a_batch_gives_the_same_table(
    plugin: Rater | Fit, batch: pa.RecordBatch, data: st.DataObject
) -> None:
    drawn = data.draw(st.sets(st.integers(1, batch.num_rows), max_size=4), "cut before these rows")
    cuts = sorted(drawn - {batch.num_rows})
    spans = zip([0, *cuts], [*cuts, batch.num_rows], strict=True)
    pieces = [batch.slice(start, stop - start) for start, stop in spans]
    whole = stored(plugin, batch, corpus=batch)
    _agree(
        stored(plugin, *pieces, corpus=batch),
        whole,
        "in pieces, a batch is rated otherwise than whole",
        is_exact=plugin.is_exact,
    )


@_law
def law_a_document_is_rated_the_same_wherever_it_stands(
    plugin: Rater | Fit, batch: pa.RecordBatch, data: st.DataObject
) -> None:
    places = pa.array(data.draw(st.permutations(range(batch.num_rows)), "in this order"), pa.int64())
    expected = stored(plugin, batch, corpus=batch).take(places).combine_chunks()
    moved = stored(plugin, batch.take(places), corpus=batch)
    _agree(moved, expected, "a document is rated otherwise in another place", is_exact=plugin.is_exact)


@_law
def law_a_rater_made_again_with_the_same_options_gives_the_same_table(
    plugin: Rater | Fit, batch: pa.RecordBatch, data: st.DataObject
) -> None:
    first = stored(plugin, batch, corpus=batch)
    other = data.draw(_batches(plugin), "and another one in between")
    stored(plugin, other, corpus=other)
    again: Any = dataclasses.replace(plugin)  # pyright: ignore[reportArgumentType] (a plug-in is a dataclass)
    assert again == plugin, "a rater with the same options is not equal to it"
    _agree(stored(again, batch, corpus=batch), first, "a rater with the same options rates otherwise")
    _agree(stored(plugin, batch, corpus=batch), first, "it rates otherwise the second time")


@_law
def law_pickling_changes_nothing(plugin: Rater | Fit, batch: pa.RecordBatch, _: st.DataObject) -> None:
    try:
        copy = pickle.loads(pickle.dumps(plugin))  # noqa: S301 (its own bytes)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise AssertionError(f"{type(plugin).__qualname__} cannot be sent to a worker: {error}") from error
    assert copy == plugin, "what arrives at a worker is not equal to it"
    _agree(stored(copy, batch, corpus=batch), stored(plugin, batch, corpus=batch), "at a worker, it rates otherwise")


@_law
def law_a_score_is_there_if_and_only_if_its_state_is_ok(
    plugin: Rater | Fit, batch: pa.RecordBatch, _: st.DataObject
) -> None:
    for values, states in _scores_with_states(plugin, batch):
        is_ok = [state == "ok" for state in states.to_pylist()]
        assert values.is_valid().to_pylist() == is_ok, "a score is there where its state is ok, and nowhere else"
    table = stored(plugin, batch, corpus=batch)
    scores = plugin.scores(_NAME)
    assert table.schema.names == ["doc_id", *(column for name in scores for column in (name, tables.state_of(name)))]
    assert table["doc_id"].to_pylist() == batch["doc_id"].to_pylist()
    for score, meaning in scores.items():
        values, states = table[score].combine_chunks(), table[tables.state_of(score)].to_pylist()
        assert set(states) <= set(tables.STATES)
        assert values.is_valid().to_pylist() == [state == "ok" for state in states]
        assert table.schema.field(score).metadata == {b"higher_is": meaning.encode()}
        if pa.types.is_float32(values.type):
            numbers = values.drop_null().to_numpy()
            assert np.isfinite(numbers).all()
            assert not (np.signbit(numbers) & (numbers == 0)).any()
            assert np.array_equal(quantise(numbers), numbers)


@_law
def law_a_batch_without_documents_gives_a_table_without_rows(
    plugin: Rater | Fit, batch: pa.RecordBatch, _: st.DataObject
) -> None:
    assert stored(plugin, batch.slice(0, 0), corpus=batch).num_rows == 0
    assert stored(plugin, batch.slice(0, 0), corpus=batch.slice(0, 0)).num_rows == 0


@_law
def law_a_fit_learns_the_same_however_its_sample_is_cut(
    plugin: Rater | Fit, batch: pa.RecordBatch, data: st.DataObject
) -> None:
    if isinstance(plugin, Fit):
        shard_rows = data.draw(st.integers(1, 8), "in shards of so many rows")
        _agree(learned(plugin, batch, shard_rows), learned(plugin, batch), "it learns otherwise from smaller shards")


@_law
def law_the_same_document_twice_has_the_same_scores(
    plugin: Rater | Fit, batch: pa.RecordBatch, _: st.DataObject
) -> None:
    """Under another id; but where a table says something of documents by their ids, they are not the same."""
    if any("doc_id" in option.columns.types.values() for option in options_of(plugin, TablePath)):
        return
    others = pa.array([(2**127 + i).to_bytes(16) for i in range(batch.num_rows)], tables.DOC_ID)
    again = pa.RecordBatch.from_arrays([others, *batch.columns[1:]], schema=batch.schema)
    assert batch.schema.names[0] == "doc_id"
    twice = pa.concat_batches([batch, again])
    first, second = (stored(plugin, part, corpus=twice).drop_columns("doc_id") for part in (batch, again))
    _agree(second, first, "the same document under another id is rated otherwise")


def law_no_text_is_too_strange_or_too_long_to_rate(plugin: Rater | Fit) -> None:
    batch = _shown(plugin, documents([{"text": text} for text in _WEIRD + _HUGE]))
    assert stored(plugin, batch, corpus=batch).num_rows == batch.num_rows


def law_a_rater_is_a_frozen_keyword_only_dataclass_with_a_summary(plugin: Rater | Fit) -> None:
    cls = type(plugin)
    advice = f"write @dataclass(frozen=True, kw_only=True) above {cls.__qualname__}"
    assert dataclasses.is_dataclass(cls) and all(field.kw_only for field in dataclasses.fields(cls)), advice
    assert getattr(cls, "__dataclass_params__").frozen, advice  # noqa: B009 (no type knows of it)
    assert (cls.__doc__ or "").split("\n")[0].endswith("."), "the first line of its docstring is a sentence"


RATER_LAWS: Sequence[Law[Rater | Fit]] = (
    law_an_answer_has_the_form_that_was_declared,
    law_a_rater_is_a_frozen_keyword_only_dataclass_with_a_summary,
    law_any_split_of_a_batch_gives_the_same_table,
    law_a_document_is_rated_the_same_wherever_it_stands,
    law_a_rater_made_again_with_the_same_options_gives_the_same_table,
    law_pickling_changes_nothing,
    law_a_score_is_there_if_and_only_if_its_state_is_ok,
    law_a_batch_without_documents_gives_a_table_without_rows,
    law_a_fit_learns_the_same_however_its_sample_is_cut,
    law_the_same_document_twice_has_the_same_scores,
    law_no_text_is_too_strange_or_too_long_to_rate,
)
"""The law of form comes first."""
