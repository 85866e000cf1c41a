"""Whole studies over a small corpus: what they share, what they find, and what they do when they are killed."""

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from command import selector
from conftest import MemoryStorage, write_jsonl
from runs import Noting, policy_of, write_corpus
from selector.engine.local import LocalExecutor
from selector.engine.store import Store
from selector.errors import DamagedError, EmptyError, PolicyError, UsageError
from selector.policy import Policy
from selector.steps.order import OrderStep
from selector.storage import open_storage
from selector.tune import arms, evidence, kept
from selector.tune.held_out import sampled_runs
from selector.tune.objectives import answer
from selector.tune.plan import plan
from selector.tune.run import run
from selector.tune.study import Study

ARMS = {
    "long": {"select.using": {"top": {"score": "length"}}},
    "drawn": {"select.using": {"quality_sampling": {"score": "length"}}},
}
TEMPERATURE = "select.using.quality_sampling.temperature"


def study_of(corpus: Path, **sections: Any) -> dict[str, Any]:
    """A study whose base chooses at random from a small corpus."""
    base = {
        "seed": 7, "corpus": {"paths": [str(corpus)]}, "rate": ["length"],
        "select": {"budget": {"fraction": 0.3}}, "manifest": {"quality": "length"},
    }  # fmt: skip
    return {"base": base, "arms": ARMS, "objective": "measured", "seeds": {"least": 3, "most": 3}, **sections}


@pytest.mark.slow
def test_arms_share_what_is_stored_and_a_corpus_is_embedded_once(tmp_path: Path, tiny_model: Path) -> None:
    base = policy_of(write_corpus(tmp_path / "corpus"), tiny_model)
    temperatures = {
        f"warm {i}": {"select.using.kmeans_quality": {"score": "readability", "temperature": 1.0 + i}} for i in range(3)
    }
    target = write_jsonl(tmp_path / "target.jsonl", [{"text": "a river in winter"}, {"text": "number theory"}])
    study = Study.of(
        {
            "base": {**base, "rate": ["readability"], "manifest": {"quality": "readability"}},
            "arms": {**temperatures, "by quality": {"select.using": {"top": {"score": "readability"}}}},
            "objective": {"measured": {"vectors": True, "labels": ["corpus.edu"], "target": str(target)}},
            "seeds": {"least": 1, "most": 1},
            "controls": {"all": False},
        }
    )
    outcome = run(study, root=tmp_path / "runs", executor=Noting(notes=tmp_path / "notes"))
    tasks = Counter(line.partition("/")[0] for line in (tmp_path / "notes").read_text("utf-8").splitlines())
    keys = (tmp_path / "notes").read_text("utf-8").splitlines()
    assert len(outcome.content["cells"]) == 5
    other = outcome.content["cells"][0]["other"]
    assert other["vendi"] > 1 and other["coverage corpus.edu"] == 10 and 0 < other["target_distance"] < 1
    assert outcome.content["overlap"]["warm 0"]["warm 1"] > 0.2
    assert tasks["embed"] == len({key for key in keys if key.startswith("embed/")}) == 6, "once for each part"
    assert tasks["ingest"] == len({key for key in keys if key.startswith("ingest/")})


