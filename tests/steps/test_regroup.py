"""Whole groups of a stored pool meet on workers: the answers of a pool in memory, whatever the shards and the kills."""

import decimal
import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import MemoryStorage, text_of, tries, write_jsonl
from jobs.executor import RayExecutor
from runs import policy_of
from selector import failpoint
from selector.engine.executor import Executor
from selector.engine.local import LocalExecutor
from selector.engine.step import Done
from selector.engine.store import Store
from selector.errors import SelectorError
from selector.exact import UInt64, keyed
from selector.manifest import Manifest
from selector.pipeline import build
from selector.plugins import Pool
from selector.plugins.blame import with_blame
from selector.plugins.pool import Rows
from selector.policy import Policy
from selector.select import Grouped, Keys
from selector.steps import regroup, shards

pytestmark = pytest.mark.slow

VALUES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "whole numbers": (pa.int32(), [-3, 0, 7, None]),
    "numbers": (pa.float64(), [0.0, -0.0, float("nan"), 2.5, None]),
    "words": (pa.string(), ["web", "", "kód", None]),
    "labels": (pa.dictionary(pa.int32(), pa.string()), ["web", "books", None]),
    "decimals": (pa.decimal128(5, 2), [decimal.Decimal("1.50"), decimal.Decimal("-2.00"), None]),
    "switches": (pa.bool_(), [True, False, None]),
}
RETURNS = pa.schema([("rank", pa.int64()), ("first", pa.binary(16)), ("seen", pa.dictionary(pa.int32(), pa.string()))])


def stored(store: Store, table: pa.Table, sizes: Sequence[int]) -> Pool:
    """A pool over shards of these sizes; the last one has the rest."""
    ends = np.minimum(np.cumsum([0, *sizes]), table.num_rows).tolist()
    rows: list[Rows] = []
    for start, end in zip(ends, [*ends[1:], table.num_rows], strict=True):
        (batch,) = table.slice(start, end - start).combine_chunks().to_batches() or [_none(table.schema)]
        rows.append(Rows(batch=batch))
    return Pool(
        schema=table.schema,
        num_documents=table.num_rows,
        shards=rows,
        extender=shards.InStore(done=Done(store), inputs="own"),
        exchanger=regroup.Exchanged(done=Done(store), inputs="own"),
    )


def _none(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema)


def rank(group: pa.RecordBatch) -> pa.RecordBatch:
    """Looks at all that a group is shown, in the order in which it is."""
    ids, n = group["doc_id"].to_pylist(), group.num_rows
    seen = pa.array([f"{group['by'][0].as_py()!r} {group['score'][n - 1].as_py()}"] * n).dictionary_encode()
    columns = [pa.array(np.arange(n)), pa.array([ids[0]] * n, pa.binary(16)), seen]
    return pa.RecordBatch.from_arrays(columns, schema=RETURNS)


