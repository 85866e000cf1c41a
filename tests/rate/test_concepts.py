"""Skills, prerequisites and what a learner knows of them: the worked cases."""

import functools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse

from selector import plugins, tables
from selector.errors import PolicyError
from selector.plugins import Pool
from selector.rate import Fit, Rater
from selector.rate._answer import ratings_table
from selector.rate._concepts import Concepts, depths, documents_with_both, prerequisites, vocabulary_of
from selector.rate._fitted import learned, rater_of
from selector.testing._trials import made_for


def rated(name: str, options: dict[str, Any], columns: dict[str, Any], **attached: pa.Table) -> dict[str, list[Any]]:
    """Every score and state of documents with these columns."""
    maker = plugins.make("raters", name, options | dict.fromkeys(attached, "a.jsonl"), "rate.0", Rater, Fit)
    maker = plugins.replaced(maker, {name: getattr(maker, name).attached(table) for name, table in attached.items()})
    count = len(next(iter(columns.values())))
    documents = pa.table({"doc_id": pa.array([i.to_bytes(16) for i in range(count)], tables.DOC_ID), **columns})
    declared = maker if isinstance(maker, Fit) else None
    rater = maker if isinstance(maker, Rater) else rater_of("it", maker, learned("it", maker, Pool.of(documents), 7))
    rater.prepare()
    (batch,) = made_for(maker, documents).combine_chunks().to_batches()
    return ratings_table(rater, "it", batch, declared).drop_columns("doc_id").to_pydict()


LISTS = pa.list_(pa.string())


@pytest.mark.parametrize(
    ("values", "counts", "states"),
    [
        (pa.array([["Ratio", "ratio", "area"], [], None], LISTS), [2, 0, None], "ok ok missing"),
        (pa.array(['["Ratio", " ratio ", "area"]', "[]", None]), [2, 0, None], "ok ok missing"),
        (pa.array(["Ratio", " ", '["a"', "[[1]]", "[1, 2]"]), [1, None, None, None, 2], "ok missing failed failed ok"),
        (pa.array([3, None]), [1, None], "ok missing"),
        (pa.array(["STRASSE", '["Stra\u00dfe", "strasse"]']), [1, 1], "ok ok"),
    ],
)
def test_r13_skills_are_counted_once_whatever_their_case(values: pa.Array, counts: list[Any], states: str) -> None:
    scores = rated("skills", {}, {"corpus.skills": values})
    assert scores == {"it": counts, "it.state": states.split()}


# ---------------------------------------------------------------- R10: prerequisites


def r10() -> pa.Array:
    """Lists of concepts with the counts of the worked case: a 60, b 20, c 5; ab 18, bc 4, ac 5."""
    lists = [["a", "b", "c"]] * 4 + [["a", "c"]] + [["a", "b"]] * 14 + [["b"]] * 2 + [["a"]] * 41
    return pa.array(lists, LISTS)


def test_r10_prerequisites_and_depths_from_documents_that_have_both() -> None:
    concepts = Concepts.listed(r10())
    pool = Pool.of(pa.table({"corpus.concepts": r10()}), 7)
    together = documents_with_both(pool, functools.partial(_listed), ["a", "b", "c"], "corpus.concepts")
    assert together.diagonal().tolist() == [60, 20, 5]
    assert [together[0, 1], together[1, 2], together[0, 2]] == [18, 4, 5]
    pairs = prerequisites(together, 0.3, 0.6)
    assert pairs == [(0, 1), (0, 2), (1, 2)] and depths(3, pairs).tolist() == [0, 1, 2]
    assert concepts.counts.tolist()[:5] == [3, 3, 3, 3, 2]


def _listed(batch: pa.RecordBatch) -> Concepts:
    return Concepts.listed(batch["corpus.concepts"])


def test_r10_a_document_is_as_hard_as_its_deepest_concept() -> None:
    scores = rated("prerequisite_depth", {"by": "corpus.concepts"}, {"corpus.concepts": r10()})
    assert scores["it"] == [2] * 5 + [1] * 16 + [0] * 41
    assert scores["it_concept"] == ["c"] * 5 + ["b"] * 16 + ["a"] * 41


def test_concepts_of_a_circle_have_one_depth_and_count_once() -> None:
    assert depths(6, [(0, 1), (1, 2), (2, 1), (2, 3), (0, 3), (5, 5)]).tolist() == [0, 1, 1, 2, 0, 0]
    assert depths(0, []).tolist() == []


