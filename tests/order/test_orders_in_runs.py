"""What a policy says of an order reaches it in a whole run: tables, weights, corpus columns, orders in orders."""

from pathlib import Path
from typing import Any

import pytest

from conftest import text_of, write_jsonl
from runs import policy_of, run
from selector.cli.report import print_manifest
from selector.errors import SelectorError
from selector.exact import keyed
from selector.testing._awkward import Held

pytestmark = pytest.mark.slow

TOPICS = ["sets", "groups", "rings", "fields"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus in two files, two tables, and a root for the runs."""
    folder = tmp_path_factory.mktemp("place")
    rows = [
        {"text": text_of(n, 8), "source": ("web", "books")[n % 3 == 0], "topic": TOPICS[n % 4] if n % 10 else None}
        for n in range(60)
    ]
    (folder / "corpus").mkdir()
    write_jsonl(folder / "corpus" / "0.jsonl", rows[:30])
    write_jsonl(folder / "corpus" / "1.jsonl", rows[30:])
    pairs = [("rings", "fields"), ("groups", "rings"), ("sets", "groups")]
    write_jsonl(folder / "graph.jsonl", [{"before": before, "after": after} for before, after in pairs])
    write_jsonl(folder / "syllabus.jsonl", [{"path": topic} for topic in ("rings", "sets")])
    return folder


def visited(place: Path, tiny_model: Path, using: dict[str, Any]) -> list[tuple[str, str | None]]:
    """The source and the topic of the documents first to last."""
    sections: dict[str, Any] = {
        "rate": ["length"], "select": {"budget": {"fraction": 1}}, "order": {"using": using}, "manifest": {},
    }  # fmt: skip
    manifest = run(policy_of(place / "corpus", tiny_model, **sections), place / "root").manifest
    assert manifest.verify().problems == []
    numbers = {keyed.digest(text_of(n, 8).encode()): n for n in range(60)}
    order = [numbers[row["doc_id"]] for row in manifest.rows(0, len(manifest)).to_pylist()]
    assert sorted(order) == list(range(60))
    return [(("web", "books")[n % 3 == 0], TOPICS[n % 4] if n % 10 else None) for n in order]


def test_a_graph_and_a_syllabus_are_read_from_their_files(place: Path, tiny_model: Path) -> None:
    graph = {"score": "length", "by": "corpus.topic", "graph": str(place / "graph.jsonl")}
    order = [topic for _, topic in visited(place, tiny_model, {"prerequisites": graph})]
    assert list(dict.fromkeys(order)) == [*TOPICS, None]
    syllabus = {"by": "corpus.topic", "syllabus": str(place / "syllabus.jsonl")}
    order = [topic for _, topic in visited(place, tiny_model, {"taxonomy": syllabus})]
    assert list(dict.fromkeys(order)) == ["rings", "sets", "fields", "groups", None]


def test_weights_are_a_mapping_in_the_policy(place: Path, tiny_model: Path) -> None:
    mixed = {"weights": {"books": 1, "web": 2}, "score": "length", "sorted_groups": ["web"]}
    sources = [source for source, _ in visited(place, tiny_model, {"mixed": mixed})]
    assert all(sources[i : i + 3].count("books") == 1 for i in range(3, 57, 3))


def test_orders_hold_orders_and_name_columns_of_the_corpus(place: Path, tiny_model: Path) -> None:
    inner = {"warmup": {"inner": {"by_score": {"score": "length"}}, "share": 0.5}}
    spread = {"inner": {"jittered": {"inner": inner, "size": 8}}, "by": "corpus.topic", "window": 4, "most": 2}
    topics = [topic for _, topic in visited(place, tiny_model, {"spread": spread})]
    assert all(topics[i : i + 4].count(topic) <= 2 for i in range(57) for topic in TOPICS)


def test_phases_reach_the_manifest_with_their_mixture_and_their_hints(place: Path, tiny_model: Path) -> None:
    inner = {"least_share": {"inner": {"by_score": {"score": "length"}}, "shares": {"books": 0.2}}}
    phases = [
        {"name": "broad", "share": 0.5, "weights": {"web": 3, "books": 1}, "sequence_length": 1024},
        {"name": "last", "inner": inner, "hints": {"masking_rate": 0.2}},
    ]
    sections: dict[str, Any] = {
        "rate": ["length"], "select": {"budget": {"fraction": 1}}, "order": {"using": {"phases": {"phases": phases}}},
        "manifest": {},
    }  # fmt: skip
    manifest = run(policy_of(place / "corpus", tiny_model, **sections), place / "root").manifest
    assert manifest.verify().problems == []
    broad, last = manifest.describe()["phases"]
    assert (broad["name"], last["name"]) == ("broad", "last") and broad["rows"] + last["rows"] == 60
    assert sum(broad["facts"]["mixture"].values()) == broad["tokens"] <= broad["facts"]["tokens_asked_for"]
    assert abs(broad["facts"]["mixture"]["web"] / broad["tokens"] - 0.75) < 0.1
    assert broad["facts"]["sequence_length"] == 1024 and last["facts"]["hints"] == {"masking_rate": 0.2}


def test_weights_and_gaps_reach_the_manifest_and_what_repeats_are_worth_is_said(
    place: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reported = [
        {"document": keyed.digest(text_of(n, 8).encode()).hex(), "epoch": epoch, "loss": 3.0 - epoch * (n % 2)}
        for n in range(60)
        for epoch in range(3)
    ]
    write_jsonl(place / "reported.jsonl", reported)
    inner = {"apart": {"inner": "shuffled", "gap": 18}}
    using = {"improvement_weights": {"inner": inner, "reported": str(place / "reported.jsonl"), "epochs": 2}}
    sections: dict[str, Any] = {
        "rate": ["length"],
        "select": {
            "budget": {"documents": 60},
            "using": {"mixture": {"weights": {"books": 1}, "visits": 3}},
        },
        "order": {"using": using},
        "manifest": {},
    }
    manifest = run(policy_of(place / "corpus", tiny_model, **sections), place / "root").manifest
    assert manifest.verify().problems == [] and len(manifest) == 60
    rows = manifest.rows(0, len(manifest)).to_pylist()
    facts = manifest.header.facts
    assert facts.order["apart"]["nearer"] == 0 and facts.order["apart"]["closest"] >= 18
    assert facts.order["improvement_weights"]["unknown"] == 0
    mean = sum(row["loss_weight"] for row in rows) / len(rows)
    assert mean == pytest.approx(1, abs=1e-6) and len({row["loss_weight"] for row in rows}) > 2
    tokens = sum(row["num_tokens"] for row in rows)
    once = sum(row["num_tokens"] for row in rows if row["visit"] == 0)
    assert facts.repeats is not None
    assert (facts.repeats["tokens"], facts.repeats["tokens_once"], facts.repeats["most_visits"]) == (tokens, once, 3)
    assert once < facts.repeats["worth_tokens"] < tokens
    print_manifest(manifest)
    assert f"repeats: {tokens - once:,} of {tokens:,} tokens are seen again" in capsys.readouterr().out


def test_an_order_that_must_hold_more_visits_than_it_may_is_refused_in_words(
    place: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Held, "most_held", 59)
    held = "selector.testing._awkward:Held"
    inner: dict[str, Any] = {held: {}}
    for using in (inner, {"jittered": {"inner": inner}}, {"least_share": {"inner": inner}}):
        (name,) = using
        with pytest.raises(
            SelectorError,
            match=rf"order\.using: {name} must hold all visits at once \(_awkward does\), and 60 chosen documents are "
            r"more than the 59 that it may hold\. Choose fewer",
        ):
            visited(place, tiny_model, using)
    assert len(visited(place, tiny_model, {"matched": {"inner": {"spread": {"inner": "shuffled"}}}})) == 60
    monkeypatch.setattr(Held, "most_held", 60)
    assert len(visited(place, tiny_model, inner)) == 60
