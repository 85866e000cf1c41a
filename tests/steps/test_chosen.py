"""What an order may read of the chosen documents, though it takes much room: it is read of these alone."""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from conftest import write_jsonl
from runs import policy_of, run, uncached, write_corpus
from selector.engine.local import LocalExecutor
from selector.engine.store import Store
from selector.exact import UInt64, keyed
from selector.exact.vectors import vectors_of
from selector.manifest import Manifest
from selector.order import Placed, Pool
from selector.steps import shards
from selector.steps.shards import field_of


@dataclass(frozen=True, kw_only=True)
class Alphabetical(Placed):
    """By the first eight bytes of the text."""

    @property
    def needs(self) -> tuple[str, ...]:
        return ("text", "source")

    def summary(self, chosen: Pool, seed: int) -> None:
        """There is none."""

    def keys(self, batch: pa.RecordBatch, summary: None, seed: int) -> UInt64:
        return np.array([_number(text) for text in batch["text"].to_pylist()], np.uint64)


@dataclass(frozen=True, kw_only=True)
class ByVector(Placed):
    """By the first number of the vector."""

    @property
    def needs(self) -> tuple[str, ...]:
        return ("embedding",)

    def summary(self, chosen: Pool, seed: int) -> int:
        return chosen.schema.field("embedding").type.list_size

    def keys(self, batch: pa.RecordBatch, summary: int, seed: int) -> UInt64:
        vectors = vectors_of(batch["embedding"])
        assert vectors.shape[1] == summary
        return _rank(vectors[:, 0])


def _number(text: str) -> int:
    return int.from_bytes(text.encode()[:8].ljust(8))


def _rank(numbers: Any) -> UInt64:
    return np.rint((np.asarray(numbers, np.float64) + 2) * 2.0**24).astype(np.uint64)


USING: dict[str, Any] = {
    "once": "random",
    "again and again": {"repeats": {"score": "readability", "decay": 0.9, "visits": 5}},
    "in rounds": {"iterative": {"inner": "random", "rounds": 2, "feedback": "later.jsonl", "mode": "softmax"}},
    "by what the order reads": {"prune": {}},
}


@pytest.mark.parametrize(
    "using",
    [pytest.param(using, marks=[] if name == "once" else pytest.mark.slow, id=name) for name, using in USING.items()],
)
@pytest.mark.parametrize("order", [Alphabetical, ByVector])
def test_an_order_reads_texts_and_vectors_of_the_chosen_alone(
    order: type[Placed], using: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").mkdir()
    policy = policy_of(write_corpus(tmp_path / "corpus"), tiny_model)
    policy |= {
        "rate": ["readability"],
        "select": {"budget": {"documents": 40}, "using": using},
        "order": {"using": f"{order.__module__}:{order.__name__}"},
        "corpus": {**policy["corpus"], "keep_texts": using != "random"},
        "manifest": {},
    }
    if "iterative" in using:
        write_jsonl(tmp_path / "later.jsonl", [])
        ids = [doc_id.hex() for doc_id in run(policy, tmp_path / "root").manifest.rows(0, 20)["doc_id"].to_pylist()]
        rows = [{"doc_id": doc_id, "round": 1, "score": float(i)} for i, doc_id in enumerate(ids)]
        write_jsonl(tmp_path / "later.jsonl", rows)
    manifests: list[Manifest] = []
    for rows_of_shard in (1 << 20, 25):
        monkeypatch.setattr(shards, "SHARD_ROWS", rows_of_shard)
        root = tmp_path / f"root-{rows_of_shard}"
        manifests.append(run(policy, root, LocalExecutor(workers=1)).manifest)
        assert uncached(run(policy, root)) == []
        stored = Store.open(root)
        kinds = [field_of(stored, key).type for key in stored.seals("shards.columns/")]
        own = [stored.sealed(key).tables["column"].num_rows for key in stored.seals("chosen.columns/")]
        chosen = len(set(manifests[-1].rows(0, len(manifests[-1]))["doc_id"].to_pylist()))
        is_read_before = order is ByVector and "prune" in using
        assert sum(own) == (0 if is_read_before else chosen)
        assert pa.string() not in kinds and any(map(pa.types.is_fixed_size_list, kinds)) == ("prune" in using)
    one, other = manifests
    assert one.info["order_digest"] == other.info["order_digest"] and one.verify().ok

    visits = one.rows(0, len(one))
    known = _known(tmp_path, order)
    keys = [known[doc_id] for doc_id in visits["doc_id"].to_pylist()]
    rounds = [phase["rows"] for phase in one.info["phases"]]
    ends = np.cumsum([0, *rounds]).tolist()
    for first, end in itertools.pairwise(ends):
        assert keys[first:end] == sorted(keys[first:end])
    assert len(rounds) == (2 if "iterative" in using else 1)


def _known(folder: Path, order: type[Placed]) -> dict[bytes, int]:
    """The key of each document, from what the steps before say of all."""
    store = Store.open(folder / "root-25")
    known: dict[bytes, int] = {}
    if order is ByVector:
        for key in store.seals("embed/"):
            table = store.read(key, "embeddings")
            numbers = _rank(vectors_of(table["embedding"].combine_chunks())[:, 0]).tolist()
            known |= dict(zip(table["doc_id"].to_pylist(), numbers, strict=True))
        return known
    for path in (folder / "corpus").iterdir():
        texts = [json.loads(line)["text"] or "" for line in path.read_text("utf-8").splitlines()]
        known |= {keyed.digest(text.encode()): _number(text) for text in texts}
    return known