def table_of(kind: str, codes: Sequence[int]) -> pa.Table:
    """Documents with a group each, a few of them seen twice."""
    type_, values = VALUES[kind]
    ids = [keyed.digest(bytes([i - i % 7 // 6])) for i in range(len(codes))]
    by = pa.array([values[code % len(values)] for code in codes], type_ if kind != "labels" else pa.string()).cast(
        type_
    )
    return pa.table(
        {"doc_id": pa.array(ids, pa.binary(16)), "by": by, "score": pa.array(range(len(codes)), pa.int64())}
    )


@pytest.mark.parametrize("kind", VALUES)
@tries(25)
@given(
    codes=st.lists(st.integers(0, 9), max_size=40),
    sizes=st.lists(st.integers(0, 15), max_size=5),
    bucket=st.integers(1, 50),
)
def test_groups_that_meet_on_workers_get_the_answers_of_a_pool_in_memory(
    kind: str, codes: list[int], sizes: list[int], bucket: int
) -> None:
    table = table_of(kind, codes)
    asked = ("doc_id", "by", "score")
    here = Pool.of(table, 7).exchange("by", rank, *asked, returns=RETURNS)
    with patch.object(regroup, "BUCKET_ROWS", bucket):
        pool = stored(Store(MemoryStorage()), table, sizes)
        there = pool.exchange("by", rank, *asked, returns=RETURNS)
        twice = there.exchange("first", rank_again, "doc_id", "rank", returns=pa.schema([("again", pa.int64())]))
    assert there.schema.equals(here.schema) and there.num_documents == len(codes)
    columns = ["doc_id", "score", "rank", "first"]  # in `by`, NaN is not equal to itself
    assert there.table(*columns).equals(here.table(*columns))
    assert there.table("seen")["seen"].to_pylist() == here.table("seen")["seen"].to_pylist()
    again = here.exchange("first", rank_again, "doc_id", "rank", returns=pa.schema([("again", pa.int64())]))
    assert twice.table("again", "rank").equals(again.table("again", "rank")), "also after another exchange"
    rows = [batch.num_rows for batch in there.batches("rank")]
    assert rows == [batch.num_rows for batch in pool.batches("doc_id")], "the shards are the same"


def rank_again(group: pa.RecordBatch) -> pa.RecordBatch:
    return pa.record_batch({"again": pa.array(group["rank"].to_numpy() * 2 + group.num_rows)})


def test_a_bucket_has_about_so_many_rows_and_no_group_is_cut() -> None:
    table = table_of("whole numbers", [0]).slice(0, 0)
    big = pa.table({"doc_id": keyed.ids(np.arange(2000, dtype=np.uint64).reshape(-1, 2)), "by": np.arange(1000) % 50})
    big = big.append_column("score", pa.array(range(1000), pa.int64()))
    store = Store(MemoryStorage())
    with patch.object(regroup, "BUCKET_ROWS", 100):
        stored(store, big, [300, 300]).exchange("by", rank, "doc_id", "by", "score", returns=RETURNS).table("rank")
        stored(Store(MemoryStorage()), table.cast(big.schema), []).exchange(
            "by", rank, "doc_id", "by", "score", returns=RETURNS
        )
    answers = [store.read(key, "answers").num_rows for key in store.seals("passing/alone/0/groups/")]
    assert sum(answers) == 1000 and 5 < len(answers) <= 11 and max(answers) < 140


def test_an_exchange_that_is_stopped_at_any_write_goes_on_and_asks_no_bucket_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def noted(group: pa.RecordBatch) -> pa.RecordBatch:
        asked.append(group["by"][0].as_py())
        return rank(group)

    table = table_of("whole numbers", [0, 1, 2] * 9)
    expected = Pool.of(table).exchange("by", rank, "doc_id", "by", "score", returns=RETURNS).table("rank", "first")
    store, stops = Store(MemoryStorage()), 0
    monkeypatch.setattr(regroup, "BUCKET_ROWS", 8)
    monkeypatch.setenv("SELECTOR_FAILPOINT", "store.after_seal:raise:2")  # one step further each time
    found = None
    while found is None and stops < 50:
        monkeypatch.setattr(failpoint, "_reached", {})
        pool = stored(store, table, [10, 5])
        try:
            found = pool.exchange("by", noted, "doc_id", "by", "score", returns=RETURNS).table("rank", "first")
        except RuntimeError:
            stops += 1
    assert found is not None and found.equals(expected) and stops > 2
    assert sorted(asked, key=str) == sorted({-3, 0, 7}, key=str), "what a bucket said was kept"


def test_work_that_answers_in_another_form_or_cannot_be_sent_is_the_plug_ins_fault() -> None:
    table = table_of("whole numbers", [0, 1, 2])
    owner = Sorted()
    for pool in (stored(Store(MemoryStorage()), table, [2]), stored(Store(MemoryStorage()), table, [])):
        asked = with_blame(pool, "selector", "mine", owner)
        with pytest.raises(SelectorError, match=r"'mine' failed with ValueError: the work answered with 0 rows for a"):
            asked.exchange("by", _loses_rows, "doc_id", returns=RETURNS).table("rank")
        with pytest.raises(
            SelectorError, match=r"The selector 'mine' failed with ArithmeticError: too much\. This is a"
        ):
            asked.exchange("by", _raises, "doc_id", returns=RETURNS).table("rank")
    asked = with_blame(stored(Store(MemoryStorage()), table, [2]), "selector", "mine", owner)
    told = r"'mine' gives an exchange work that cannot be sent: .*<lambda> cannot be sent to a worker: .* Give map a"
    with pytest.raises(SelectorError, match=told):
        asked.exchange("by", lambda group: group, "doc_id", returns=RETURNS)


def _loses_rows(group: pa.RecordBatch) -> pa.RecordBatch:
    return rank_again(group.slice(0, 0).append_column("rank", pa.array([], pa.int64())))


def _raises(_: pa.RecordBatch) -> pa.RecordBatch:
    raise ArithmeticError("too much")


# ---------------------------------------------------------------- whole runs


@dataclass(frozen=True, kw_only=True)
class Sorted(Grouped):
    """The documents of every source by their text's length; trouble, if there is to be any, is met in one of them."""

    trouble: str = ""
    folder: str = ""

    @property
    def grouped_by(self) -> str:
        return "source"

    @property
    def needs(self) -> tuple[str, ...]:
        return (*super().needs, "num_bytes")

    def group_keys(self, group: pa.RecordBatch, given: pa.RecordBatch, seed: int) -> Keys:
        if self.folder:
            Path(self.folder, f"{group['source'][0].as_py()}-{os.getpid()}").touch()
        if self.trouble and group["source"][0].as_py() == "books":
            if self.trouble == "raises":
                raise ArithmeticError("books are too much")
            if not (met := Path(self.folder, "met")).exists():
                met.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        keys: UInt64 = group["num_bytes"].to_numpy().astype(np.uint64)
        others = pa.array([group["doc_id"][0].as_py()] * group.num_rows, pa.binary(16))
        return Keys(keys=keys, values=-keys.astype(np.float64), others=others)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for file in range(4):
        rows = [
            {"text": text_of(n, 5), "source": ("web", "books", "code")[n % 3]} for n in range(30 * file, 30 * file + 30)
        ]
        write_jsonl(folder / f"{file}.jsonl", rows)
    return folder


Run = Callable[..., Manifest]


@pytest.fixture
def run_with(corpus: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a policy with the selector, in shards of two parts and buckets of about a source."""
    monkeypatch.setattr(shards, "SHARD_ROWS", 40)
    monkeypatch.setattr(regroup, "BUCKET_ROWS", 30)

    def do(executor: Executor, root: str, **options: Any) -> Manifest:
        using = {f"{Sorted.__module__}:Sorted": options}
        select = {"budget": {"documents": 50}, "using": using}
        policy = policy_of(corpus, tiny_model, rate=[], select=select, order={"using": "shuffled"}, manifest={})
        manifest = build(Policy.of(policy), root=str(tmp_path / root), executor=executor).manifest
        assert manifest.verify().ok
        return manifest

    return do


def test_a_selector_of_whole_groups_gives_the_same_manifest_on_one_process_and_on_two(
    run_with: Run, tmp_path: Path
) -> None:
    here = run_with(LocalExecutor(workers=1), "one")
    there = run_with(LocalExecutor(workers=2), "two")
    assert here.digest == there.digest and here.info["facts"] == there.info["facts"]
    assert not (tmp_path / "two/artifacts/passing").exists(), "what was dealt is gone"


def test_groups_are_asked_on_workers(run_with: Run, tmp_path: Path) -> None:
    (tmp_path / "asked").mkdir()
    run_with(LocalExecutor(workers=2), "root", folder=str(tmp_path / "asked"))
    asked = [path.name.split("-") for path in (tmp_path / "asked").iterdir()]
    assert sorted(source for source, _ in asked) == ["books", "code", "web"]
    assert str(os.getpid()) not in {process for _, process in asked}


def test_a_worker_that_dies_at_a_group_is_replaced_and_one_that_raises_ends_the_run_with_the_plug_ins_name(
    run_with: Run, tmp_path: Path
) -> None:
    (tmp_path / "met").mkdir()
    with pytest.raises(
        SelectorError, match=r"Sorted' failed with ArithmeticError: books are too much\. This is a fault"
    ):
        run_with(LocalExecutor(workers=2), "raising", trouble="raises")
    assert not any(Store.open(str(tmp_path / "raising")).seals("select/"))
    calm = run_with(LocalExecutor(workers=1), "calm")
    dying = run_with(LocalExecutor(workers=2), "dying", trouble="dies", folder=str(tmp_path / "met"))
    assert (tmp_path / "met/met").exists()
    assert dying.info["order_digest"] == calm.info["order_digest"]


def test_a_run_stopped_in_the_middle_of_an_exchange_ends_at_the_same_digest(
    run_with: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run_with(LocalExecutor(workers=1), "calm").digest
    monkeypatch.setenv("SELECTOR_FAILPOINT", "step.dedup.done:raise")
    with pytest.raises(RuntimeError, match="failpoint"):
        run_with(LocalExecutor(workers=1), "stopped")
    monkeypatch.setenv("SELECTOR_FAILPOINT", "store.after_seal:raise:3")
    for stops in range(100):
        monkeypatch.setattr(failpoint, "_reached", {})
        try:
            found = run_with(LocalExecutor(workers=1), "stopped").digest
        except (RuntimeError, SelectorError):
            continue
        assert found == expected and stops > 5
        return
    raise AssertionError("it makes no progress")


@pytest.mark.slow
def test_a_selector_of_whole_groups_gives_the_same_manifest_on_ray(
    run_with: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [str(folder) for folder in Path(__file__).parents[:3]]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")]))
    there = run_with(RayExecutor(actors=2), "ray")
    assert json.dumps(there.info["facts"]) == json.dumps(run_with(LocalExecutor(workers=2), "here").info["facts"])
    assert there.digest == run_with(LocalExecutor(workers=2), "here").digest
