"""A run whose scores come from tables that others wrote, from neighbours, and from a target."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import write_jsonl
from runs import corpus_rows, policy_of, run, uncached, write_corpus
from selector import tables
from selector.cli.report import as_json, print_manifest
from selector.exact import keyed
from selector.manifest.describe import undone

pytestmark = pytest.mark.slow


def test_a_run_reads_what_training_and_learners_say_and_where_documents_lie(
    tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    texts = [row["text"] for row in [*corpus_rows(0, 78), *corpus_rows(80, 112)]]
    doc_ids = pa.array([keyed.digest(text.encode()) for text in texts], tables.DOC_ID)
    feedback, rollouts, responses = (str(tmp_path / f"{name}.parquet") for name in ("fed", "tried", "right"))
    target = str(write_jsonl(tmp_path / "target.jsonl", [{"text": text} for text in texts[:5]]))
    rng = np.random.default_rng(0)
    tried = rng.integers(1, 9, size=110)
    pq.write_table(pa.table({"doc_id": doc_ids, "n": tried, "successes": rng.integers(0, tried + 1)}), rollouts)
    is_right = pa.array(rng.uniform(size=110) < 0.5)
    by_learners = {"doc_id": doc_ids, "learner": [str(i % 7) for i in range(110)], "correct": is_right}
    pq.write_table(pa.table(by_learners), responses)
    names = ("training_loss", "cartography", "early_learning", "forgetting", "learned_epoch")
    raters: list[Any] = [{name: {"feedback": feedback}} for name in names]
    raters += ["density", {"importance_weight": {"target": target}}, {"pass_rate": {"rollouts": rollouts}}]
    raters += [{"item_response": {"responses": responses}}]
    policy = policy_of(
        corpus,
        tiny_model,
        corpus={"paths": [str(corpus)], "rows_per_part": 200},
        rate=raters,
        select={"budget": {"fraction": 1.0}, "using": "random", "missing": "last"},
        order={"using": {"by_score": {"score": "training_loss"}}},
        manifest={"difficulty": "pass_rate", "quality": "density"},
    )
    before = run(policy, tmp_path / "runs")
    assert "fit/item_response" in uncached(before) and "neighbours" in uncached(before)
    line = "score training_loss: none of 110 documents have it (110 missing: what the rater reads has nothing of them"
    assert any(line in warning for warning in caplog.messages), "it is said as soon as it is known"
    assert any(line in warning for warning in undone(before.manifest.header))
    covered = as_json(before)["scores"]
    assert covered["training_loss"] == {"documents": 110, "scored": 0, "without": {"missing": 110}}
    assert covered["density"] == {"documents": 110, "scored": 110}
    print_manifest(before.manifest)

    losses = rng.uniform(0, 3, size=110)
    reported = pa.table({"doc_id": doc_ids, "round": [1] * 110, "score": losses})
    pq.write_table(reported, feedback)
    after = run(policy, tmp_path / "runs")
    assert {f"rate/{name}" for name in names} <= set(uncached(after)), "what reads the feedback is rated again"
    assert not any(line.startswith("score training_loss") for line in undone(after.manifest.header))
    assert not {"rate/density", "rate/pass_rate", "fit/item_response"} & set(uncached(after))
    visits = after.manifest.rows(0, 110)
    loss_of = dict(zip(doc_ids.to_pylist(), losses.tolist(), strict=True))
    along = [loss_of[doc_id] for doc_id in visits["doc_id"].to_pylist()]
    assert along == pytest.approx(sorted(losses), abs=1e-4), "easy to hard, by the loss that training reported"
    assert visits["difficulty"].null_count == 0 and visits["quality"].null_count == 0
