"""The simulation: what it draws, that the flow makes the manifest of the reference of it, and what it tells."""

import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import text_of, write_jsonl
from jobs.bench import drawn, parts
from jobs.bench import selectors as measures
from jobs.bench.__main__ import main
from jobs.bench.drawn import MEANINGS, SOURCES, Corpus, scores
from jobs.bench.meter import Meter
from jobs.bench.reference import ORDERS, SELECTORS, differences
from jobs.bench.simulate import Report, Simulation, draw, measure
from selector import pipeline, plugins
from selector.cli.gallery import TABLE, example_of
from selector.engine.exchange import exchange
from selector.engine.local import LocalExecutor
from selector.engine.step import Result
from selector.errors import SelectorError, UsageError
from selector.exact import keyed
from selector.order import Dealt
from selector.order._around import Around
from selector.order._parted import Parted
from selector.steps import listed, shards
from selector.steps.ranges import arranging, spans

pytestmark = pytest.mark.slow

DRAWN = Simulation(num_documents=20_000, num_clusters=24, budget={"fraction": 0.2}, seed=3)
CUTS = {"1 part": (1, 1), "3 parts": (1, 3), "5 files of 4 parts": (5, 20), "2 files of 30 parts": (2, 60)}
BUDGETS: Mapping[str, dict[str, Any]] = {"documents": {"documents": 3000}, "tokens": {"fraction": 0.2}}


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Simulation, Path]]:
    """The same documents in every cut, drawn once: what was asked, and where it lies."""
    made: dict[str, tuple[Simulation, Path]] = {}
    for cut, (num_files, num_parts) in CUTS.items():
        asked = dataclasses.replace(DRAWN, num_files=num_files, num_parts=num_parts)
        made[cut] = asked, tmp_path_factory.mktemp("home")
        draw(*made[cut])
    return made


def assert_equal(asked: Simulation, home: Path) -> Report:
    """The flow and the reference make the same of what was drawn."""
    report = measure(asked, home)
    assert differences(asked.corpus, asked.policy(home / "corpus"), Path(report.uri)) == []
    return report


CASES = [
    (selector, order, unit, overshoot)
    for selector in SELECTORS
    for order in ORDERS
    for unit in BUDGETS
    for overshoot in ("stop", "fill", "cross")
]


@pytest.mark.parametrize(
    ("number", "selector", "order", "unit", "overshoot"), [(number, *case) for number, case in enumerate(CASES)]
)
def test_the_flow_makes_the_manifest_of_the_reference(
    number: int, selector: str, order: str, unit: str, overshoot: str, homes: dict[str, tuple[Simulation, Path]]
) -> None:
    """Every case in one cut, in turn; the next test has every cut."""
    asked, home = list(homes.values())[number % len(homes)]
    budget = BUDGETS[unit] | {"overshoot": overshoot}
    assert_equal(dataclasses.replace(asked, select=selector, order=order, budget=budget), home)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    "changed",
    [
        {"select": {"kmeans_quality": {"temperature": 0.5}}, "missing": "last", "budget": {"tokens": 900_000}},
        {"select": {"kmeans_quality": {"temperature": 0}}, "where": "quality > -1.5 AND source = 'web'"},
        {"order": {"by_score": {"direction": "anti_curriculum"}}, "where": None, "budget": {"fraction": 1.0}},
    ],
    ids=["scores may be missing", "nothing is drawn", "all is kept"],
)
def test_the_manifest_is_the_same_in_every_cut(
    changed: dict[str, Any], cut: str, homes: dict[str, tuple[Simulation, Path]]
) -> None:
    asked, home = homes[cut]
    assert_equal(dataclasses.replace(asked, **changed), home)


@pytest.fixture(scope="module")
def unasked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Simulation, Path]:
    """Twenty parts of the same documents. Nothing is run here, so that a run in a copy finds no order done."""
    asked, home = dataclasses.replace(DRAWN, num_files=5, num_parts=20), tmp_path_factory.mktemp("home")
    draw(asked, home)
    return asked, home


