"""What a person sees while a run is going on."""

from pathlib import Path
from typing import Any

import pytest

from conftest import text_of, write_jsonl
from selector.cli.progress import Watch
from selector.engine import alive
from selector.engine.alive import Stall
from selector.engine.local import LocalExecutor
from selector.engine.part import Receipt
from selector.pipeline import build
from selector.policy import Policy
from selector.steps import embed

NUM_DOCUMENTS = 1200


def shown(watch: Watch) -> str:
    """What the live line says beside the step and its bar."""
    (task,) = watch._bar.tasks  # pyright: ignore[reportPrivateUsage]
    return str(task.fields["rate"]).partition(",  ")[0]


def done(num_rows: int) -> Receipt:
    return Receipt(key="embed/1", num_rows=num_rows, num_quarantined=0, seconds=1.0)


def test_documents_within_parts_are_counted_and_the_count_never_goes_down() -> None:
    watch = Watch()
    watch.began("embed", 3)
    counts: list[int] = []
    for num_rows in (100, None, 250, done(300), 10, 200, done(300), 0):
        watch.advanced("embed", num_rows) if isinstance(num_rows, Receipt) else watch.at_work("embed", num_rows)
        counts.append(int(shown(watch).split()[0]))
    assert counts == [100, 100, 250, 300, 310, 500, 600, 600]


def test_the_live_line_says_what_is_waited_for() -> None:
    watch = Watch()
    watch.waiting("embed", "starting Ray")
    watch.began("embed", 3)
    watch.waiting("embed", "loading what the step needs")
    assert shown(watch) == "loading what the step needs"
    watch.at_work("embed", 7)
    assert shown(watch).startswith("7 documents, ")


def test_what_is_no_terminal_is_told_of_a_long_step_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    watch = Watch()
    watch.began("embed", 3)
    for seconds in range(0, 65, 5):
        now = float(seconds)
        watch.at_work("embed", 10 * seconds)
    watch.advanced("embed", done(700))
    now = 100.0
    watch.waiting("embed", "loading what the step needs")
    assert [line.split(maxsplit=1) for line in capsys.readouterr().err.splitlines()] == [
        ["embed", "0 of 3 parts  300 documents, 10/s"],
        ["embed", "0 of 3 parts  600 documents, 10/s"],
        ["embed", "1 of 3 parts  loading what the step needs"],
    ]


def test_each_stall_of_two_steps_at_once_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch()
    stalls = {name: Stall(part=f"{name}/7", worker="4711", node="n2", seconds=75.0) for name in ("embed", "rate")}
    for _ in range(3):
        for name, stall in stalls.items():
            watch.stalled(name, [stall])
    watch.stalled("rate", [])
    watch.stalled("rate", [stalls["rate"]])
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == ["embed", "rate", "rate"]


class Noting(Watch):
    """Notes how many rows of the parts in hand it is told of, and what it is told to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, list[int | None]] = {}
        self.awaited: list[tuple[str, str]] = []

    def at_work(self, name: str, num_rows: int | None) -> None:
        super().at_work(name, num_rows)
        self.rows.setdefault(name, []).append(num_rows)

    def waiting(self, name: str, awaited: str) -> None:
        super().waiting(name, awaited)
        self.awaited.append((name, awaited))


@pytest.fixture(scope="module")
def watched(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Noting:
    """A run in which every step has one large part, and works on it whole."""
    folder = tmp_path_factory.mktemp("watched")
    corpus = write_jsonl(folder / "corpus.jsonl", [{"text": text_of(n, 8)} for n in range(NUM_DOCUMENTS)])
    policy: dict[str, Any] = {
        "corpus": {"paths": [str(corpus)], "rows_per_part": NUM_DOCUMENTS},
        "embed": {"model": str(tiny_model), "precision": "float32", "max_tokens": 32},
        "cluster": {"num_clusters": 4},
        "rate": ["readability", "prototypicality"],
        "select": {"budget": {"fraction": 0.2}},
    }
    with Noting() as watch, pytest.MonkeyPatch.context() as patch:
        patch.setattr(embed, "SLICE", {"cpu": NUM_DOCUMENTS})
        build(Policy.of(policy), root=str(folder / "root"), executor=LocalExecutor(workers=1), progress=watch)
    return watch


@pytest.mark.parametrize("step", ["ingest", "embed", "rate/readability", "rate/prototypicality"])
def test_a_step_gives_signs_of_life_within_a_part(step: str, watched: Noting) -> None:
    told = [num_rows for num_rows in watched.rows[step] if num_rows is not None]
    assert told == sorted(told) and len({*told}) >= 3 and 0 < told[-1] <= NUM_DOCUMENTS


def test_a_step_says_that_it_loads_what_it_needs(watched: Noting) -> None:
    assert ("embed", "loading what the step needs") in watched.awaited


def test_nobody_hears_signs_when_nobody_listens() -> None:
    alive.sign(7)
    alive.waiting("Godot")
