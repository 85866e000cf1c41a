"""What a selector gets for saying only its keys: quotas, probabilities, reasons, values and cuts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from selector.errors import SelectorError
from selector.exact import Ints, UInt64, descending
from selector.exact.apportion import apportion
from selector.exact.draws import Lottery, Moments
from selector.exact.spend import Overshoot
from selector.select import Budget, Group, Grouped, Keys, Pool, Ranked, Reasons, ScoreName, Selector
from selector.select._check import Checker
from selector.select._weighted import Weighted
from selector.select.importance import Importance
from selector.select.kmeans_quality import KmeansQuality
from selector.select.quality_sampling import QualitySampling
from selector.select.random import Random
from selector.select.top import Top
from selector.testing import EXACT, SCORE, check_selector, documents
from selector.testing._trials import pool_for
from selector.testing.selectors import decide

THREE = Budget(amount=3, unit="documents")
OVERSHOOTS: Sequence[Overshoot] = ("stop", "fill", "cross")


@dataclass(frozen=True, kw_only=True)
class BySource(Ranked):
    """The best of every source by one score; sources with a weight of 0 get nothing, whatever is left."""

    score: ScoreName
    least: int = 0

    @property
    def grouped_by(self) -> str:
        return "source"

    def keys(self, batch: pa.RecordBatch, summary: None, seed: int) -> UInt64:
        return descending(batch[self.score])

    def ceilings(self, groups: Sequence[int | str], sizes: Ints, budget: Budget, summary: None) -> Ints:
        return np.array([0 if name == "code" else 10**9 for name in groups], np.int64)


def scored(scores: list[float | None], **rest: Sequence[Any]) -> pa.Table:
    return documents(
        [{SCORE: score, **{key: values[i] for key, values in rest.items()}} for i, score in enumerate(scores)]
    )


def test_groups_are_called_by_the_values_of_their_column_wherever_those_first_appear() -> None:
    table = scored([3.0, 2.0, 9.0, 1.0], source=["web", "code", "web", "math"])
    decided = decide(BySource(score=ScoreName(SCORE)), table, 1, Budget(amount=4, unit="documents"), 0)
    assert decided["kept"].to_pylist() == [True, False, True, True]
    assert decided["reason"].to_pylist() == [
        "source web: within quota 2 (documents)",
        "source code: beyond quota 1 (documents)",
        "source web: within quota 2 (documents)",
        "source math: within quota 1 (documents)",
    ]
    decisions = BySource(score=ScoreName(SCORE)).select(Pool.of(table), Budget(amount=4, unit="documents"), 0)
    assert decisions.facts["quotas"] == {"code": 1, "math": 1, "web": 2}
    assert decisions.facts["spent"] == {"code": 0, "math": 1, "web": 2}
    assert json.dumps(decisions.facts)


@dataclass(frozen=True, kw_only=True)
class ByKind(BySource):
    """By a column that not every document has a value of."""

    @property
    def grouped_by(self) -> str:
        return "corpus.kind"


@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string())])
def test_documents_without_a_value_of_the_column_are_a_group_too(kind: pa.DataType) -> None:
    table = scored([3.0, 2.0, 9.0, 1.0]).append_column("corpus.kind", pa.array(["b", None, "a", None]).cast(kind))
    decided = decide(ByKind(score=ScoreName(SCORE)), table, 2, Budget(amount=3, unit="documents"), 0)
    assert decided["kept"].to_pylist() == [True, True, True, False]
    decisions = ByKind(score=ScoreName(SCORE)).select(Pool.of(table), Budget(amount=4, unit="documents"), 0)
    assert decisions.facts["spent"] == {"a": 1, "b": 1, "None": 2}

    groups: list[int] = []

    def work(group: pa.RecordBatch) -> pa.RecordBatch:
        groups.append(group.num_rows)
        return pa.record_batch({"size": pa.array([group.num_rows] * group.num_rows, pa.int64())})

    pool = Pool.of(table).exchange("corpus.kind", work, returns=pa.schema([("size", pa.int64())]))
    assert pool.table("size")["size"].to_pylist() == [1, 2, 1, 2] and sorted(groups) == [1, 1, 2]


def test_the_value_of_a_document_is_what_was_compared_and_the_cut_that_of_the_first_left_out() -> None:
    decided = decide(Top(score=ScoreName(SCORE)), scored([1.0, 5.0, None, 4.0, 2.0]), 2, THREE, 0)
    assert decided["value"].to_pylist() == [1.0, 5.0, None, 4.0, 2.0]
    assert decided["cut"].to_pylist() == [1.0] * 5 and decided["rank"].null_count == 5
    everything = decide(Top(score=ScoreName(SCORE)), scored([1.0, None]), 2, THREE, 0)
    assert everything["cut"].to_pylist() == [None, None], "nothing was left out"


def test_where_only_chance_decides_there_is_no_value() -> None:
    decided = decide(Random(), scored([1.0, 2.0, 3.0, 4.0]), 2, THREE, 0)
    assert decided["value"].null_count == 4 and decided["cut"].null_count == 4


def test_the_value_of_a_draw_is_the_score_with_its_noise_so_it_explains_what_was_drawn() -> None:
    table = scored([float(i * 37 % 101) for i in range(60)], cluster=[i % 3 for i in range(60)])
    decided = decide(KmeansQuality(score=ScoreName(SCORE)), table, 7, Budget(amount=20, unit="documents"), 1)
    kept, value, cut = (decided[name].to_numpy() for name in ("kept", "value", "cut"))
    assert (value[kept] > cut[kept]).all() and (value[~kept] <= cut[~kept]).all()


def test_a_score_that_is_a_whole_number_is_compared_exactly() -> None:
    table = documents([{EXACT: 2**60 + i} for i in (2, 0, 3, 1)])
    decided = decide(Top(score=ScoreName(EXACT)), table, 2, Budget(amount=2, unit="documents"), 0)
    assert decided["kept"].to_pylist() == [True, False, True, False]


@pytest.mark.slow
def test_kmeans_quality_without_noise_keeps_every_law() -> None:
    check_selector("kmeans_quality", examples=6, temperature=0.0)


def test_what_is_given_changes_nothing_for_a_selector_that_ranks() -> None:
    table = scored([float(i % 7) for i in range(30)], cluster=[i % 3 for i in range(30)])
    waiting, chosen = table.slice(5), table.slice(0, 5)
    for selector in (Random(), Top(score=ScoreName(SCORE)), KmeansQuality(score=ScoreName(SCORE))):
        answers: list[pa.Table] = []
        for given in (None, chosen):
            pool = pool_for(selector, waiting, 7, given)
            decisions = selector.select(pool, THREE, 1)
            answers.append(
                pa.Table.from_batches([decisions.decide(batch) for batch in pool.batches(*decisions.columns)])
            )
        assert answers[0].equals(answers[1]) and answers[0].num_rows == 25


@pytest.mark.parametrize("selector", [Random(), Top(score=ScoreName(SCORE)), KmeansQuality(score=ScoreName(SCORE))])
@pytest.mark.parametrize("overshoot", OVERSHOOTS)
def test_a_document_of_no_tokens_costs_one(selector: Selector, overshoot: Overshoot) -> None:
    empty, full = [0] * 60, [20] * 60
    table = scored([float(i % 17) for i in range(120)], cluster=[0] * 60 + [1] * 60, num_tokens=[*empty, *full])
    amount = sum(full) // 10 + len(empty) // 10
    decided = decide(selector, table, 7, Budget(amount=amount, unit="tokens", overshoot=overshoot), 1)
    kept = np.flatnonzero(decided["kept"].to_numpy())
    cost = int((kept < 60).sum() + 20 * (kept >= 60).sum())
    assert amount - 20 < cost < amount + 20 and (cost <= amount or overshoot == "cross")
    is_known = decided["inclusion_probability"].null_count == 0
    assert is_known == isinstance(selector, Top), "documents' own lengths decide too, and they are few"
    if isinstance(selector, KmeansQuality):
        assert abs((kept < 60).sum() - 6) <= 20, "a cluster of such documents has its share as every other"


def test_a_group_of_no_tokens_has_its_quota_as_every_other() -> None:
    table = scored([1.0, 2.0, 3.0], cluster=[0, 0, 1], num_tokens=[10, 10, 0])
    selector = KmeansQuality(score=ScoreName(SCORE), temperature=0)
    decided = decide(selector, table, 2, Budget(amount=11, unit="tokens"), 1)
    assert decided["kept"].to_pylist() == [False, True, True]
    assert decided["reason"].to_pylist()[2] == "cluster 1: within quota 1 (tokens)"


@dataclass(frozen=True, kw_only=True)
class Weighed(Ranked):
    """The best of every source, as much of each as these weights say."""

    score: ScoreName
    code: float

    @property
    def grouped_by(self) -> str:
        return "source"

    def keys(self, batch: pa.RecordBatch, summary: None, seed: int) -> UInt64:
        return descending(batch[self.score])

    def quotas(self, groups: Sequence[int | str], sizes: Ints, budget: Budget, summary: None) -> Ints:
        return apportion(budget.amount, [self.code if name == "code" else 1.0 for name in groups], sizes)


@pytest.mark.parametrize("overshoot", OVERSHOOTS)
def test_a_group_of_weight_0_gets_nothing_of_what_others_leave(overshoot: Overshoot) -> None:
    is_code = np.arange(60) % 3 > 0
    sources = np.where(is_code, "code", "web").tolist()
    table = scored([float(i) for i in range(60)], source=sources, num_tokens=[7] * 60)
    for amount in (5, 50, 139, 140, 150, 300):
        budget = Budget(amount=amount, unit="tokens", overshoot=overshoot)
        nothing, little = (
            decide(Weighed(score=ScoreName(SCORE), code=code), table, 9, budget, 1)["kept"].to_numpy()
            for code in (0.0, 1e-9)
        )
        assert not (nothing & is_code).any() and 7 * nothing.sum() <= 140
        selector = Weighed(score=ScoreName(SCORE), code=0.0)
        pool, checker = pool_for(selector, table, 9), Checker("weighed", selector, budget)
        decisions = checker.select(pool, 1)
        for one in checker.shards(decisions, pool):
            batch = checker.read(decisions, *one)
            checker.add(checker.totals_of(batch, checker.verdict(decisions, batch)))
        assert checker.end() == 7 * nothing.sum(), "and it is no fault that less is spent"
        assert abs(7 * little.sum() - amount) < 7, "what is left serves a group whose quota was only rounded to 0"


def test_keys_of_a_wrong_shape_are_blamed_on_the_method() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Signed(Ranked):
        def keys(self, batch: pa.RecordBatch, summary: None, seed: int) -> Any:
            return np.zeros(batch.num_rows, np.int64)

    with pytest.raises(
        SelectorError, match=r"Signed\.keys answered with int64\[3\] for 3 documents.* a uint64 for each"
    ):
        Signed().select(Pool.of(scored([1.0, 2.0, 3.0])), THREE, 0)


def test_a_template_is_filled_from_the_group_and_from_what_it_is_given() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Told(Random):
        def reasons(self, group: Group) -> Reasons:
            return Reasons(kept=("{who} has {spent} of {total} {unit}", {"who": "it"}), left_out="worth {value}: no")

    decisions = Told().select(Pool.of(scored([1.0, 2.0])), Budget(amount=1, unit="documents"), 0)
    said = pa.Table.from_batches(
        [decisions.decide(batch) for batch in Pool.of(scored([1.0, 2.0])).batches("doc_id", "num_tokens")]
    )
    pairs = dict(zip(said["reason"].to_pylist(), said["arguments"].to_pylist(), strict=True))
    assert pairs == {
        "{who} has {spent} of {total} {unit}": '{"spent": 1, "total": 2, "unit": "documents", "who": "it"}',
        "worth {value}: no": None,
    }, "the reader of a decision knows its value"


@dataclass(frozen=True, kw_only=True)
class OneOfEachScore(Grouped):
    """Of the documents of a cluster that share a score only the one with the lowest id."""

    fills_budget = False
    score: ScoreName

    def group_keys(self, group: pa.RecordBatch, given: pa.RecordBatch, seed: int) -> Keys:
        scores, ids = group[self.score].to_pylist(), group["doc_id"].to_pylist()
        assert ids == sorted(ids)
        first = [scores.index(score) for score in scores]
        never = np.array(first) != np.arange(len(ids))
        others = pa.array([ids[i] for i in first], pa.binary(16), mask=~never)
        return Keys(keys=descending(group[self.score]), never=never, values=np.array(scores), others=others)

    def reasons(self, group: Group) -> Reasons:
        return Reasons(kept="cluster {group}: {spent} of {total}", left_out="left out", never="a repetition")


def test_a_group_is_seen_whole_and_each_verdict_names_the_document_that_decided_it() -> None:
    table = scored([2.0, 1.0, 2.0, 2.0, 3.0, 2.0], cluster=[0, 0, 0, 1, 1, 0])
    selector = OneOfEachScore(score=ScoreName(SCORE))
    decided = decide(selector, table, 2, Budget(amount=6, unit="documents"), 0)
    assert decided["kept"].to_pylist() == [True, True, False, True, True, False]
    ids = table["doc_id"].to_pylist()
    assert decided["other"].to_pylist() == [None, None, ids[0], None, None, ids[0]]
    assert decided["reason"].to_pylist()[:3] == ["cluster 0: 2 of 2", "cluster 0: 2 of 2", "a repetition"]
    assert decided["inclusion_probability"].to_pylist() == [1, 1, 0, 1, 1, 0]
    few = decide(selector, table, 2, Budget(amount=2, unit="documents"), 0)
    assert few["kept"].to_pylist() == [True, False, False, False, True, False]
    assert few["cut"].to_pylist() == [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("cls", [KmeansQuality, QualitySampling, Importance])
def test_keys_and_values_that_are_worked_out_together_are_those_that_are_asked_for_apart(
    cls: type[Weighted], temperature: float
) -> None:
    table = scored([0.5, 3.0, None, -1.0, 3.0], cluster=[0, 1, 1, 0, 0])
    selector = cls(score=ScoreName(SCORE), temperature=temperature)
    pool = pool_for(selector, table, 2)
    summary = selector.summary(pool, 7)
    for batch in pool.batches("doc_id", SCORE):
        keys, values = selector.keys_and_values(batch, summary, 7)
        assert keys.tolist() == selector.keys(batch, summary, 7).tolist()
        assert np.array_equal(values, selector.values(batch, summary, 7), equal_nan=True)


def test_moments_of_shards_add_up_and_those_of_no_scores_draw_nothing_apart() -> None:
    scores = np.array([1e16, 1.0, np.nan, -1e16, 3.0])
    whole = Moments.of(scores)
    cut = Moments.of(scores[:2]) + Moments.of(scores[2:])
    assert Lottery.of(whole, 2.0) == Lottery.of(cut, 2.0) and whole.count == cut.count == 4
    assert Lottery.of(Moments.of(np.empty(0)), 1.0).deviation == 1.0
