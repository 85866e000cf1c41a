"""The proxy: small models that are trained on a manifest, in its order."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_planted import FILTER, corpus, sentences, study_of, tried

from conftest import use_one_thread
from selector import plugins
from selector.errors import PolicyError
from selector.exact.rates import Schedule
from selector.models.decoder import Decoder, Stream, last_checkpoints
from selector.tune.objectives import Objective
from selector.tune.objectives.proxy import Proxy

SCHEDULE = Schedule(peak=0.003, decay="cosine", warmup=0.05, final=0.1)
TEXTS = [sentences(number).encode() for number in range(24)]


def decoder(**changes: Any) -> Decoder:
    options: dict[str, Any] = {
        "size": "0.3M",
        "context": 64,
        "rows_per_step": 2,
        "schedule": SCHEDULE,
        "averaged": 3,
        "seed": 1,
    }
    return Decoder(**{**options, **changes})


def stream(texts: list[bytes], weights: list[float] | None = None, context: int = 64) -> Stream:
    return Stream.of(texts, np.array(weights or [1.0] * len(texts)), context)


def test_every_byte_is_a_target_once_and_none_where_a_document_begins() -> None:
    rows = stream([b"abcd", b"", b"ef"], [1.0, 2.0, 3.0], context=4)
    assert len(rows) == 2
    inputs, targets, counts = rows.rows(0, 3)
    assert inputs[0].tolist() == [0xFF, *b"abc"] and targets[0].tolist() == [*b"abcd"]
    assert targets[1].tolist() == [0xFF, 0xFF, *b"ef"] and inputs[1].tolist() == [*b"d", 0xFF, 0xFF, *b"e"]
    assert counts.tolist() == [[1, 1, 1, 1], [0, 0, 3, 3], [0, 0, 0, 0]]
    assert len(stream([])) == 0


@pytest.mark.parametrize(("steps", "averaged", "expected"), [(0, 3, []), (2, 3, [0, 1]), (1000, 3, [979, 989, 999])])
def test_the_last_checkpoints_lie_a_hundredth_of_the_training_apart(
    steps: int, averaged: int, expected: list[int]
) -> None:
    assert last_checkpoints(steps, averaged) == expected


@pytest.mark.slow
def test_a_model_learns_what_it_sees_and_is_the_same_each_time() -> None:
    use_one_thread()
    untrained, trained, again, other = (
        one.trained(stream(texts)) for one, texts in (
            (decoder(), []), (decoder(), TEXTS), (decoder(), TEXTS), (decoder(), TEXTS[::-1]),
        )
    )  # fmt: skip
    texts = [sentences(number, length).encode() for number, length in ((500, 3), (501, 60), (502, 11))]
    sizes = np.array([len(text) for text in texts])
    assert np.allclose(untrained.bits(texts) / sizes, 8, atol=1)
    bits = trained.bits(texts)
    assert (bits / sizes < 5).all() and bits.tobytes() == again.bits(texts).tobytes()
    assert bits.tobytes() != other.bits(texts).tobytes(), "the order counts"
    # a text costs what its bytes cost one by one, each after all that is before it, as far as a window reaches
    text = texts[0]
    alone = [trained.bits([text[at : at + 1]], [text[:at]])[0] for at in range(len(text))]
    assert math.isclose(sum(alone), bits[0], rel_tol=1e-4)
    long, prompt = texts[1], TEXTS[0]
    assert trained.bits([long], [prompt])[0] < trained.bits([long])[0] * 1.1
    unseen = decoder().trained(stream([*TEXTS[:5], *[b"\x00" * 400] * 5], [1.0] * 5 + [0.0] * 5))
    assert unseen.bits([b"\x00" * 50])[0] > 400, "what has no weight is not learned"


@pytest.mark.slow
def test_a_filter_wins_by_the_proxy_and_a_floor_is_named(tmp_path: Path) -> None:
    use_one_thread()
    answers = tmp_path / "answers.jsonl"
    answers.write_text(json.dumps({"prompt": "Document 7: ", "answer": sentences(9)[12:60]}), "utf-8")
    options = {
        "sizes": ["0.3M"], "learning_rates": [0.003, 0.0015], "context": 64, "rows_per_step": 4, "evaluated": 100,
        "answers": str(answers),
    }  # fmt: skip
    few = {"budgets": [{"documents": 50}], "seeds": {"least": 2, "most": 2}}
    study = study_of(corpus(tmp_path), FILTER, objective={"proxy": options}, **few)
    outcome = tried(study, tmp_path / "runs")
    (cell,) = [cell for cell in outcome.content["cells"] if cell["arm"] == "filter"]
    assert cell["beside_random"]["mean"] < 0 and set(cell["settings"]) == {"0.003 cosine", "0.0015 cosine"}
    assert 0 < cell["other"]["answers"] < 8
    assert "Below about 15M" in outcome.content["below_floor"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": ["7B"]}, "proxy.sizes: there is no size '7B'. Write some of 0.3M"),
        ({"sizes": ["5M", "0.3M"]}, "are not different sizes that rise"),
        ({"sizes": []}, "are not different sizes that rise"),
        ({"learning_rates": []}, "proxy.learning_rates is empty or names one twice"),
        ({"learning_rates": [2.0]}, "are not between 0 and 1"),
        ({"schedules": ["cosine", "cosine"]}, "proxy.schedules is empty or names one twice"),
        ({"context": 1}, "proxy.context=1 is less than 8"),
        ({"warmup": 2.0}, "proxy.warmup=2 is not from 0 to 1"),
    ],
)
def test_a_proxy_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(message)):
        plugins.make("objectives", "proxy", options, "objective", Objective)


def test_sizes_are_scales_and_rates_by_schedules_are_settings() -> None:
    proxy = Proxy(sizes=("1.3M", "15M"), learning_rates=(0.01, 0.002), schedules=("constant", "wsd"))
    assert proxy.scales == ("1.3M", "15M") and proxy.below_floor is None
    assert proxy.settings == ("0.01 constant", "0.01 wsd", "0.002 constant", "0.002 wsd")