@pytest.mark.slow
def test_the_command_says_which_arm_is_best_and_finds_it_done_the_next_time(tmp_path: Path) -> None:
    study, root = tmp_path / "study.yaml", tmp_path / "runs"
    study.write_text(yaml.safe_dump(study_of(write_corpus(tmp_path / "corpus"))), "utf-8")
    planned = selector("tune", "plan", study, "--root", root)
    assert "measurements: 9 with 3 seeds, 0 of them stored" in planned.out and not root.exists()
    assert "all: whether it is affordable is not known yet" in planned.out
    first = selector("tune", study, "--root", root)
    assert first.code == 3 and "2 rows are in quarantine" in first.err, "as a run of this corpus ends"
    assert "long is the best by quality" in first.out and "random" in first.out
    again = selector("tune", study, "--root", root)
    assert again.out == first.out and again.err.count("stored") == 4 * 3
    planned = selector("tune", "plan", study, "--root", root, "--json").json
    assert planned["measurements_stored"] == 12 == planned["manifests_stored"] and planned["steps_to_run"] == []
    assert planned["all_is_affordable"] and [row["arm"] for row in planned["arms"]][-1] == "all"
    one = selector("tune", "plan", study, "--root", root, "--set", "seeds.least=1", "--set", "seeds.most=1")
    assert ", 1 seed\n" in one.out and "with 1 seed, 4 of them stored" in one.out
    assert re.search("^tokens trained on: [0-9,]+$", one.out, re.MULTILINE), "as many at least as at most"
    shown = selector("tune", "show", study, "--root", root)
    assert shown.out == first.out
    missing = selector("tune", "show", tmp_path / "nope.yaml", "--root", root)
    assert missing.code == 2 and re.search(r"The study '.*nope\.yaml' cannot be read", missing.err)
    content = selector("tune", "show", study, "--root", root, "--json").json
    assert content["winner"] == "long" and content["seeds"] == [0, 1, 2]
    best = Path(content["policy"]).read_text("utf-8")
    assert best.startswith("# long is the best by quality\n")
    assert Policy.load(content["policy"]).select.using.name == "top", "and it is a policy"
    fewer = selector("tune", study, "--root", root, "--set", "arms.long={}", "--set", "seeds.least=2")
    assert fewer.code == 3 and fewer.err.count("drawn") == fewer.err.count("random") == 3, fewer.err
    assert fewer.err.count("stored") >= 6, "what another study measured is used again"
    assert selector("gc", "--root", root, "--delete").code == 0
    after = selector("tune", study, "--root", root)
    assert after.out == first.out and "0.0 s" not in after.err, "what was measured outlives the garbage"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": {}}, "there is nothing to compare"),
        ({"arms": {"random": {}}}, "random is the name of an arm that a study adds by itself"),
        ({"metric": "beauty"}, "metric: measured does not measure 'beauty'. There is: quality"),
        ({"seeds": {"least": 3, "most": 2}}, "most is 2, and least is 3"),
        ({"target": {"tokens": 10}}, "there are none: write budgets too"),
        ({"budgets": [{"tokens": 5}], "target": {"fraction": 0.5}}, "write all of them in one unit"),
        ({"objective": "beauty"}, "There is no objective called 'beauty'"),
        ({"trails": 3}, "The study has no key 'trails'"),
        (
            {"arms": {}},
            r"^the study: [^{]+ \{top: \{select.using: \{top: …\}\}\}, or one of space, mixture and filters\.$",
        ),
        ({"budgets": [{"tokens": 5}, {"tokens": 5}]}, "5 tokens is there twice: write each budget once"),
        ({"budgets": [{"fraction": 0.5}, {"fraction": 0.2}]}, "0.2 fraction is below 0.5, .* the smallest first"),
    ],
)
def test_a_study_that_cannot_work_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Study.of(study_of(tmp_path, **change))


def test_a_budget_below_the_target_is_chosen_from_a_sample_so_that_repetition_is_that_of_the_target() -> None:
    study = Study.of(study_of(Path("corpus"), budgets=[{"tokens": 1000}], target={"tokens": 4000}, objective="probe"))
    arm = arms.arms_of(study)[0]
    where = arms.policy_of(study, arm, study.budgets[0], 0).select.where
    assert where == f"doc_draw >= {0.02:.17f} AND doc_draw < {0.02 + 0.98 / 4:.17f}"
    assert arms.policy_of(study, arm, study.budgets[0], 0, is_studied=False).select.where is None
    whole = Study.of(study_of(Path("corpus"), budgets=[{"fraction": 0.1}], target={"fraction": 0.4}))
    policy = arms.policy_of(whole, arm, whole.budgets[0], 3)
    assert policy.select.where == f"doc_draw < {0.25:.17f}" and policy.select.budget.fraction == 0.4
    assert policy.seed == 10, "the policy's own and the study's"
    more = Study.of(study_of(Path("corpus"), budgets=[{"tokens": 5000}], target={"tokens": 4000}))
    with pytest.raises(PolicyError, match="budgets: 5k tokens is more than the target, 4k tokens"):
        arms.policy_of(more, arm, more.budgets[0], 0)