def test_a_graph_that_is_given_is_not_estimated() -> None:
    graph = pa.table({"before": ["Sets", "Groups", "rings", "fields"], "after": ["groups", "rings", "fields", "rings"]})
    lists = pa.array(['["Fields"]', '["sets", "groups"]', '["cooking"]', "[]", None, "[[]]"])
    scores = rated("prerequisite_depth", {"by": "corpus.topics"}, {"corpus.topics": lists}, graph=graph)
    assert scores["it"] == [2, 1, 0, None, None, None]
    assert scores["it_concept"] == ["fields", "groups", "cooking", None, None, None]
    assert scores["it.state"] == ["ok"] * 3 + ["not_applicable", "missing", "failed"]


def test_keyphrases_stand_on_what_their_documents_mention() -> None:
    filler = ["we met on monday and had a long talk of many things " + "xyz"[i % 3] * (i % 7 + 1) for i in range(300)]
    basics = ["the ring has an identity element"] * 30
    advanced = ["a noetherian ring is a ring whose ideals are finitely generated"] * 8
    texts = [*advanced, *basics, *filler]
    vocabulary = vocabulary_of(Pool.of(pa.table({"text": texts}), 50), 5, 0.2, 1000)
    assert "ring" in vocabulary and "identity element" in vocabulary
    assert "identity" not in vocabulary, "it is met with 'element' only"
    assert "monday" not in vocabulary, "nearly all have it"
    scores = rated("prerequisite_depth", {}, {"text": texts})
    assert set(scores["it"][:8]) == {1} and set(scores["it"][8:38]) == {0}
    with pytest.raises(PolicyError, match=r"margin=0 is above 0"):
        plugins.make("raters", "prerequisite_depth", {"margin": 0.0}, "rate.0", Fit)


def test_no_pair_comes_from_concepts_that_are_never_met() -> None:
    assert prerequisites(scipy.sparse.csr_matrix((3, 3), dtype=np.int64), 0.3, 0.6) == []


# ---------------------------------------------------------------- R9: PSI-KT


def learner(**rows: dict[str, float]) -> pa.Table:
    traits = {"elapsed": 0.0, "level": 0.2, "transfer": 0.5, "decay": 0.25, "volatility": 0.4}
    return pa.Table.from_pylist([{"concept": name, **traits, **row} for name, row in rows.items()])


def test_r9_what_a_learner_knows_of_a_concept_now() -> None:
    table = learner(k={"state": 0.9, "elapsed": 4.0}, i={"state": 0.8}, j={"state": -0.4}, l={"state": 0.3})
    graph = pa.table({"before": ["i", "J", "l"], "after": ["k", "k", "K"], "strength": [1.0, 0.5, 0.0]})
    lists = pa.array(['["k"]', '["K", "i"]', '["j", "k"]', '["unknown"]', "[]", None, "["])
    scores = rated("knowledge_tracing", {}, {"corpus.concepts": lists}, learner=table, graph=graph)
    chance = [1 / (1 + np.exp(-state)) for state in (0.520727665, 0.520727665, -0.4)]
    assert scores["it"] == [*(pytest.approx(value, abs=1e-6) for value in chance), None, None, None, None]
    assert chance[0] == pytest.approx(0.627317903, abs=1e-9)
    assert scores["it_deviation"][0] ** 2 == pytest.approx(0.276692709, abs=1e-6)
    assert scores["it_deviation"][2] == 0
    assert scores["it.state"] == ["ok"] * 3 + ["not_applicable"] * 2 + ["missing", "failed"]


def test_what_never_decays_stays_and_what_cannot_be_has_failed() -> None:
    table = learner(
        a={"state": 1.0, "elapsed": 9.0, "decay": 0.0}, b={"state": 1.0, "decay": -1.0}, c={"state": float("inf")}
    )
    lists = pa.array(["a", "b", "c", '["a", "b"]'])
    scores = rated("knowledge_tracing", {}, {"corpus.concepts": lists}, learner=table)
    assert scores["it"] == [pytest.approx(1 / (1 + np.exp(-1)), abs=1e-6), None, None, None]
    assert scores["it_deviation"][0] == pytest.approx(0.4 * 3, abs=1e-6)
    assert scores["it.state"] == ["ok", "failed", "failed", "failed"]
