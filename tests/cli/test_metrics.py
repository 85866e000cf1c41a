"""What a run serves to Prometheus, and whether the dashboard and the alerts ask for nothing else."""

import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from command import selector, write_policy
from conftest import text_of, write_jsonl
from objects import s3
from selector import counts
from selector.cli.metrics import Metrics, parsed, served
from selector.engine.alive import Stall
from selector.engine.local import LocalExecutor
from selector.engine.part import Receipt
from selector.engine.runner import NoProgress
from selector.engine.step import Result
from selector.errors import UsageError
from selector.pipeline import build
from selector.policy import Policy
from selector.storage import open_storage

MONITORING = Path(__file__).parents[2] / "deploy/monitoring"
STEP = Result(name="ingest", fingerprint="0" * 64, cached=False, rows_in=8, rows_out=7, num_bytes=1, seconds=2.5)


def receipt(num_rows: int = 4, num_quarantined: int = 0) -> Receipt:
    return Receipt(key="ingest/0", num_rows=num_rows, num_quarantined=num_quarantined, seconds=0.3)


def families(metrics: Metrics) -> dict[str, Metric]:
    """What is read at the address, by the names as Prometheus keeps them but for the endings of a histogram."""
    with urllib.request.urlopen(metrics.address) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        text = answer.read().decode()
    for name in re.findall(r"^# TYPE (\S+)", text, re.MULTILINE):
        assert f"# HELP {name} " in text
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(read: dict[str, Metric], name: str, **labels: str) -> float:
    samples = [sample for family in read.values() for sample in family.samples if sample.name == name]
    (sample,) = [sample for sample in samples if sample.labels == labels]
    return sample.value


def at_work(metrics: Metrics) -> None:
    """A step of two parts, of which one is done and the other is half."""
    metrics.began("ingest", 2)
    metrics.advanced("ingest", receipt(4, num_quarantined=1))
    metrics.at_work("ingest", 2)


def test_a_step_is_seen_as_it_goes_on() -> None:
    with served("0", NoProgress()) as metrics:
        at_work(metrics)
        metrics.at_work("ingest", 1)  # a part that is begun again: what was counted stays so
        read = families(metrics)
        assert value(read, "selector_documents_total", step="ingest") == 6
        assert value(read, "selector_quarantined_rows_total", step="ingest") == 1
        assert [value(read, "selector_parts", step="ingest", state=state) for state in ("open", "done")] == [1, 1]
        assert value(read, "selector_part_seconds_count", step="ingest") == 1
        stall = Stall(part="ingest/1", worker="7", node="a", seconds=60)
        metrics.stalled("ingest", [stall])
        metrics.stalled("ingest", [stall])
        assert value(families(metrics), "selector_parts", step="ingest", state="stalled") == 1
        assert value(families(metrics), "selector_stalls_total", step="ingest") == 1
        metrics.advanced("ingest", receipt())
        metrics.began("ingest", 1)  # what a step adds up in the end is no part
        metrics.ended(STEP)
        read = families(metrics)
        states = [value(read, "selector_parts", step="ingest", state=one) for one in ("open", "done", "stalled")]
        assert states == [0, 2, 0] and value(read, "selector_step_seconds", step="ingest") == 2.5
        assert value(read, "selector_steps_total", state="run") == 1
        assert value(read, "selector_documents_total", step="ingest") == 8


def test_what_the_process_counts_by_itself_is_read_as_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "_counted", {})
    monkeypatch.setattr(counts, "_levels", {})
    with served("0", NoProgress()) as metrics:
        for _ in range(3):
            counts.add(counts.REQUESTS)
        counts.add(counts.RETRIES)
        counts.add(counts.FAILURES, "deadline")
        counts.put(counts.WORKERS, {"busy": 2})
        counts.put(counts.TOKENS, {"": 50.0})
        at_work(metrics)
        read = families(metrics)
    assert value(read, "selector_store_requests_total") == 3 and value(read, "selector_store_retries_total") == 1
    assert value(read, "selector_failed_attempts_total", reason="deadline") == 1
    assert value(read, "selector_workers", state="busy") == 2 and value(read, "selector_workers", state="idle") == 0
    assert value(read, "selector_tokens_total", step="ingest") == 300