@pytest.mark.slow
def test_a_winner_that_does_not_hold_at_each_learning_rate_is_flagged_where_its_policy_is_read(tmp_path: Path) -> None:
    script, study = tmp_path / "train.py", tmp_path / "study.yaml"
    script.write_text(
        "import json, sys\n"
        "metrics, arm, rate, seed = sys.argv[1:]\n"
        "loss = {'long 0.003': 1, 'drawn 0.003': 9, 'long 0.001': 3, 'drawn 0.001': 2}[f'{arm} {rate}']\n"
        "json.dump({'loss': loss + int(seed) / 100}, open(metrics, 'w'))\n"
    )
    command = {
        "run": [sys.executable, str(script), "{metrics}", "{arm}", "{setting}", "{seed}"], "reports": {"loss": "lower"},
        "at_settings": ["0.003", "0.001"],
    }  # fmt: skip
    sections = {
        "objective": {"command": command},
        "seeds": {"least": 2, "most": 2},
        "held_out": {"share": 0.2, "alike": 1},
    }
    written = study_of(write_corpus(tmp_path / "corpus"), **sections, controls={"random": False, "all": False})
    study.write_text(yaml.safe_dump(written), "utf-8")
    ended = selector("tune", study, "--root", tmp_path / "runs")
    assert "long is the best by loss; but drawn is the best at 0.001" in ended.out, ended.err
    (policy,) = re.findall("policy: (.*)", ended.out)
    assert "\n# flag: drawn is the best at 0.001\n" in Path(policy).read_text("utf-8")


