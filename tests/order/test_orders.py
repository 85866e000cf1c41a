"""What each of our orders arranges; the laws that they keep are in tests/testing."""

import hashlib
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import tries
from selector import plugins
from selector.errors import PolicyError
from selector.exact import keyed
from selector.exact.rates import Schedule, Training
from selector.order import Order, Pool, ScoreName
from selector.order.by_score import ByScore
from selector.order.interleaved import Interleaved
from selector.order.shuffled import Shuffled
from selector.plugins.attached import attach
from selector.plugins.options import TABLE_KINDS, arrow_type
from selector.testing import EXACT, SCORE, check_order, documents
from selector.testing._trials import TABLES, pool_for
from selector.testing.orders import answer, arranged, with_visits


def test_an_order_of_another_package_is_put_before_the_same_laws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere_orders.py").write_text("""
import dataclasses
import numpy as np
from selector.order import Placed

@dataclasses.dataclass(frozen=True, kw_only=True)
class Alphabetical(Placed):
    "Sorts by id."
    def keys(self, batch, summary, seed):
        return np.zeros(batch.num_rows, np.uint64)
""")
    monkeypatch.syspath_prepend(tmp_path)
    check_order("elsewhere_orders:Alphabetical", examples=5)


def places(order: Order, table: pa.Table, seed: int = 7) -> list[int]:
    """The documents first to last, by their row."""
    return order.arrange(Pool.of(table, 5), seed).visits["document"].to_pylist()


def meaning(table: pa.Table, higher_is: str) -> pa.Table:
    at = table.schema.get_field_index(SCORE)
    return table.cast(table.schema.set(at, table.schema.field(at).with_metadata({"higher_is": higher_is})))


@pytest.mark.parametrize(
    ("higher_is", "curriculum", "anti_curriculum"),
    [
        ("harder", [4, 1, 3, 0, 2], [0, 1, 3, 4, 2]),
        ("rarer", [4, 1, 3, 0, 2], [0, 1, 3, 4, 2]),
        ("better", [4, 1, 3, 0, 2], [0, 1, 3, 4, 2]),
        ("closer", [0, 1, 3, 4, 2], [4, 1, 3, 0, 2]),
        ("easier", [0, 1, 3, 4, 2], [4, 1, 3, 0, 2]),
    ],
)
def test_what_a_score_means_decides_what_is_easy(
    higher_is: str, curriculum: list[int], anti_curriculum: list[int]
) -> None:
    table = meaning(documents([{SCORE: score} for score in (9.0, 2.0, None, 2.0, -1.0)]), higher_is)
    assert places(ByScore(score=ScoreName(SCORE)), table) == curriculum
    assert places(ByScore(score=ScoreName(SCORE), direction="anti_curriculum"), table) == anti_curriculum


def test_shuffled_depends_on_the_seed_and_on_nothing_else() -> None:
    table = documents([{"doc_id": keyed.digest(b"%d" % i)} for i in range(50)])
    assert arranged(Shuffled(), table, 7, 1) == arranged(Shuffled(), table, 50, 1)
    assert arranged(Shuffled(), table, 7, 1) != arranged(Shuffled(), table, 7, 2)


@tries(40)
@given(TABLES, st.integers(0, 40))
def test_removing_documents_leaves_the_others_in_the_same_shuffled_order(table: pa.Table, some: int) -> None:
    gone = set(table["doc_id"].to_pylist()[:some])
    whole = [doc_id for doc_id, *_ in arranged(Shuffled(), table, 7, 1)[0] if doc_id not in gone]
    assert [doc_id for doc_id, *_ in arranged(Shuffled(), table.slice(some), 7, 1)[0]] == whole


@tries(60)
@given(TABLES, st.integers(1, 6), st.sampled_from(["source", "cluster"]))
def test_interleaved_deals_pieces_like_array_split(
    table: pa.Table, rounds: int, by: Literal["source", "cluster"]
) -> None:
    ids, groups = table["doc_id"].to_pylist(), table[by].to_pylist()
    scores = [np.inf if score is None else score for score in table[SCORE].to_pylist()]
    pieces = [
        np.array_split(
            sorted((i for i, g in enumerate(groups) if g == group), key=lambda i: (scores[i], ids[i])), rounds
        )
        for group in sorted(set(groups))
    ]
    expected = [int(i) for r in range(rounds) for piece in pieces for i in piece[r]]
    assert places(Interleaved(by=by, rounds=rounds, score=ScoreName(SCORE)), table) == expected


def test_an_exact_score_is_sorted_to_its_last_unit() -> None:
    table = documents([{EXACT: edits} for edits in (2**60 + 1, 2**60, None, -(2**60) - 1, -(2**60))])
    assert places(ByScore(score=ScoreName(EXACT)), table) == [3, 4, 1, 0, 2]
    assert places(ByScore(score=ScoreName(EXACT), direction="anti_curriculum"), table) == [0, 1, 4, 3, 2]


def test_the_visits_of_a_shuffled_document_lie_apart_and_its_first_visit_is_where_it_always_was() -> None:
    table = documents([{"doc_id": keyed.digest(b"%d" % i)} for i in range(50)])
    twice = with_visits(table, [2] * 50)
    once = [doc_id for doc_id, *_ in arranged(Shuffled(), table, 7, 1)[0]]
    visits = Shuffled().arrange(pool_for(Shuffled(), twice, 7), 1).visits["document"].to_pylist()
    ids = [twice["doc_id"][row].as_py() for row in visits]
    assert [doc_id for row, doc_id in zip(visits, ids, strict=True) if row % 2 == 0] == once
    assert sum(one == next_one for one, next_one in itertools.pairwise(ids)) < 5


def test_an_order_asks_only_for_the_column_that_makes_its_groups() -> None:
    assert (Interleaved().needs, Interleaved(by="cluster").needs, Shuffled().needs) == (("source",), ("cluster",), ())


def test_interleaved_without_a_score_shuffles_inside_the_groups() -> None:
    table = documents([{"source": ["b", "a"][i % 2]} for i in range(40)])
    assert places(Interleaved(), table, 1) != places(Interleaved(), table, 2)
    assert [i % 2 for i in places(Interleaved(rounds=2), table)] == [1] * 10 + [0] * 10 + [1] * 10 + [0] * 10


def test_interleaved_needs_a_round() -> None:
    with pytest.raises(PolicyError, match=r"interleaved\.rounds=0 leaves no place .*: write 1 or more"):
        Interleaved(rounds=0)


GOLDEN: list[tuple[str, dict[str, Any], str]] = [
    ("shuffled", {}, "ef66afabb56e6aa4"),
    ("by_score", {"score": SCORE}, "db6946d4e6e98e90"),
    ("by_score", {"score": SCORE, "direction": "anti_curriculum"}, "a85c2bdbee986b0c"),
    ("interleaved", {}, "bf1f8b4c19955728"),
    ("interleaved", {"by": "cluster", "score": SCORE, "rounds": 4}, "19ee6bb36859ced1"),
    ("folded", {"score": SCORE}, "d1584a23e01bf1bd"),
    ("zigzag", {"score": SCORE}, "16766efb3d994938"),
    ("stair", {"score": SCORE, "direction": "anti_curriculum"}, "abcae1c38756b739"),
    ("saw", {"score": SCORE}, "627d9b69e1df4afd"),
    ("segmented", {"score": SCORE}, "80e1300861292332"),
    ("segmented", {"score": SCORE, "front": 0.2, "front_from": "hard", "back_from": "easy"}, "75c2709803794bb5"),
    ("drawn", {"score": SCORE}, "2635cf1649f5b885"),
    ("drawn", {"score": SCORE, "temperature": 0.5, "direction": "anti_curriculum"}, "960762dd667ce061"),
    ("blocked", {}, "72262788ea5fdb88"),
    ("blocked", {"by": "cluster", "first": [3, 1], "score": SCORE, "sorted_groups": [3, 2]}, "badbd735097103d8"),
    ("round_robin", {"score": SCORE}, "478e40b894e79cdd"),
    ("round_robin", {"by": "cluster", "level": "source", "levels": ["web"]}, "c7525f983b2540f4"),
    ("mixed", {}, "a6242fcdb7111dec"),
    ("mixed", {"weights": {"web": 0.6, "math": 0.3, "code": 0.1}, "score": SCORE}, "db2a8d54f5713813"),
    ("bands", {"score": SCORE}, "33b7bc61394d4987"),
    (
        "bands",
        {"score": SCORE, "up_to": [0.5, 1.1], "by": "source", "inside": "sorted", "direction": "anti_curriculum"},
        "2221a8e1364a5e62",
    ),
    ("balanced", {"score": SCORE, "by": "cluster"}, "8e62005f1d95f003"),
    ("jittered", {"inner": {"by_score": {"score": SCORE}}, "size": 16}, "dbde3f56a2cc2941"),
    ("jittered", {"inner": "shuffled", "noise": "gumbel", "size": 2.5}, "587dec7d5018a4af"),
    ("warmup", {"inner": {"by_score": {"score": SCORE}}, "share": 0.2}, "eaef0c3e404b2b3d"),
    ("spread", {"inner": {"by_score": {"score": SCORE}}, "by": "cluster", "window": 16, "most": 3}, "8c1778c8d6b34bdb"),
    ("designed", {}, "6c11113c613d1fdc"),
    ("taxonomy", {"score": SCORE}, "3ab29d996c5924ca"),
    ("paced", {"score": SCORE, "pacing": "root"}, "be072000f2d722a0"),
    ("pooled", {"score": SCORE, "epochs": 1.5}, "e7000ce4015b791c"),
    ("cyclical", {"score": SCORE, "ages": True, "epochs": 3.0}, "edc9b3cd6fde2a52"),
    ("fixed", {"scores": [SCORE], "epochs": 1.5}, "fba31460ab915928"),
    ("blocked", {"by": "cluster", "score": SCORE, "groups_by": SCORE}, "1c2271e6cd28dbc1"),
    ("clients", {"by": "cluster", "score": SCORE}, "122c6f797bffe61a"),
    ("pooled", {"score": SCORE, "pacing": "cyclical", "epochs": 1.5}, "b26dc546a79e9e28"),
    ("apart", {"inner": {"pooled": {"score": SCORE, "epochs": 3}}, "gap": 64}, "96eff0467f308673"),
]


GOLDEN_TRAINING = Training(global_batch_size=8, schedule=Schedule(peak=0.5, decay="linear", weight_decay=0.1))
GOLDEN_DOCUMENTS = [
    {
        "doc_id": keyed.digest(b"golden %d" % i),
        "source": ["web", "code", "math"][i * i % 3],
        "cluster": i * 31 % 7,
        SCORE: None if i % 29 == 0 else i * 6151 % 101 / 64,
    }
    for i in range(300)
]


@pytest.mark.parametrize(("name", "options", "golden"), GOLDEN)
def test_golden_orders(name: str, options: dict[str, Any], golden: str) -> None:
    order = plugins.make("orders", name, options, "order.using", Order)
    visits, _ = arranged(order, documents(GOLDEN_DOCUMENTS), 64, 7)
    digest = hashlib.sha256(b"".join(doc_id for doc_id, *_ in visits)).hexdigest()[:16]
    assert digest == golden, "changing this changes every user's data"


SORTED = {"by_score": {"score": SCORE}}
TWICE = {"pooled": {"score": SCORE, "epochs": 2}}
PHASES = [
    {"share": 0.3, "weights": {"web": 3, "code": 1}},
    {"name": "two", "tokens": 700, "weights": {"code": 2}, "most_visits": 1, "inner": SORTED},
    {"pool": "replaced"},
]
GOLDEN_VISITS: list[tuple[str, dict[str, Any], str]] = [
    ("phases", {"phases": PHASES, "visits": 2}, "35008a8f182dbd98"),
    ("phases", {"phases": [{"weights": {"1": 1}}, {"weights": {"2": 1}}], "bands_of": SCORE}, "44a23d4ddb965796"),
    ("heads", {"epochs": 2}, "24539834b2a4bb6f"),
    ("heads", {"heads": "single", "by": "cluster", "first": [3]}, "1468af50741f5ec9"),
    ("rounds", {"score": SCORE}, "4ac09bdf39db440e"),
    ("preference", {"weak": SCORE, "strong": EXACT}, "faa55bfd73137e58"),
    ("quadrants", {"weak": SCORE, "strong": EXACT}, "6e24328ccd15f307"),
    ("least_share", {"inner": SORTED, "shares": {"code": 0.25}}, "c7fb8c5686ec4167"),
    ("least_share", {"inner": SORTED, "at": "start"}, "32bed52a52d134b3"),
    ("matched", {"inner": TWICE, "draw": 1}, "d980a149ed070761"),
    ("where_it_counts", {"inner": "shuffled", "score": SCORE, "share": 0.2}, "b5dba0b4ba3361c7"),
    ("where_it_counts", {"inner": {"bands": {"score": SCORE}}, "score": SCORE}, "7362497f7e51cc7e"),
    ("prerequisites", {"score": SCORE, "graph": "made.jsonl"}, "b5554fc5f1c04527"),
    ("rank_weights", {"inner": TWICE, "run": "made.jsonl"}, "6221b278f1815059"),
    ("rank_weights", {"inner": TWICE, "run": "made.jsonl", "by": "kde", "compared": "pointwise"}, "91a902596b2c46c2"),
    ("score_weights", {"inner": TWICE, "score": SCORE, "epochs": 4}, "db1deea0abcb8859"),
    ("improvement_weights", {"inner": TWICE, "reported": "made.jsonl"}, "d6203950b221abb9"),
    ("early_learning_weights", {"inner": TWICE, "reported": "made.jsonl"}, "3ea4345dedac19b6"),
]


def golden_table(option: plugins.Option) -> pa.Table:
    """What a table says of the golden documents, and of two sources."""
    ids = [row["doc_id"] for row in GOLDEN_DOCUMENTS]
    columns: dict[str, list[Any]] = {
        "before": ["code"], "after": ["web"], "document": ids * 3,
        "query": [f"q{i % 20}" for i in range(900)], "score": [i * 37 % 101 / 8 for i in range(900)],
        "relevant": [i % 7 < 2 for i in range(900)], "epoch": [i // 300 for i in range(900)],
        "loss": [(1 + i % 13) / (1 + i // 300 * (i % 3)) for i in range(900)],
    }  # fmt: skip
    types = {name: arrow_type(kind) for name, kind in option.columns.types.items()}
    return pa.table([pa.array(columns[name], kind) for name, kind in types.items()], pa.schema(list(types.items())))


@pytest.mark.parametrize(("name", "options", "golden"), GOLDEN_VISITS)
def test_golden_visits(name: str, options: dict[str, Any], golden: str) -> None:
    order = plugins.make("orders", name, options, "order.using", Order)
    order = attach(order, {option.path: golden_table(option) for option in plugins.options_of(order, *TABLE_KINDS)})
    rows = [{EXACT: 1 + i * 5, **row} for i, row in enumerate(GOLDEN_DOCUMENTS)]
    pool = replace(pool_for(order, with_visits(documents(rows), [1, 1, 2]), 64), training=GOLDEN_TRAINING)
    visits, left = answer(order, pool, 7)
    digest = hashlib.sha256(repr((visits, sorted(left))).encode()).hexdigest()[:16]
    assert digest == golden, "changing this changes every user's data"
