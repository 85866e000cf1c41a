"""How an order will be trained on, in whole runs: its facts, its warning, its picture; and the controls of a run."""

from pathlib import Path
from typing import Any

import pytest

from command import Ended, selector, with_value, write_policy
from conftest import text_of, write_jsonl
from selector.errors import PolicyError
from selector.manifest import Manifest
from selector.policy import Policy
from selector.policy.resolve import resolve

pytestmark = pytest.mark.slow

FALLING = {"peak": 0.01, "decay": "linear", "weight_decay": 0.1}
LATE = "training: the best tenth by quality counts"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("controls")
    rows = [{"text": text_of(n, 8), "source": ("web", "books")[n % 2], "edu": n % 37} for n in range(100)]
    write_jsonl(folder / "corpus.jsonl", rows)
    return folder


def policy_in(folder: Path, **sections: Any) -> dict[str, Any]:
    return {
        "corpus": {"paths": [str(folder / "corpus.jsonl")], "source": "source"},
        "rate": [{"column": {"column": "edu", "higher_is": "better"}}],
        "select": {"budget": {"fraction": 1.0}},
        "training": {"global_batch_size": 4, "schedule": FALLING, "average": {"checkpoints": 3, "every": 2}},
        "order": {"using": {"by_score": {"score": "edu"}}},
        "manifest": {"quality": "edu"},
        **sections,
    }


def run(folder: Path, policy: dict[str, Any], *words: str) -> Ended:
    return selector(
        "run", write_policy(folder, policy), *words, "--root", folder / "runs", "--executor", "local", "--json"
    )


def opened(ended: Ended) -> Manifest:
    assert ended.code == 0, ended.err
    return Manifest.open(ended.json["manifest"])


def test_a_manifest_says_where_updates_count_and_warns_where_the_best_come_too_late(folder: Path) -> None:
    ended = run(folder, policy_in(folder))
    manifest = opened(ended)
    facts = manifest.header.facts.training
    assert facts is not None and facts["steps"] == 25
    assert facts["average"] == {"after_steps": [21, 23, 25], "weights": "equal"}
    counts = facts["counts"]
    assert len(counts) == 10 and counts[0] > 1 > counts[-1] and sum(counts) == pytest.approx(10, abs=0.01)
    assert facts["best"]["counts"] == pytest.approx(counts[-1], abs=0.05)
    shown = selector("show", ended.json["manifest"]).out
    assert "where updates count" in shown and "best tenth by quality" in shown and LATE in shown
    moderate = policy_in(folder, training={"global_batch_size": 4, "schedule": {**FALLING, "final": 0.6}})
    placed = with_value(policy_in(folder), "order.using", {"where_it_counts": {"inner": "shuffled", "score": "edu"}})
    for policy in (moderate, placed, policy_in(folder, manifest={})):
        shown = selector("show", run(folder, policy).json["manifest"]).out
        assert "where updates count" in shown and LATE not in shown


def test_a_plan_says_where_updates_will_count_and_warns_before_the_run_where_it_can(folder: Path) -> None:
    def plan(**sections: Any) -> tuple[dict[str, Any], str]:
        path = write_policy(folder, policy_in(folder, **sections))
        words = "plan", path, "--root", folder / "planned", "--executor", "local"
        return selector(*words, "--json").json.get("training"), selector(*words).out

    known = {"select": {"budget": {"documents": 100}}}
    training, shown = plan(**known)
    assert training is not None and (training["visits"], training["steps"]) == (100, 25)
    made = opened(run(folder, policy_in(folder, **known))).header.facts.training
    assert made is not None and made["counts"] == training["counts"] and made["average"] == training["average"]
    assert training["best"]["counts"] == pytest.approx(made["best"]["counts"], abs=0.06)
    assert "where updates count" in shown and "best tenth by quality" in shown and LATE in shown
    falling = {"score": "edu", "direction": "anti_curriculum"}
    for using, best in (({"by_score": falling}, True), ({"stair": {"score": "edu"}}, True), ("shuffled", False),
                        ({"jittered": {"inner": {"by_score": falling}}}, False)):  # fmt: skip
        training, shown = plan(**known, order={"using": using})
        assert ("best" in training, LATE in shown) == (best, using == {"stair": {"score": "edu"}})
    training, shown = plan()
    assert training["visits"] is None and training["because"] in shown and "not stored yet" in shown
    assert plan(training=None)[0] is None