@pytest.mark.slow
def test_a_study_ends_at_its_ceiling_and_says_so_whatever_workers_measure_it(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    held_out = {"share": 0.2, "alike": 1.0}
    sections = {"objective": "probe", "held_out": held_out, "budgets": [{"tokens": 300}], "controls": {"all": False}}
    study = Study.of(study_of(corpus, arms={**ARMS, "twin": ARMS["long"]}, **sections, ceiling={"tokens": 1900}))
    alone, together = (
        run(study, root=tmp_path / f"{workers}", executor=LocalExecutor(workers=workers)) for workers in (1, 2)
    )
    assert alone.content == together.content
    assert alone.content["stopped"] == "ceiling.tokens, 1,900, is reached"
    assert alone.content["seeds"] == [0] and alone.content["tokens"] <= 1900
    assert alone.sentence.startswith("undecided: ")
    assert alone.content["alike"] == [["long", "twin"]], "arms that are the same are named"


def test_an_arm_that_is_no_policy_is_named(tmp_path: Path) -> None:
    study = Study.of(study_of(tmp_path, arms={"a": {"select.using": {"top": {}}}}))
    with pytest.raises(PolicyError, match=r"arms\.a: select\.using\.top\.score is missing"):
        run(study, root=tmp_path / "runs", executor=LocalExecutor(workers=1))


def test_the_study_of_the_readme_is_one(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    for language, name in (("yaml", "policy.yaml"), ("yml", "study.yaml")):
        (block,) = re.findall(rf"```{language}\n((?:base|#).*?)```", readme, re.DOTALL)
        (tmp_path / name).write_text(block, "utf-8")
    study = Study.load(tmp_path / "study.yaml")
    assert [arm.name for arm in arms.arms_of(study)] == ["random", "top", "warm"]
    for arm in arms.arms_of(study):
        arms.policy_of(study, arm, study.budgets[0], 0)


def test_an_arm_with_a_budget_of_its_own_stands_beside_a_control_that_has_it_too() -> None:
    own = {"few": {"select.budget.fraction": 0.1}, "as few": {"select.budget.fraction": 0.1}, "plain": {}}
    study = Study.of(study_of(Path("corpus"), arms=own))
    placed = {arm.name: arm.control for arm in arms.with_controls(study, arms.arms_of(study))}
    control = "random like few"
    assert placed == {"random": "random", "few": control, "as few": control, "plain": "random", control: "random"}


def test_a_study_that_names_a_program_is_refused_where_code_is(tmp_path: Path) -> None:
    command = {"command": {"run": "python train.py", "reports": {"loss": "lower"}}}
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(study_of(tmp_path, objective=command)), "utf-8")
    ended = selector("tune", study, "--root", tmp_path / "runs", "--no-foreign-plugins", "--json")
    assert ended.code == 2 and "which --no-foreign-plugins refuses" in ended.json["error"]["message"]
    foreign = study_of(tmp_path, arms={"a": {"select.using": "os.path:join"}})
    study.write_text(yaml.safe_dump(foreign), "utf-8")
    ended = selector("tune", study, "--root", tmp_path / "runs", "--no-foreign-plugins")
    assert ended.code == 2 and "'os.path:join', which --no-foreign-plugins refuses" in ended.err


@pytest.mark.parametrize(
    "outside",
    [
        {"base": "elsewhere.yaml"},
        {"arms": {"a": {"embed.model": "/opt/model"}}},
        {"arms": {"a": {"select.exclude": ["/opt/runs/2f1c"]}}},
        {"objective": {"measured": {"target": "/etc/passwd"}}},
        {"objective": {"proxy": {"answers": "/etc/passwd"}}},
    ],
)
def test_a_study_that_looks_elsewhere_is_refused_where_that_is_not_allowed(
    outside: dict[str, Any], tmp_path: Path
) -> None:
    inside = tmp_path / "inside"
    study = inside / "study.yaml"
    corpus = write_corpus(inside / "corpus")
    (tmp_path / "elsewhere.yaml").write_text(yaml.safe_dump(study_of(corpus)["base"]), "utf-8")
    written = study_of(corpus, **outside)
    written["base"] = "../elsewhere.yaml" if "base" in outside else written["base"]
    study.write_text(yaml.safe_dump(written), "utf-8")
    ended = selector("tune", study, "--root", tmp_path / "runs", "--allowed", inside)
    assert ended.code == 2 and "where this policy may look" in ended.err


def test_evidence_that_is_damaged_is_measured_again() -> None:
    storage = MemoryStorage()
    store = Store(storage)
    measured = answer("loss", 1.0)
    cost = pa.table({"tokens": [5], "seconds": [1.0], "manifest": ["a"]})
    store.seal("evidence/a", [("measured", measured), ("cost", cost)])
    stored = evidence.find(store, "evidence/a")
    assert stored is not None and stored.of("loss") == 1 and stored.tokens == 5 and not stored.is_new
    storage.objects |= dict.fromkeys(storage.objects, b"other bytes")
    assert evidence.find(store, "evidence/a") is None and store.find("evidence/a") is None


def test_an_arm_is_blamed_for_its_policy_and_not_for_the_root(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    with pytest.raises(UsageError, match=r"^(?!arms).*corpus"):
        run(Study.of(study_of(corpus)), root=corpus / "runs", executor=LocalExecutor(workers=1))
    arms = {"wrong": {"select.where": "nope > 3"}}
    with pytest.raises(UsageError, match=r"^arms\.wrong: .*nope"):
        run(Study.of(study_of(corpus, arms=arms)), root=tmp_path / "runs", executor=LocalExecutor(workers=1))


def test_what_an_earlier_version_of_a_step_led_to_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study.of(study_of(write_corpus(tmp_path / "corpus"), seeds={"least": 1, "most": 1}))

    def num_stored() -> int:
        lines = list[str]()
        run(study, root=tmp_path / "runs", executor=LocalExecutor(workers=1), tell=lines.append)
        return sum(line.endswith("stored") for line in lines)

    assert (num_stored(), num_stored()) == (0, 4)
    monkeypatch.setattr(OrderStep, "version", OrderStep.version + 1)
    assert plan(study, root=tmp_path / "runs", executor=LocalExecutor(workers=1))["measurements_stored"] == 0
    assert (num_stored(), num_stored()) == (0, 4)


def test_a_plan_counts_what_is_searched_at_every_seed_and_setting(tmp_path: Path) -> None:
    space = {"select.using.quality_sampling.temperature": {"log": [0.1, 10]}}
    proxy = {"proxy": {"sizes": ["0.3M"], "learning_rates": [0.003, 0.001]}}
    sections = {"arms": {}, "space": space, "trials": 5, "objective": proxy, "budgets": [{"tokens": 300}]}
    written = study_of(write_corpus(tmp_path / "corpus"), **sections)
    written["base"]["select"]["using"] = {"quality_sampling": {"score": "length"}}
    study = Study.of(written)
    planned = plan(study, root=tmp_path / "runs", executor=LocalExecutor(workers=1))
    assert planned["searched"] == {"arms": 5, "measurements_at_most": 5 * 3 * 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sections", "arms", "measurements", "finalists", "tokens"),
    [
        ({"space": {TEMPERATURE: {"log": [0.1, 10]}}, "trials": 5}, 5, 5 * 3, 2, 3 * 300 * (3 + 5 + 2)),
        ({"space": {"select.budget.tokens": {"linear": [100, 500]}}, "trials": 5}, 5, 5 * 3, 4,
         3 * (300 * 3 + 500 * (5 + 4))),
        ({"filters": {"keep": [0.3, 0.6], "best": 3}}, 4 + 3, 7 * 3, 2, 3 * 300 * (3 + 7 + 2)),
        ({"mixture": {"runs": 7}}, 7, 7, 1, 300 * (3 * 3 + 7 + 3)),
    ],
)  # fmt: skip
def test_a_plan_counts_all_that_is_trained_and_says_where_that_is_above_the_ceiling(
    tmp_path: Path, sections: dict[str, Any], arms: int, measurements: int, finalists: int, tokens: int
) -> None:
    base = study_of(write_corpus(tmp_path / "corpus"))["base"]
    base["select"]["using"] = {"quality_sampling": {"score": "length"}}
    common = {"base": base, "objective": "probe", "budgets": [{"tokens": 300}], "seeds": {"least": 3, "most": 4}}
    study = Study.of(study_of(tmp_path, **common, **sections, ceiling={"tokens": tokens - 1}))
    planned = plan(study, root=tmp_path / "runs", executor=LocalExecutor(workers=1))
    assert planned["searched"] == {"arms": arms, "measurements_at_most": measurements}
    assert planned["finalists"] == {"arms": finalists, "measurements_at_most": finalists * 3}
    assert planned["tokens"]["least"] == tokens < planned["tokens"]["most"] and planned["tokens_are_at_most"]
    assert planned["above_ceiling"].startswith(f"ceiling.tokens, {tokens - 1:,}, is less than what the fewest seeds")
    assert f"at most {tokens:,}" in planned["above_ceiling"]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"space": {TEMPERATURE: {"linear": [-1, 10]}}}, r"^space: quality_sampling\.temperature=-1\.0 is not a temp"),
        ({"space": {"select.usin.top": {"choices": [1]}}}, r"^space: select has no key 'usin'"),
        ({"space": {"select.missing": {"choices": ["drop", "lose"]}}}, r"^space: select\.missing"),
        ({"space": {"select.where": {"choices": ["length > 0", "beauty > 0"]}}}, r"^space: select\.where: none of the"),
        ({"held_out": {"where": "beauty = 'much'"}}, r"^held_out\.where: none of the 3 files .* has a column 'beauty'"),
    ],
)
def test_a_study_with_a_policy_that_is_none_is_refused_before_anything_is_done(
    tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    base = study_of(write_corpus(tmp_path / "corpus"))["base"]
    base["select"]["using"] = {"quality_sampling": {"score": "length"}}
    study, root = Study.of(study_of(tmp_path, base=base, objective="probe", **sections)), tmp_path / "runs"
    with pytest.raises(UsageError, match=message):
        plan(study, root=root, executor=LocalExecutor(workers=1))
    with pytest.raises(UsageError, match=message):
        run(study, root=root, executor=LocalExecutor(workers=1))


@pytest.mark.parametrize("damaged", [b"{", b"{}", b"[]", b"\xff", b"null", b'{"metric": 1}'])
def test_a_result_that_is_damaged_is_said_to_be_and_how_it_is_written_again(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "studies" / "abc").mkdir(parents=True)
    (tmp_path / "studies" / "abc" / "result.json").write_bytes(damaged)
    with pytest.raises(DamagedError, match=r"^studies/abc/result.json is damaged: .* `selector tune STUDY` writes it"):
        kept.content(open_storage(tmp_path), "abc")


def test_an_empty_study_is_told_how_one_begins(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("", "utf-8")
    with pytest.raises(PolicyError, match=r"^The study '.*' is not a mapping\. Begin with base: and arms:\.$"):
        Study.load(study)
    with pytest.raises(PolicyError, match=r"^The study '.*' cannot be read"):
        Study.load(tmp_path / "other.yaml")


@pytest.mark.slow
def test_an_arm_that_selects_nothing_is_named(tmp_path: Path) -> None:
    sections = {"arms": {"few": {"select.where": "length < 0"}}, "controls": {"random": False, "all": False}}
    study = Study.of(study_of(write_corpus(tmp_path / "corpus"), **sections))
    with pytest.raises(EmptyError, match=r"^arms\.few: The manifest would be empty"):
        run(study, root=tmp_path / "runs", executor=LocalExecutor(workers=1))


def test_a_text_has_the_same_sampled_runs_whatever_stands_beside_it() -> None:
    texts = ["", "Short.", "a" * 31, "B" * 33, "Ünïcode, " * 9, " ".join(f"word {i * 7919}" for i in range(60)), "a b"]
    hashes, document = sampled_runs(texts)
    for number, text in enumerate(texts):
        assert hashes[document == number].tolist() == sampled_runs([text])[0].tolist()
    assert sampled_runs(["S-h o R t"])[0].tolist() == sampled_runs(["short"])[0].tolist(), "case and signs do not count"
    assert len(sampled_runs(["x" * 40])[0]) == 9, "of a short text all runs are looked at"
