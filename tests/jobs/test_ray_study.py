"""A study on Ray with its root in an object store."""

from pathlib import Path

import pytest

from jobs.executor import RayExecutor
from objects import s3
from runs import write_corpus
from selector.engine.local import LocalExecutor
from selector.storage import open_storage
from selector.tune import kept
from selector.tune.plan import plan
from selector.tune.run import run
from selector.tune.study import Study


@pytest.mark.slow
def test_a_study_on_ray_in_an_object_store_says_what_one_on_this_machine_says(tmp_path: Path) -> None:
    base = {
        "corpus": {"paths": [str(write_corpus(tmp_path / "corpus"))]}, "rate": ["length"],
        "select": {"budget": {"tokens": 300}, "using": {"quality_sampling": {"score": "length"}}},
    }  # fmt: skip
    study = Study.of(
        {
            "base": base, "space": {"select.using.quality_sampling.temperature": {"log": [0.1, 10]}}, "trials": 1,
            "objective": "probe", "held_out": {"share": 0.2, "alike": 1.0}, "controls": {"all": False},
            "seeds": {"least": 1, "most": 1},
        }
    )  # fmt: skip
    expected = run(study, root=tmp_path / "runs", executor=LocalExecutor(workers=1)).content
    with s3():
        outcome = run(study, root="s3://bucket/study", executor=RayExecutor(actors=2))
        content = kept.keep("s3://bucket/study", study, outcome)
        assert outcome.content == expected and expected["seeds"] == [0]
        assert kept.content(open_storage("s3://bucket/study"), content["study"]) == content
        planned = plan(study, root="s3://bucket/study", executor=LocalExecutor(workers=1))
        assert planned["measurements_stored"] == planned["manifests_stored"] == 1 and planned["steps_to_run"] == []
