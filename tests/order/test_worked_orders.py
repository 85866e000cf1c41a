"""The worked cases of the published orders: computed independently of this code, and copied here by their ids."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from selector.exact import keyed
from selector.order import Order, Pool, ScoreName
from selector.order.balanced import Balanced
from selector.order.bands import Bands
from selector.order.blocked import Blocked
from selector.order.by_score import ByScore
from selector.order.cyclical import race
from selector.order.drawn import Drawn
from selector.order.folded import Folded
from selector.order.interleaved import Interleaved
from selector.order.jittered import Jittered
from selector.order.round_robin import RoundRobin
from selector.order.saw import Saw
from selector.order.segmented import Segmented
from selector.order.shuffled import Shuffled
from selector.order.stair import Stair
from selector.order.zigzag import Zigzag
from selector.testing import SCORE, documents

DOCS = {  # topic, difficulty, quality
    "d00": ("math", 0.90, 0.95), "d01": ("code", 0.10, 0.40), "d02": ("web", 0.35, 0.30), "d03": ("math", 0.20, 0.70),
    "d04": ("web", 0.05, 0.10), "d05": ("code", 0.60, 0.80), "d06": ("web", 0.75, 0.55), "d07": ("math", 0.50, 0.60),
    "d08": ("code", 0.35, 0.50), "d09": ("web", 0.55, 0.20), "d10": ("math", 0.30, 0.90), "d11": ("code", 0.80, 0.85),
}  # fmt: skip
STANDARD_DEVIATION = float(np.std([quality for _, _, quality in DOCS.values()]))
DIFFICULTY, QUALITY = ScoreName("difficulty"), ScoreName("quality")
ORDERS = {
    "curriculum": (ByScore(score=DIFFICULTY), "04 01 03 10 02 08 07 09 05 06 11 00"),
    "anti": (ByScore(score=DIFFICULTY, direction="anti_curriculum"), "00 11 06 05 09 07 02 08 10 03 01 04"),
    "quality ascending": (ByScore(score=QUALITY), "04 09 02 01 08 06 07 03 05 11 10 00"),
    "blocked curriculum": (Interleaved(rounds=1, score=DIFFICULTY), "01 08 05 11 03 10 07 00 04 02 09 06"),
    "interleaved curriculum": (Interleaved(rounds=3, score=DIFFICULTY), "01 08 03 10 04 02 05 07 09 11 00 06"),
    "blocked curriculum, as such": (Blocked(score=DIFFICULTY), "01 08 05 11 03 10 07 00 04 02 09 06"),
    "round-robin curriculum": (RoundRobin(score=DIFFICULTY), "01 03 04 08 10 02 05 07 09 11 00 06"),
    "EMH bands, topic inside band": (
        Bands(score=DIFFICULTY, up_to=(0.33, 0.66), by="source", inside="sorted"),
        "01 03 10 04 08 05 07 02 09 11 00 06",
    ),
    "class balanced": (Balanced(score=DIFFICULTY), "04 01 03 10 02 08 07 09 05 06 11 00"),
    "folding": (Folded(score=DIFFICULTY, layers=3), "04 10 07 06 01 02 09 11 03 08 05 00"),
    "zigzag": (Zigzag(score=DIFFICULTY, layers=3), "04 10 07 06 11 09 02 01 03 08 05 00"),
    "STR": (Stair(score=DIFFICULTY), "04 01 03 10 07 02 09 08 05 06 11 00"),
    "SAW, degenerate": (Saw(score=DIFFICULTY), "04 01 03 10 02 08 07 09 05 06 11 00"),
}


Stream = Callable[[str], str]


def stream(name: str) -> Stream:
    """The name of the published stream of chance, the same for every document."""
    return lambda _: name


def segment(name: str) -> str:
    """The stream of a document in the case of the segments, by its segment."""
    return "seg.f" if name in ("d04", "d01", "d03") else "seg.b" if name in ("d00", "d06", "d11") else "seg.m"


AT_RANDOM: dict[str, tuple[Order, Stream, str]] = {
    "random": (Shuffled(), stream("random"), "02 10 08 04 11 09 06 07 05 01 03 00"),
    "blocked": (Blocked(), stream("blk"), "01 11 05 08 10 03 07 00 09 06 02 04"),
    "in one round": (Interleaved(rounds=1), stream("blk"), "01 11 05 08 10 03 07 00 09 06 02 04"),
    "interleaved": (Interleaved(rounds=3), stream("blk"), "01 11 10 03 09 06 05 07 02 08 00 04"),
    "SEG": (Segmented(score=DIFFICULTY, front=0.25, back=0.25), segment, "04 01 03 10 07 05 09 08 02 00 06 11"),
    "two phases, the best quarter last": (
        Segmented(score=QUALITY, front=0, back=0.25),
        lambda name: "p2" if DOCS[name][2] >= 0.85 else "p1",
        "02 06 08 03 05 01 09 04 07 11 00 10",
    ),
    "jitter in windows of 4": (
        Jittered(inner=ByScore(score=DIFFICULTY), size=4),
        lambda name: f"jit:{ORDERS['curriculum'][1].split().index(name.removeprefix('d')) // 4}",
        "03 04 10 01 07 08 02 09 06 05 11 00",
    ),
    "Gumbel": (
        Drawn(score=QUALITY, temperature=0.2 / STANDARD_DEVIATION, direction="anti_curriculum"),
        stream("gumbel"),
        "00 11 05 03 10 09 01 06 07 08 02 04",
    ),
    "Gumbel, low to high": (
        Drawn(score=QUALITY, temperature=0.2 / STANDARD_DEVIATION),
        stream("gumbel"),
        "04 02 08 07 06 01 09 10 03 05 11 00",
    ),
}


@pytest.mark.parametrize("case", ORDERS)
def test_11_1_orders_are_those_of_the_worked_case(case: str) -> None:
    order, expected = ORDERS[case]
    assert arranged(order) == expected


@pytest.mark.parametrize("case", AT_RANDOM)
def test_11_1_orders_at_random_are_those_of_the_worked_case_with_its_chance(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, stream_of, expected = AT_RANDOM[case]

    def published(ids: Any, seed: int, _: str) -> Any:
        names = [doc_id.rstrip(b"\0").decode() for doc_id in ids.to_pylist()]
        return published_numbers(names, [stream_of(name) for name in names], seed)

    monkeypatch.setattr(keyed, "hashes", published)
    assert arranged(order) == expected


def published_numbers(names: list[str], streams: list[str], seed: int = 7) -> Any:
    """The chance of the worked cases: 64 bits of each document in its stream."""
    words = [f"{seed}:{stream}:{name}".encode() for name, stream in zip(names, streams, strict=True)]
    return np.array([int.from_bytes(hashlib.blake2b(word, digest_size=8).digest()) for word in words], np.uint64)


def test_11_1_a_draw_without_replacement_is_a_race() -> None:
    names = list(DOCS)
    weights = np.array([1 / difficulty for _, difficulty, _ in DOCS.values()])
    times = race(weights, published_numbers(names, ["exp"] * len(names)))
    order = [names[i].removeprefix("d") for i in np.argsort(times, kind="stable")]
    assert " ".join(order) == "03 09 01 04 07 00 05 02 08 11 06 10"


def arranged(order: Order) -> str:
    """The twelve documents first to last, with seed 7."""
    names = sorted(DOCS, key=lambda name: keyed.digest(name.encode()))  # any order but that of the names
    schema = pa.schema(
        [
            ("doc_id", pa.binary(16)),
            ("source", pa.dictionary(pa.int32(), pa.string())),
            pa.field("difficulty", pa.float32(), metadata={"higher_is": "harder"}),
            pa.field("quality", pa.float32(), metadata={"higher_is": "better"}),
        ]
    )
    columns = [
        pa.array([name.encode().ljust(16, b"\0") for name in names], pa.binary(16)),
        pa.array([DOCS[name][0] for name in names]).dictionary_encode(),
        pa.array([DOCS[name][1] for name in names], pa.float32()),
        pa.array([DOCS[name][2] for name in names], pa.float32()),
    ]
    pool = Pool.of(pa.table(columns, schema=schema), shard_rows=5)
    return " ".join(names[i].removeprefix("d") for i in order.arrange(pool, 7).visits["document"].to_pylist())


def test_o7_ties_are_in_the_order_of_their_ids() -> None:
    rows = [("a0", 0.5), ("b", 0.5), ("z", 0.1), ("a", 0.5)]
    table = documents([{"doc_id": name.encode().ljust(16, b"\0"), SCORE: score} for name, score in rows])
    order = ByScore(score=ScoreName(SCORE)).arrange(Pool.of(table), 0).visits["document"].to_pylist()
    assert [rows[i][0] for i in order] == ["z", "a", "a0", "b"]