@pytest.mark.parametrize("unit", BUDGETS)
@pytest.mark.parametrize(
    "order",
    ["by_score", "interleaved", {"interleaved": {"by": "cluster", "rounds": 5, "score": "difficulty"}}],
    ids=str,
)
def test_the_manifest_is_that_of_the_reference_wherever_shards_and_ranges_begin(
    order: Any, unit: str, unasked: tuple[Simulation, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = dataclasses.replace(unasked[0], order=order, budget=BUDGETS[unit])
    policy = asked.policy(unasked[1] / "corpus")
    exchanged: list[tuple[int, int]] = []

    def noted(*args: Any) -> Any:
        exchanged.append((len(args[3]), args[4]))
        return exchange(*args)

    monkeypatch.setattr(arranging, "exchange", noted)
    digests: set[str] = set()
    for shard_rows, range_rows, num_shards in ((1 << 20, 1 << 20, 1), (3000, 500, 7), (7000, 1500, 3)):
        monkeypatch.setattr(shards, "SHARD_ROWS", shard_rows)
        monkeypatch.setattr(spans, "RANGE_ROWS", range_rows)
        exchanged.clear()
        root = shutil.copytree(unasked[1] / "root", tmp_path / f"{shard_rows}")
        outcome = pipeline.build(policy, root=str(root), executor=LocalExecutor(workers=1))
        assert differences(asked.corpus, policy, Path(outcome.uri)) == []
        digests.add(outcome.manifest.info["order_digest"])

        num_ranges = -(-outcome.manifest.info["counts"]["kept"] // range_rows)
        assert (num_ranges > 1) == (num_shards > 1)
        to_ranges, *again, back = exchanged
        assert to_ranges == (num_shards, num_ranges) and back == (num_ranges, num_shards)
        assert again == ([] if order == "by_score" else [(num_ranges, num_ranges)])
    assert len(digests) == 1


@pytest.fixture(scope="module")
def one_root(unasked: tuple[Simulation, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One root for all of these orders: what comes before the order is done once."""
    return shutil.copytree(unasked[1] / "root", tmp_path_factory.mktemp("one") / "root")


OPTIONS: dict[str, dict[str, Any]] = {  # of those that cannot do without, or that say more than the defaults
    "decorrelated": {"batch": 64, "picks": 16},
    "diverse": {"most": 0.8},
    "iterative": {"inner": {"kmeans_quality": {"score": "quality"}}, "signal": "difficulty"},
    "matching": {"queries": ["QUERIES"]},
    "mixture": {"weights": {"web": 2.0, "code": 1.0}, "visits": 2},
    "negatives": {"queries": "QUERIES", "first": 3, "last": 40, "count": 9},
    "parallel": {"scores": ["difficulty"]},
    "prune": {"most": 0.8},
    "repeats": {"decay": 0.5},
    "task_balanced": {"targets": {"web": 0.5, "books": 0.5}},
    "threshold": {"least": 0.5},
}
PLACED = [name for name in plugins.names("orders") if issubclass(plugins.find("orders", name), Dealt | Parted)]
AROUND = [name for name in plugins.names("orders") if issubclass(plugins.find("orders", name), Around)]
UNTRAINED = [name for name in AROUND if not getattr(plugins.find("orders", name), "reads_training", False)]
OF_VECTORS = ["designed"]
OF_TABLES = ["early_learning_weights", "improvement_weights", "rank_weights"]  # on doc_ids
BY_SHARDS = [name for name in (*PLACED, *UNTRAINED) if name not in (*OF_VECTORS, *OF_TABLES)]
LIMITS: dict[str, Any] = {
    "shares": {"source": {"web": {"least": 0.4}, "code": {"most": 0.05}, "chat": {"most": 0.0}}},
    "visits": {"most": 1},
}
ORDER_OPTIONS: dict[str, dict[str, Any]] = {  # that say more than the defaults, of some
    "bands": {"by": "source"},
    "blocked": {"by": "cluster", "score": "difficulty", "groups_by": "quality"},
    "clients": {"by": "cluster", "pacing": "root"},
    "folded": {"layers": 5},
    "interleaved": {"by": "cluster", "rounds": 5, "score": "difficulty"},
    "jittered": {"inner": {"bands": {"score": "difficulty", "by": "source"}}, "size": 700},
    "matched": {"inner": {"warmup": {"inner": {"by_score": {"score": "difficulty"}}}}},
    "mixed": {"weights": {name: [5, 2, 0.5, 0][i % 4] for i, name in enumerate(SOURCES)}},
    "paced": {"pacing": "root"},
    "phases": {
        "phases": [
            {"share": 0.4, "weights": {"web": 3, "code": 1}},
            {"name": "then", "share": 0.3, "inner": {"warmup": {"inner": {"by_score": {"score": "difficulty"}}}}},
            {"pool": "replaced", "inner": {"spread": {"inner": "shuffled", "window": 8, "most": 3}}},
        ]
    },
    "round_robin": {"by": "cluster", "level": "source"},
    "stair": {"sections": 5},
}


def order_of(name: str, folder: Path) -> dict[str, dict[str, Any]]:
    """An order as a policy writes it: with what it cannot do without, and with the options above."""
    options = {**example_of(plugins.find("orders", name)), **ORDER_OPTIONS.get(name, {})}
    for key in [key for key, value in options.items() if value == TABLE]:
        pairs = [{"before": before, "after": after} for before, after in itertools.pairwise(SOURCES)]
        options[key] = str(write_jsonl(folder / TABLE, pairs))
    return {name: options}


@pytest.mark.parametrize("name", BY_SHARDS)
def test_an_order_over_shards_and_ranges_is_that_of_one_sort(
    name: str, unasked: tuple[Simulation, Path], one_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = dataclasses.replace(unasked[0], order=order_of(name, tmp_path), missing="last")
    policy = asked.policy(unasked[1] / "corpus")
    monkeypatch.setattr(shards, "SHARD_ROWS", 3000)
    monkeypatch.setattr(spans, "RANGE_ROWS", 500)
    outcome = pipeline.build(policy, root=str(one_root), executor=LocalExecutor(workers=1))
    assert len(outcome.manifest) >= outcome.manifest.info["counts"]["kept"] > 3000
    assert differences(asked.corpus, policy, Path(outcome.uri)) == []


@pytest.mark.parametrize("name", [*BY_SHARDS, *OF_VECTORS, "pooled"])
def test_any_order_is_simulated_by_its_name(
    name: str, homes: dict[str, tuple[Simulation, Path]], with_vectors: tuple[Simulation, Path], tmp_path: Path
) -> None:
    asked, home = with_vectors if name in OF_VECTORS else homes["3 parts"]
    graph = write_jsonl(tmp_path / "graph.jsonl", [{"before": "web", "after": "books"}])
    options = {"prerequisites": {"graph": str(graph)}, "phases": ORDER_OPTIONS["phases"]}
    budget = (
        {"fraction": 0.1} if name in OF_VECTORS else asked.budget
    )  # not one of the next test, which has other shards
    select = "kmeans_quality" if name in OF_VECTORS else "random"
    changed = dataclasses.replace(asked, select=select, budget=budget, order={name: options.get(name, {})})
    assert measure(changed, home).num_kept > 0


@pytest.fixture(scope="module")
def with_vectors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Simulation, Path]:
    """Three thousand documents with vectors and neighbours, in four parts."""
    home = tmp_path_factory.mktemp("home")
    asked = dataclasses.replace(DRAWN, num_documents=3_000, num_parts=4, select="facility_location")
    draw(asked, home)
    return asked, home


def select_of(name: str, folder: Path) -> dict[str, dict[str, Any]]:
    """A selector as a policy writes it: with what it cannot do without, and with the options above."""
    queries = str(write_jsonl(folder / "queries.jsonl", [{"text": f"Example {i}"} for i in range(5)]))
    return {
        name: {
            key: [queries] if value == ["QUERIES"] else queries if value == "QUERIES" else value
            for key, value in OPTIONS.get(name, {}).items()
        }
    }


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        *((name, {}) for name in plugins.names("selectors")),
        *((name, LIMITS) for name in ("iterative", "repeats")),
    ],
    ids=lambda value: value if isinstance(value, str) else "within limits" if value else "",
)
def test_any_selector_over_shards_is_that_of_all_documents_at_once(
    name: str,
    limits: dict[str, Any],
    with_vectors: tuple[Simulation, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, home = with_vectors
    changed = dataclasses.replace(asked, select=select_of(name, tmp_path), order="shuffled", limits=limits)
    policy, executor = changed.policy(home / "corpus"), changed.made_executor()  # with the tables that options name
    drawn.draw(policy, changed.corpus, str(home / "root"), executor, has_vectors=True)
    monkeypatch.setattr(shards, "SHARD_ROWS", 900)
    assert assert_equal(changed, home).num_kept > 5


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        ("random", {"documents": 3000}),
        ("top", {"tokens": 2_000_000}),
        ("kmeans_quality", {"documents": 3000}),
        ("difference", {"tokens": 2_000_000}),
    ],
)
def test_what_is_included_and_excluded_is_that_of_the_reference_whatever_the_shards(
    name: str,
    budget: dict[str, Any],
    unasked: tuple[Simulation, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, home = unasked
    ids = keyed.ids(asked.corpus.ids(np.arange(0, 20_000, 50))).to_pylist()
    must = write_jsonl(tmp_path / "must.jsonl", [{"doc_id": doc_id.hex()} for doc_id in ids])
    digests: set[str] = set()
    for rows in (1 << 20, 3000):
        for module, constant in ((shards, "SHARD_ROWS"), (listed, "ITEM_ROWS"), (listed, "BUCKET_ROWS")):
            monkeypatch.setattr(module, constant, rows)
        root, executor = str(shutil.copytree(home / "root", tmp_path / f"{rows}")), LocalExecutor(workers=1)
        before = dataclasses.replace(asked, select="top", budget={"documents": 2000}).policy(home / "corpus")
        limits = {"exclude": [pipeline.build(before, root=root, executor=executor).uri], "include": [str(must)]}
        policy = dataclasses.replace(asked, select=name, limits=limits, budget=budget).policy(home / "corpus")
        outcome = pipeline.build(policy, root=root, executor=executor)
        assert differences(asked.corpus, policy, Path(outcome.uri)) == []
        assert outcome.manifest.info["counts"]["marked"] == 2000
        digests.add(outcome.manifest.info["order_digest"])
    assert len(digests) == 1


def test_all_before_select_is_found_done_and_every_step_is_measured(
    homes: dict[str, tuple[Simulation, Path]],
) -> None:
    asked, home = homes["1 part"]
    costs = measure(dataclasses.replace(asked, budget={"documents": 777}), home).costs
    names = [cost.name for cost in costs]
    assert names[:8] == [
        "survey", "ingest", "dedup", "embed", "centroids", "cluster", "rate/quality", "rate/difficulty",
    ]  # fmt: skip
    assert all(cost.cached for cost in costs[:8])
    assert names[-3:] == ["order", "manifest", "the end"] and "select" in names
    assert all(cost.wall >= 0 and cost.cpu >= 0 and cost.peak_bytes > 1 << 20 for cost in costs)


def test_a_run_that_asks_for_something_else_than_was_drawn_is_stopped(
    homes: dict[str, tuple[Simulation, Path]], tmp_path: Path
) -> None:
    asked, home = homes["1 part"]
    (tmp_path / "corpus").symlink_to(home / "corpus")
    with pytest.raises(SelectorError, match="survey was to be found done"):
        measure(asked, tmp_path)


def test_a_difference_is_told_with_the_first_document_that_it_is_about(
    homes: dict[str, tuple[Simulation, Path]],
) -> None:
    asked, home = homes["3 parts"]
    asked = dataclasses.replace(asked, budget={"documents": 3000})
    report = measure(asked, home)
    other = dataclasses.replace(asked, budget={"documents": 3020})
    problems = differences(asked.corpus, other.policy(home / "corpus"), Path(report.uri))
    told = " ".join(problems)
    for what in ("another outcome; the first is number", "another reason", "probability is off", "visits is another"):
        assert what in told
    assert "the order digest is" in told and "another id" not in told
    fewer = dataclasses.replace(asked.corpus, num_documents=19_999)
    assert differences(fewer, asked.policy(home / "corpus"), Path(report.uri)) == [
        "20,000 documents have an outcome, and 19,999 were drawn"
    ]


@pytest.mark.parametrize("seed", [0, 12])
def test_a_document_is_what_its_number_says_wherever_it_is_drawn(seed: int) -> None:
    corpus = Corpus(num_documents=50_000, num_files=3, num_clusters=100, seed=seed)
    ids = corpus.ids(np.arange(50_000))
    assert np.array_equal(corpus.ids(np.arange(31_000, 31_100)), ids[31_000:31_100])
    first = np.unique(ids, axis=0, return_index=True)[1]
    assert 0.045 < 1 - len(first) / 50_000 < 0.055, "a twentieth of the documents are copies of earlier ones"
    assert [corpus.first_of(file) for file in range(4)] == [0, 16_666, 33_333, 50_000]
    clusters, tokens, sources = corpus.clusters(ids), corpus.num_tokens(ids), corpus.sources(np.arange(50_000))
    assert set(clusters.tolist()) == set(range(100)) and set(sources.tolist()) == set(range(len(SOURCES)))
    assert 500 < np.median(tokens) < 600 and tokens.min() > 0
    for score in MEANINGS:
        values = scores(ids, score)
        assert 0.008 < np.isnan(values).mean() < 0.012, "a hundredth have no score"
        assert abs(np.nanmean(values)) < 0.02 and 0.98 < np.nanstd(values) < 1.02
        assert len(np.unique(values)) < 25_000, "some are equal"
    quality, difficulty = (np.nan_to_num(scores(ids, score)) for score in MEANINGS)
    assert abs((quality * difficulty).mean()) < 0.02, "one score says nothing of the other"


def test_the_meter_counts_what_processes_below_it_use() -> None:
    code = """
import time
data, began = bytearray(200 << 20), time.process_time()
while time.process_time() < began + 0.5:
    pass
"""
    with Meter(()) as meter:
        subprocess.run([sys.executable, "-c", code], check=True)
        meter.ended(Result(name="work", fingerprint="", cached=False, rows_in=2, rows_out=1, num_bytes=0, seconds=0.0))
    work, end = meter.costs
    assert work.cpu >= 0.5 and work.peak_bytes > 200 << 20
    assert (work.name, work.rows_in, work.rows_out, work.cached) == ("work", 2, 1, False)
    assert end.cpu < 0.5 and end.peak_bytes < work.peak_bytes


def test_no_step_costs_less_than_nothing_though_the_clock_of_the_kernel_stands_still_between_its_ticks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = iter([1.0, 1.0, 1.01, 1.5])
    monkeypatch.setattr("jobs.bench.meter._cpu_seconds", lambda: next(ticks))
    looks = [0.0, 0.02, 0.02]
    monkeypatch.setattr("time.thread_time", lambda: looks.pop(0) if len(looks) > 1 else looks[0])
    with Meter(()) as meter:
        while len(looks) > 1:  # the third look begins when the second is counted
            time.sleep(0)
        for name in ("first", "second"):
            meter.ended(
                Result(name=name, fingerprint="", cached=False, rows_in=0, rows_out=0, num_bytes=0, seconds=0.0)
            )
    assert [round(cost.cpu, 2) for cost in meter.costs] == [0, 0, 0.48], "0.5 in all, less 0.02 of looking"


def test_the_command_measures_checks_and_removes_what_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["simulate", "3k", "--clusters", "8", "--parts", "2", "--root", str(tmp_path)]
    assert main([*asked, "--budget", "documents=100", "--check", "--again"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("3,000 documents, files: 1, clusters: 8, seed: 0, executor: local")
    assert "100 documents in the manifest." in told and "are those of the reference" in told
    lines = {line.split("  ")[0]: line for line in told.splitlines()}
    assert lines["again, nothing changed"].endswith("ran nothing")
    assert lines["again, order changed"].endswith("ran order, manifest")
    for what in ("budget", "rule", "score"):
        assert lines[f"again, {what} changed"].endswith("select, order, manifest")
    assert os.listdir(tmp_path) == []

    assert main([*asked, "--select", "random", "--order", "shuffled", "--keep"]) == 0
    (kept,) = os.listdir(tmp_path)
    assert f"It is kept in {tmp_path / kept}." in capsys.readouterr().out
    assert {"corpus", "root"} <= set(os.listdir(tmp_path / kept))


def test_a_small_part_costs_one_object_in_every_step_that_has_parts(tmp_path: Path) -> None:
    parts.write(tmp_path, 20)
    few, many = (parts.measure(tmp_path, 0, folder, "local") for folder in ("parts of few", "parts of each"))
    more = {family: many.objects[family] - few.objects[family] for family in many.objects}
    of_parts = {
        family: more.pop(family) for family in ("ingest", "columns.parts", "dedup.parts", "embed", "cluster", "rate")
    }
    assert set(of_parts.values()) == {18}, "a seal, and within it its tables"
    assert more.pop("survey") < 5, "some 256 files make one task, which ends where a hash of a path says so"
    assert set(more.values()) == {0}, "no other step stores anything for a part"
    assert few.total > 0 and set(few.cpu) == set(many.cpu)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["--clusters", "2000"], "1,000 documents are too few for 1 files and 2,000 clusters"),
        (["--select", "shuffled"], "There is no selector called 'shuffled'"),
        (["--where", "num_tokens + 1 > 5", "--check"], "--check knows comparisons with a number or a word"),
        (["--missing", "impute", "--check"], "--missing impute: --check knows drop, last"),
        (["--workers", "0"], "write a whole number of 1 or more"),
        (["--select", "[top]"], "write a name, or one name with its options"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is_drawn(
    asked: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: Any = main(["simulate", "1k", "--clusters", "8", "--root", str(tmp_path), *asked])
    except SystemExit as ended:
        code = ended.code
    assert code == UsageError.exit_code and told in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_selectors_are_measured_beside_the_control_over_real_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": text_of(n, 6), "kind": "abc"[n % 3 if n % 5 else 0], "theme": n % 9} for n in range(120)]
    write_jsonl(tmp_path / "corpus.jsonl", rows)
    tried = (
        measures.Tried(name="random", options={}, more_seeds=3),
        measures.Tried(name="top", options={"score": "SCORE"}),
        measures.Tried(name="facility_location", options={}, num_clusters=1),
    )
    monkeypatch.setattr(measures, "SELECTORS", tried)
    asked = ["selectors", str(tmp_path / "corpus.jsonl"), "--source", "kind", "--score", "length", "--shares", "0.1"]
    assert main([*asked, "--topic", "theme", "--seeds", "2", "--root", str(tmp_path / "root")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| selector | budget | entropy of sources | sources | topics |") and len(lines) == 5
    assert lines[2].startswith("| random | 10% | 0.") and "±" in lines[2]
    assert lines[3].startswith("| top | 10% | ") and "±" not in lines[3], "nothing of it depends on the seed"
    assert lines[4].startswith("| facility_location, clusters: 1 | 10% | ") and "±" not in lines[4]


def test_the_entropy_of_equal_shares_is_one_and_an_interval_is_students() -> None:
    assert abs(measures.entropy([5, 5], 2) - 1) < 1e-12 and measures.entropy([9], 3) == 0
    same, different = np.array([[1.0, 0.0]] * 3), np.eye(3)
    assert abs(measures.vendi_score(same) - 1) < 1e-9 and abs(measures.vendi_score(different) - 3) < 1e-9
    half = np.linalg.cholesky([[1, 0.5], [0.5, 1]]).astype(np.float64)
    assert abs(measures.vendi_score(half) - 1.754765) < 1e-6, "worked case Q9"
    assert measures.interval([1.0, 1.0]) == "1.000" and measures.interval([1.0, 2.0]) == "1.500 ± 6.353"


def test_without_a_graphics_card_nothing_is_measured_of_one_and_that_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    if LocalExecutor().device() == "cuda":
        pytest.skip("there is a card here")
    assert main(["gpu"]) == 0
    said = capsys.readouterr().out
    assert said == "There is no GPU here that torch can use, so nothing was run and nothing is known of one.\n"


@pytest.mark.slow
def test_what_is_measured_of_a_card_can_be_rehearsed_on_a_cpu(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--documents", "60", "--vectors", "2k", "--clusters", "8"]
    assert main(["gpu", "--device", "cpu", "--models", str(tiny_model), *sizes]) == 0
    said = capsys.readouterr().out
    assert "a rehearsal on the CPU" in said and "embed step" in said
    assert "labels that differ from the CPU's: 0 (none may)" in said