def test_names_are_those_that_prometheus_expects() -> None:
    with served("0", NoProgress()) as metrics:
        at_work(metrics)
        for name, family in families(metrics).items():
            own = name.startswith("selector_")
            assert own or name.startswith("process_")
            for sample in family.samples:
                assert sample.labels.keys() <= {"step", "state", "reason", "le", "version"}  # and none that names a run
                if own and family.type == "counter":
                    assert sample.name.endswith("_total")
            assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent)$", name)


def test_it_listens_on_this_machine_alone_unless_a_host_is_named() -> None:
    assert parsed("9464") == ("127.0.0.1", 9464)
    assert parsed("0.0.0.0:9464") == ("0.0.0.0", 9464) and parsed("[::1]:0") == ("::1", 0)
    with served("0", NoProgress()) as metrics:
        assert metrics.address.startswith("http://127.0.0.1:")
        port = int(metrics.address.rpartition(":")[2].partition("/")[0])
        with socket.socket() as other, pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", port))  # another address of this machine
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(metrics.address)


@pytest.mark.parametrize(
    "address", ["", ":9464", "65536", "-1", "1.5", "a b:9", "http://x:9", "9464/metrics", "\uff19"]
)
def test_what_is_no_port_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is no port"):
        parsed(address)


def test_a_port_that_is_taken_is_refused_before_anything_runs(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [{"text": text_of(n, 8)} for n in range(20)])
    policy = {"corpus": {"paths": [str(tmp_path / "corpus.jsonl")]}, "select": {"budget": {"fraction": 0.5}}}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ("run", write_policy(tmp_path, policy), "--root", tmp_path / "root", "--executor", "local")
        ended = selector(*words, "--metrics", port, "--json")
    assert ended.code == 2 and f"nothing can listen at port {port}" in ended.json["error"]["message"]
    assert "Give another port" in ended.err and not [*(tmp_path / "root").glob("artifacts/*")]


@pytest.mark.slow
def test_a_run_is_seen_from_its_first_step_to_its_last(tmp_path: Path) -> None:
    rows: list[Any] = [{"text": text_of(n, 8)} for n in range(60)] + [{"text": 5}]
    write_jsonl(tmp_path / "corpus.jsonl", rows)
    corpus = {"paths": [str(tmp_path / "corpus.jsonl")], "rows_per_part": 20}
    policy = Policy.model_validate({"corpus": corpus, "rate": ["length"], "select": {"budget": {"fraction": 0.5}}})
    steps = ("survey", "ingest", "dedup", "rate/length", "select", "order", "manifest")
    read: dict[str, dict[str, Metric]] = {}
    for state in ("run", "cached"):
        with served("0", NoProgress()) as metrics:
            finished = build(policy, root=tmp_path / "root", executor=LocalExecutor(), progress=metrics)
            read[state] = families(metrics)
        assert value(read[state], "selector_steps_total", state=state) == len(steps) == len(finished.steps)
        assert {sample.labels["step"] for sample in read[state]["selector_step_seconds"].samples} == {*steps}
    assert value(read["run"], "selector_documents_total", step="rate/length") == 60
    assert value(read["run"], "selector_quarantined_rows_total", step="ingest") == 1
    assert value(read["run"], "selector_tokens_total", step="rate/length") > 500
    assert value(read["run"], "selector_parts", step="rate/length", state="done") == 4


@pytest.mark.slow
def test_every_request_to_an_object_store_is_counted_and_those_that_are_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counts, "_counted", {})
    with s3() as proxy:
        storage = open_storage("s3://bucket/metrics")
        proxy.requests.clear()
        proxy.fault = lambda _, number: "503" if not number else ""
        assert storage.put_if_absent("a", b"first") and storage.get("a") == b"first"
        assert storage.compare_and_swap("a", b"first", b"second") and storage.delete("a") and not [*storage.list("")]
        assert counts.counted(counts.REQUESTS) == {"": len(proxy.requests)}, proxy.requests
        assert counts.counted(counts.RETRIES)[""] >= 3


