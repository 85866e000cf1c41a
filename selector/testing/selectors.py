"""The laws that every selector keeps. Put yours before them in a test of your own: `check_selector("mine:Best")`.

A selector is tried on documents that are made up, with every combination of its documented choices and with shards of
every size. What it decides is checked as it is in a run: an answer that breaks the form is put on the selector by name.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from hypothesis import strategies as st

from selector import tables
from selector.exact import pieces, spend
from selector.exact.spend import Budget
from selector.manifest.describe import sentence
from selector.plugins import Pool
from selector.plugins.options import columns_of
from selector.select import Checker, Group, Ranked, Selector
from selector.steps.constraints import Bound, Limits, constrained
from selector.testing._law import EXAMPLES, Law, Values, asserting, check, law
from selector.testing._trials import (
    BOUNDS,
    BUDGETS,
    EXACT,
    MOVES,
    SCORE,
    SEEDS,
    SPLITS,
    TABLES,
    TOPIC,
    documents,
    generators_at,
    permutation,
    pickled_copy,
    pool_for,
    remote,
    variants,
)


def check_selector(
    name: str, *, examples: int = EXAMPLES, corpus: Mapping[str, Values] | None = None, **given: Any
) -> None:
    """Every law, for every variant of the selector of this name, which is anything that a policy may say.

    `given` are values for options that cannot be made up, `corpus` what columns of the corpus may hold.
    """
    check(SELECTOR_LAWS, variants("selectors", name, **given), examples, corpus)


_INCLUDED = "tried.included"
"""The column that says which documents are included."""


# ---------------------------------------------------------------- the laws


@law(TABLES, BUDGETS, SEEDS, SPLITS)
def law_every_document_has_a_verdict(selector: Selector, table: pa.Table, budget: Budget, seed: int, rows: int) -> None:
    """In the form of `tables.VERDICTS`, on the documents of the pool and no others."""
    decide(selector, table, rows, budget, seed)


@law(TABLES, BUDGETS, SEEDS)
def law_the_budget_is_kept_and_spent(selector: Selector, table: pa.Table, budget: Budget, seed: int) -> None:
    """Spent as far as it can be; less only where `fills_budget` is False, and then not for the reason of the budget."""
    pool = pool_for(selector, table, 16)
    checker, pairs = _verdicts(selector, pool, budget, seed)
    with asserting("the budget is not kept"):
        checker.end()
    never = _never(selector, budget)
    if never:
        full = Checker("tried", selector, budget)
        full.fills_budget = True
        for batch, verdict in pairs:
            may = pa.array(~np.isin(np.array(verdict["reason"].to_pylist(), object), list(never)))
            full.add(full.totals_of(batch.filter(may), verdict.filter(may)))
        with asserting("it ends early, and the budget is the reason that it gives"):
            full.end()


@law(TABLES, BUDGETS, SEEDS, SPLITS)
def law_the_answer_does_not_depend_on_how_the_pool_is_cut(
    selector: Selector, table: pa.Table, budget: Budget, seed: int, rows: int
) -> None:
    whole = decide(selector, table, 41, budget, seed)
    assert decide(selector, table, rows, budget, seed).equals(whole), "the selector looks at the borders of shards"
    pool = pool_for(selector, table, 41)
    decisions = selector.select(pool, budget, seed)
    slices = [
        decisions.decide(batch.slice(start, rows))
        for batch in (decisions.pool or pool).batches(*decisions.columns)
        for start in range(0, batch.num_rows, rows)
    ]
    assert _readable(slices).equals(whole), "the verdict looks at the other documents of its batch"


@law(TABLES, BUDGETS, SEEDS, MOVES)
def law_the_answer_does_not_depend_on_where_the_documents_stand(
    selector: Selector, table: pa.Table, budget: Budget, seed: int, move: int
) -> None:
    places = pa.array(permutation(table, move), pa.int64())
    before, after = (decide(selector, some, 41, budget, seed) for some in (table, table.take(places)))
    assert after.equals(before.take(places).combine_chunks()), "the selector looks at places"


@law(TABLES, BUDGETS, SEEDS)
def law_the_answer_does_not_depend_on_memory(selector: Selector, table: pa.Table, budget: Budget, seed: int) -> None:
    before = decide(selector, table, 16, budget, seed)
    with little_memory(), asserting("it needs more memory"):
        after = decide(selector, table, 16, budget, seed)
    assert after.equals(before), "a pool that does not fit in memory is answered otherwise"


@law(TABLES, BUDGETS, SEEDS)
def law_the_answer_depends_on_the_seed_and_on_no_other_chance(
    selector: Selector, table: pa.Table, budget: Budget, seed: int
) -> None:
    answers: list[pa.Table] = []
    for number in (1, 2):
        with generators_at(number):
            answers.append(decide(selector, table, 16, budget, seed))
    assert answers[0].equals(answers[1]), "draw with selector.exact.keyed"


@law(TABLES, BUDGETS, SEEDS)
def law_the_selector_and_its_work_can_be_sent_to_a_worker(
    selector: Selector, table: pa.Table, budget: Budget, seed: int
) -> None:
    here = decide(selector, table, 16, budget, seed)
    with asserting("the selector or its work cannot be sent to a worker"):
        far, copy = remote(pool_for(selector, table, 16)), pickled_copy(selector)
        decisions = copy.select(far, budget, seed)
        work = pickled_copy(decisions.decide)
        sent_back = [work(batch) for batch in (decisions.pool or far).batches(*decisions.columns)]
    assert _readable(sent_back).equals(here), "the selector remembers what is lost on the way to a worker"


@law(TABLES, BUDGETS, SEEDS)
def law_only_columns_that_are_named_are_read(selector: Selector, table: pa.Table, budget: Budget, seed: int) -> None:
    """doc_id, num_tokens, what `needs` and the options name, and the columns of its attached tables."""
    whole = decide(selector, table, 16, budget, seed)
    with asserting("it reads a column that neither `needs` nor an option names"):
        _, pairs = _verdicts(selector, pool_for(selector, table, 16, is_strict=True), budget, seed)
    assert _readable([verdict for _, verdict in pairs]).equals(whole), (
        "it answers otherwise where more columns are there"
    )


@law(TABLES, BUDGETS, SEEDS)
def law_inclusion_probabilities_add_up_to_what_is_spent(
    selector: Selector, table: pa.Table, budget: Budget, seed: int
) -> None:
    """Or there are none: a method that defines no probability says null for every document."""
    decided = decide(selector, table, 16, budget, seed)
    if decided["inclusion_probability"].null_count == table.num_rows:
        return
    kept, chances = (decided[name].to_numpy() for name in ("kept", "inclusion_probability"))
    chances = chances.astype(np.float64)
    assert not np.isnan(chances).any(), "a selector has a probability for every document or for none"
    sizes = _sizes(budget, table)
    assert (chances[kept] > 0).all(), "what was kept had a chance"
    np.testing.assert_allclose((sizes * chances).sum(), sizes[kept].sum(), rtol=1e-5)


def law_a_reason_is_a_short_sentence_shared_by_many(selector: Selector) -> None:
    """At most three for each group of the data: what was kept, what was left out, and why else."""
    rows: list[dict[str, Any]] = [
        {
            "doc_id": (977 * i).to_bytes(16),
            "cluster": i % 5,
            "source": ("web", "code", "math")[i % 3],
            SCORE: float(i * 37 % 101),
            EXACT: i * 41 % 103,
            TOPIC: ("art", "law")[i % 2],
        }
        for i in range(900)
    ]
    for budget in (Budget(amount=100, unit="documents"), Budget(amount=1234, unit="tokens", overshoot="fill")):
        reasons = decide(selector, documents(rows), 100, budget, 1)["reason"].unique().to_pylist()
        assert len(reasons) <= 3 * 5 * 3 * 2, "a reason is shared by documents, not made for each"
        assert all(0 < len(reason) <= 120 and "\n" not in reason for reason in reasons), "a reason is a short sentence"


@law(TABLES, BUDGETS, SEEDS, st.integers(0, 20), MOVES)
def law_documents_that_are_given_are_context_and_never_decided(
    selector: Selector, table: pa.Table, budget: Budget, seed: int, some: int, move: int
) -> None:
    """They are not in the pool, spend nothing of the budget, and stand in no order."""
    chosen, waiting = table.slice(0, some), table.slice(some)
    other = chosen.take(pa.array(permutation(chosen, move), pa.int64()))
    is_kept = _keeps_its_budget(selector, waiting, budget, seed)
    with asserting("what is given is decided"):
        answers = [
            _verdicts(selector, pool_for(selector, waiting, 16, given=known), budget, seed) for known in (chosen, other)
        ]
    if is_kept:
        with asserting("what is given is paid for"):
            answers[0][0].end()
    first, second = (_readable([verdict for _, verdict in pairs]) for _, pairs in answers)
    assert first.equals(second), "the selector looks at places in what is given"
    if not selector.looks_at_given:
        alone = decide(selector, waiting, 16, budget, seed)
        assert first.equals(alone), "`looks_at_given` says that it does not, and what is given makes a difference"


@law(TABLES, BUDGETS, SEEDS, BOUNDS)
def law_limits_of_the_policy_hold(
    selector: Selector, table: pa.Table, budget: Budget, seed: int, bounds: tuple[int, int, int | None, int]
) -> None:
    """Shares of the sources, visits and included documents, which the selector knows nothing of; where none binds, the
    answer is its own."""
    least, most, visits, num_included = bounds
    by_source = {"web": Bound(least=budget.amount * least // 4), "code": Bound(most=budget.amount * most // 4)}
    included = pa.array(np.arange(table.num_rows) < num_included)
    given = table.append_column(_INCLUDED, included)
    costs, sources = _sizes(budget, table), np.array(table["source"].to_pylist(), object)
    is_included = included.to_numpy(zero_copy_only=False)
    paid = costs[is_included].sum() <= budget.amount
    if not (paid and costs[is_included & (sources == "code")].sum() <= by_source["code"].most):
        return  # a run says so
    alone = decide(selector, table, 16, budget, seed)
    if not _keeps_its_budget(selector, table, budget, seed):
        return  # another law says so
    with asserting("limits do not hold"):
        limits = Limits(by="source", bounds=by_source, visits=visits, included=_INCLUDED)
        decided = _within(selector, given, 16, budget, seed, limits)
        kept = decided["kept"].to_numpy()
        spent = costs * decided["visits"].to_numpy() * kept
        assert kept[is_included].all(), "what is included is kept"
        assert spent[sources == "code"].sum() <= by_source["code"].most, "most is a ceiling"
        over = spent.sum() - budget.amount
        assert over <= 0 or (budget.overshoot == "cross" and over < costs[kept].max()), "the budget is kept"
        assert visits is None or decided["visits"].to_numpy()[kept].max(initial=0) <= visits, "visits are limited"
        if selector.fills_budget and budget.unit == "documents":
            enough = min(by_source["web"].least, int((sources == "web").sum()))
            assert spent[sources == "web"].sum() >= min(enough, budget.amount - costs[is_included].sum()), "least holds"
        loose = _within(selector, table, 16, budget, seed, Limits(by="source", bounds={"web": Bound()}))
        assert loose.equals(alone), "a limit that does not bind makes a difference"


SELECTOR_LAWS: Sequence[Law[Selector]] = [
    law_every_document_has_a_verdict,
    law_the_budget_is_kept_and_spent,
    law_the_answer_does_not_depend_on_how_the_pool_is_cut,
    law_the_answer_does_not_depend_on_where_the_documents_stand,
    law_the_answer_does_not_depend_on_memory,
    law_the_answer_depends_on_the_seed_and_on_no_other_chance,
    law_the_selector_and_its_work_can_be_sent_to_a_worker,
    law_only_columns_that_are_named_are_read,
    law_inclusion_probabilities_add_up_to_what_is_spent,
    law_a_reason_is_a_short_sentence_shared_by_many,
    law_documents_that_are_given_are_context_and_never_decided,
    law_limits_of_the_policy_hold,
]
"""The law of form comes first."""


# ---------------------------------------------------------------- what selectors are tried on


def decide(selector: Selector, table: pa.Table, shard_rows: int, budget: Budget, seed: int) -> pa.Table:
    """What a selector says of every document: `tables.VERDICTS`, each `reason` the sentence that people read."""
    _, pairs = _verdicts(selector, pool_for(selector, table, shard_rows), budget, seed)
    return _readable([verdict for _, verdict in pairs])


def _within(
    selector: Selector, table: pa.Table, shard_rows: int, budget: Budget, seed: int, limits: Limits
) -> pa.Table:
    """What is said of every document within limits, as `decide`."""
    pool = pool_for(selector, table, shard_rows)
    answer = constrained("tried", selector, pool, columns_of(selector), budget, seed, limits).decisions
    assert answer.pool is not None
    return _readable(answer.decide(batch) for batch in answer.pool.batches(*answer.columns))


@contextmanager
def little_memory() -> Generator[None]:
    """As if only a few documents fitted in memory, and fewer in a core's own cache."""
    with patch.object(spend, "LIMIT", 9), patch.object(spend, "BINS", 1 << 12), patch.object(pieces, "PIECE", 5):
        yield


def _verdicts(
    selector: Selector, pool: Pool, budget: Budget, seed: int
) -> tuple[Checker, list[tuple[pa.RecordBatch, pa.RecordBatch]]]:
    """Every shard with the verdicts on its documents, checked in all but the budget. Raises SelectorError."""
    checker = Checker("tried", selector, budget)
    decisions = checker.select(pool, seed)
    pairs: list[tuple[pa.RecordBatch, pa.RecordBatch]] = []
    for shards in checker.shards(decisions, pool):
        batch = checker.read(decisions, *shards)
        verdict = checker.verdict(decisions, batch)
        checker.add(checker.totals_of(batch, verdict))
        pairs.append((batch, verdict))
    return checker, pairs


def _keeps_its_budget(selector: Selector, table: pa.Table, budget: Budget, seed: int) -> bool:
    checker, _ = _verdicts(selector, pool_for(selector, table, 16), budget, seed)
    try:
        checker.end()
    except Exception:  # a plug-in may raise anything
        return False
    return True


def _readable(verdicts: Iterable[pa.RecordBatch]) -> pa.Table:
    table = pa.Table.from_batches(list(verdicts), schema=tables.VERDICTS)
    pairs = zip(table["reason"].to_pylist(), table["arguments"].to_pylist(), strict=True)
    sentences = pa.array([sentence(*pair) for pair in pairs], pa.string())
    places = [table.schema.get_field_index(name) for name in ("reason", "arguments")]
    return table.set_column(places[0], "reason", sentences).remove_column(places[1]).combine_chunks()


def _sizes(budget: Budget, table: pa.Table) -> npt.NDArray[np.int64]:
    batches = table.combine_chunks().to_batches()
    return budget.sizes(batches[0]) if batches else np.empty(0, np.int64)


def _never(selector: Selector, budget: Budget) -> set[str]:
    """The templates of the reason for documents that a ranking selector would never take, whatever is left."""
    if not isinstance(selector, Ranked):
        return set()
    never = selector.reasons(Group(group=0, quota=0, spent=0, total=0, unit=budget.unit)).never
    return set() if never is None else {never if isinstance(never, str) else never[0]}