def test_a_plan_estimates_the_visits_of_a_budget_in_tokens_from_what_is_stored(folder: Path) -> None:
    def plan(**budget: Any) -> tuple[dict[str, Any], str]:
        path = write_policy(folder, policy_in(folder, select={"budget": budget}))
        words = "plan", path, "--root", folder / "runs", "--executor", "local"
        return selector(*words, "--json").json["training"], selector(*words).out

    all_tokens = opened(run(folder, policy_in(folder))).header.counts.tokens
    training, shown = plan(tokens=all_tokens // 2)
    assert training["visits"] == 50 and "estimate" in training and f"about 50 visits, {training['estimate']}" in shown
    assert plan(fraction=0.25)[0]["visits"] == 25
    exact, shown = plan(fraction=1.0)
    assert exact["visits"] == 100 and "estimate" not in exact and "about" not in shown


def test_without_a_schedule_nothing_is_said_and_an_order_that_needs_one_is_refused(folder: Path) -> None:
    policy = policy_in(folder, training=None)
    assert opened(run(folder, policy)).header.facts.training is None
    asking = with_value(
        policy, "order.using", {"matched": {"inner": {"where_it_counts": {"inner": "shuffled", "score": "edu"}}}}
    )
    with pytest.raises(PolicyError, match=r"where_it_counts goes by where updates count, .* training:"):
        resolve(Policy.of(asking))


def test_another_schedule_makes_another_order_only_of_an_order_that_reads_it(folder: Path) -> None:
    other = {"global_batch_size": 4, "schedule": {**FALLING, "decay": "constant"}}
    for using, is_same in (
        (("by_score", {"score": "edu"}), True),
        (("where_it_counts", {"inner": "shuffled", "score": "edu"}), False),
    ):
        policies = [policy_in(folder, order={"using": dict([using])}, **more) for more in ({}, {"training": other})]
        first, second = (opened(run(folder, policy)) for policy in policies)
        assert first.digest != second.digest
        assert (first.header.lineage["order"] == second.header.lineage["order"]) == is_same
        assert (first.header.order_digest == second.header.order_digest) == is_same


def test_a_window_that_is_not_said_is_the_global_batch(folder: Path) -> None:
    def facts(order: dict[str, Any], **more: Any) -> dict[str, Any]:
        return dict(opened(run(folder, policy_in(folder, order={"using": order}, **more))).header.facts.order)

    spread = {"spread": {"inner": {"by_score": {"score": "edu"}}, "most": 3}}
    apart = {"apart": {"inner": {"pooled": {"score": "edu", "epochs": 2}}}}
    batch_of_8 = {"training": {"global_batch_size": 8, "schedule": FALLING}}
    for more, window in (({}, 4), (batch_of_8, 8), ({"training": None}, 512)):
        assert facts(spread, **more)["spread"]["window"] == window
        assert facts(apart, **more)["apart"]["gap"] == window
    assert facts({"spread": {**spread["spread"], "window": 6}})["spread"]["window"] == 6
    other = {"training": {"global_batch_size": 4, "schedule": {**FALLING, "peak": 0.02}}}
    first, second = (
        opened(run(folder, policy_in(folder, order={"using": spread}, **more))).header.lineage["order"]
        for more in ({}, other)
    )
    assert first == second, "another schedule is the same order"


def test_controls_are_manifests_of_the_same_visits_with_the_first_as_their_parent(folder: Path) -> None:
    policy = with_value(
        policy_in(folder), "order.using", {"warmup": {"inner": {"by_score": {"score": "edu"}}, "share": 0.3}}
    )
    ended = run(folder, policy, "--controls", "2")
    manifest = opened(ended)
    controls = [Manifest.open(one["manifest"]) for one in ended.json["controls"]]
    assert [control.digest for control in controls] == [one["digest"] for one in ended.json["controls"]]
    assert len({manifest.header.order_digest, *(control.header.order_digest for control in controls)}) == 3
    assert manifest.header.parent is None
    for control in controls:
        assert control.verify().problems == []
        assert control.header.parent is not None
        assert (control.header.parent.digest, control.header.parent.position) == (manifest.digest, 0)
        assert control.header.phases == manifest.header.phases and control.header.counts == manifest.header.counts
        for phase in manifest.header.phases:
            stretch = phase.first_position, phase.first_position + phase.rows
            ids = [sorted(one.rows(*stretch)["doc_id"].to_pylist()) for one in (manifest, control)]
            assert ids[0] == ids[1]
    again = run(folder, policy, "--controls")
    assert again.json["controls"] == ended.json["controls"][:1], "alone it is one, and a finished one is found"
    assert "controls" not in run(folder, policy).json
    assert (
        f"parent        {manifest.digest}, to position 0" in selector("show", ended.json["controls"][0]["manifest"]).out
    )
    shown = selector("run", folder / "policy.yaml", "--controls", "--root", folder / "runs", "--executor", "local").out
    assert f"control 0     {controls[0].digest}" in shown


def test_a_parent_that_is_not_finished_is_refused(folder: Path) -> None:
    policy = with_value(policy_in(folder), "order.parent", str(folder / "nowhere"))
    with pytest.raises(PolicyError, match=r"order\.parent: There is no manifest at"):
        resolve(Policy.of(policy))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"peak": 0.01, "decay": "constant", "final": 0.5}, "leave out final"),
        ({"peak": 0.01, "decay": "linear", "falling": 0.5}, "leave it out"),
        ({"peak": 0.01, "decay": "wsd", "warmup": 0.6, "falling": 0.5}, "more than all steps"),
        ({"peak": 2.0, "decay": "linear", "weight_decay": 0.5}, "lower one of them"),
        ({"peak": -1, "decay": "linear"}, r"training\.schedule\.peak"),
        ({"peak": 0.01, "decay": "sudden"}, r"training\.schedule\.decay"),
        ({"decay": "linear"}, r"training\.schedule\.peak"),
        ({"peak": 0.01, "decay": "linear", "warmpu": 0.1}, "has no key 'warmpu'. Did you mean 'warmup'"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(folder: Path, schedule: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Policy.of(policy_in(folder, training={"global_batch_size": 4, "schedule": schedule}))