# The dashboard and the alerts.

FUNCTIONS = {
    "sum", "max", "count", "rate", "increase", "time", "histogram_quantile", "label_values",
}  # fmt: skip
OF_PROMETHEUS = {"job", "instance"}  # labels that it gives itself


def unknown(expression: str, known: dict[str, set[str]]) -> Iterator[str]:
    """What a query asks for that is not served: names of metrics, and labels that none of its metrics has."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    labels = [name for inner in re.findall(r"\{([^}]*)\}", bare) for name in re.findall(r"(\w+)\s*[=!]", inner)]
    bare = re.sub(r"\{[^}]*\}", "", bare)
    for inner in re.findall(r"\b(?:by|without)\s*\(([^)]*)\)", bare):
        labels += re.findall(r"\w+", inner)
    if "label_values" in bare:
        labels += re.findall(r",\s*(\w+)\s*\)", bare)
        bare = re.sub(r",\s*\w+\s*\)", ")", bare)
    bare = re.sub(r"\b(by|without)\s*\([^)]*\)", "", bare)
    names = {name for name in re.findall(r"[A-Za-z_:]\w*", bare) if name not in FUNCTIONS}
    yield from sorted(names - known.keys())
    of_them = set[str]().union(*(known.get(name, set()) for name in names)) | OF_PROMETHEUS
    yield from sorted(set(labels) - of_them)


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """The labels of each metric that is served, by its name."""
    labels: dict[str, set[str]] = {}
    with served("0", NoProgress()) as metrics:
        at_work(metrics)
        metrics.stalled("ingest", [Stall(part="ingest/1", worker="7", node="a", seconds=60)])
        metrics.ended(STEP)
        for family in families(metrics).values():
            for sample in family.samples:
                labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def queries() -> Sequence[tuple[str, str]]:
    board = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
    asked = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel["targets"]]
    asked += [(one["name"], one["query"]) for one in board["templating"]["list"] if one["type"] == "query"]
    (group,) = yaml.safe_load((MONITORING / "alerts.yaml").read_text("utf-8"))["groups"]
    return [*asked, *((rule["alert"], rule["expr"]) for rule in group["rules"])]


@pytest.mark.parametrize(("title", "expression"), queries())
def test_the_dashboard_and_the_alerts_ask_for_what_is_served(
    title: str, expression: str, known: dict[str, set[str]]
) -> None:
    assert [*unknown(expression, known)] == [], title
    assert expression.count("(") == expression.count(")") and expression.count("{") == expression.count("}")


@pytest.mark.parametrize(
    ("expression", "planted"),
    [
        ("sum(rate(selector_document_total[5m]))", "selector_document_total"),
        ('max(selector_parts{status="open"})', "status"),
        ("sum by (worker) (selector_workers)", "worker"),
        ("selector_quarantined_rows_total / selector_rows_total", "selector_rows_total"),
        ("label_values(selector_build_info, run)", "run"),
        ("sum(selector_part_seconds)", "selector_part_seconds"),
    ],
)
def test_a_query_for_what_is_not_served_is_caught(expression: str, planted: str, known: dict[str, set[str]]) -> None:
    assert [*unknown(expression, known)] == [planted]


def test_every_metric_of_ours_is_on_the_dashboard(known: dict[str, set[str]]) -> None:
    asked = " ".join(expression for _, expression in queries())
    left_out = {name for name in known if name.startswith("selector_") and name not in asked}
    assert left_out == {
        "selector_began_timestamp_seconds", "selector_documents_per_second", "selector_part_seconds_count",
        "selector_part_seconds_sum", "selector_steps_total",
    }  # fmt: skip


def test_panels_have_an_id_and_a_place_of_their_own() -> None:
    panels = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells
