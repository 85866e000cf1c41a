"""Training reports what it saw, by any number of ranks, killed or not; and the next round goes on from that."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from command import selector
from conftest import write_jsonl
from manifests import committed_in
from runs import policy_of, run, write_corpus
from selector import tables
from selector.consume import Feedback, ManifestDataset
from selector.consume.feedback import REPORTS, Appended, append, joined, reports, round_of
from selector.engine.store import to_parquet
from selector.errors import CorpusError, NotFoundError, UsageError
from selector.manifest import Manifest
from selector.manifest.format import canonical
from selector.storage import open_storage

IDS = [number.to_bytes(16) for number in range(6)]


def committed(where: Path, num_visits: int = 8) -> Manifest:
    """A manifest that sees six documents once and the first ones again."""
    document = np.arange(num_visits) % 6
    chosen = {
        "doc_id": pa.array(IDS, tables.DOC_ID),
        "source": pa.array(["web"] * 6).dictionary_encode(),
        "cluster": pa.nulls(6, pa.int32()),
        "file": np.zeros(6, np.uint32),
        "row": np.arange(6, dtype=np.uint32),
        "num_tokens": np.ones(6, np.uint32),
        "inclusion_probability": np.ones(6, np.float32),
        "difficulty": pa.nulls(6, pa.float32()),
        "quality": pa.nulls(6, pa.float32()),
        "reason": pa.array(["kept"] * 6).dictionary_encode(),
    }
    visits = {
        "document": document,
        "visit": (np.arange(num_visits) // 6).astype(np.uint16),
        "phase": pa.array(["all"] * num_visits).dictionary_encode(),
        "loss_weight": np.ones(num_visits, np.float32),
    }
    decisions = {
        **{name: chosen[name] for name in ("doc_id", "file", "row", "inclusion_probability", "reason")},
        "outcome": pa.array(["kept"] * 6).dictionary_encode(),
        "visits": np.ones(6, np.uint16),
        "round": np.zeros(6, np.uint16),
    }
    absent = {field.name: pa.nulls(6, field.type) for field in tables.DECISIONS if field.name not in decisions}
    files = {"uri": ["a.jsonl"], "format": ["jsonl"], "num_rows": [6], "size": [1], "sha256": [""], "unread": [None]}
    return committed_in(
        open_storage(str(where)),
        pa.table(chosen),
        pa.table(visits),
        files=pa.table(files, schema=tables.FILES),
        decisions=[to_parquet(canonical(pa.table({**decisions, **absent}), tables.DECISIONS))],
        policy={"corpus": {"text": "text", "key": None}},
    )


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return committed(tmp_path_factory.mktemp("committed"))


def scores(path: Path) -> dict[tuple[int, int], float | None]:
    """What a feedback table says, by round and number of the document."""
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    else:
        rows = [{**row, "doc_id": row["doc_id"].hex()} for row in pq.read_table(path).to_pylist()]
    return {(row["round"], int(row["doc_id"], 16)): row["score"] for row in rows}


@pytest.mark.parametrize("name", ["fed.parquet", "fed.jsonl"])
def test_losses_of_visits_become_the_mean_of_each_document(manifest: Manifest, tmp_path: Path, name: str) -> None:
    for rank in range(2):  # of which each sees every second position
        with Feedback(tmp_path / "heap", manifest, rank=rank) as feedback:
            for step in range(2):
                positions = torch.arange(4 * step + rank, 4 * step + 4, 2)
                losses = (positions.to(torch.bfloat16) / 2).requires_grad_()
                feedback.write(position=positions, step=step, loss=losses if step else list(losses))
    appended = append(tmp_path / "heap", manifest, tmp_path / name)
    assert appended == Appended(rows=6, changed=6)
    expected = {(1, 0): 1.5, (1, 1): 2.0, (1, 2): 1.0, (1, 3): 1.5, (1, 4): 2.0, (1, 5): 2.5}
    assert scores(tmp_path / name) == expected, "of the two visits of document 0 the mean"
    before = (tmp_path / name).read_bytes()
    assert append(tmp_path / "heap", manifest, tmp_path / name) == Appended(rows=6, changed=0)
    assert (tmp_path / name).read_bytes() == before, "the same reports again change nothing"


def test_a_later_attempt_replaces_what_an_earlier_one_said_of_the_same_visits(
    manifest: Manifest, tmp_path: Path
) -> None:
    first = Feedback(tmp_path, manifest, rank=0)
    first.write(position=[0, 1, 2, 3], step=0, loss=[1, 1, 1, 1])
    first.flush()
    first.write(position=[4, 5], step=1, loss=[1, 1])
    first.flush()
    first.write(position=[6, 7], step=2, loss=[1, 1])  # never written: the job is killed, and goes on at position 4
    with Feedback(tmp_path, manifest, rank=0) as second:
        second.write(position=[4, 5, 6, -1], step=1, loss=[3, 3, 3, 9])  # with another batch size, and padding
    whole = reports(tmp_path, manifest)
    by_position = dict(zip(whole["position"].to_pylist(), whole["loss"].to_pylist(), strict=True))
    assert by_position == {0: 1, 1: 1, 2: 1, 3: 1, 4: 3, 5: 3, 6: 3}


def test_rounds_stand_beside_each_other_and_other_rows_stay(manifest: Manifest, tmp_path: Path) -> None:
    table = tmp_path / "fed.jsonl"
    other = {"doc_id": bytes([9] * 16).hex(), "round": 7, "score": None}
    write_jsonl(table, [other, {"doc_id": IDS[1].hex(), "round": 2, "score": 5.0}])
    with Feedback(tmp_path / "heap", manifest, rank=0, round=2) as feedback:
        feedback.write(position=[0, 1], step=0, loss=[0.25, float("nan")])
        feedback.write(position=[0], step=9, round=3, loss=[0.5])
    assert append(tmp_path / "heap", manifest, table).changed == 3
    expected = {(2, 0): 0.25, (2, 1): None, (3, 0): 0.5, (7, int.from_bytes(bytes([9] * 16))): None}
    assert scores(table) == expected
    assert round_of(manifest) == 1


def test_rollouts_are_added_up_by_document_also_where_it_is_named_by_its_id(manifest: Manifest, tmp_path: Path) -> None:
    with Feedback(tmp_path / "heap", manifest, rank=0) as feedback:
        feedback.write(doc_id=[IDS[0].hex(), IDS[1].hex()], step=0, n=[8, 8], successes=[2, 0])
        feedback.write(doc_id=[IDS[0]], step=1, n=[8], successes=np.array([3]))
        feedback.write(position=[2], step=1, n=[4], successes=[4])
    assert append(tmp_path / "heap", manifest, tmp_path / "tried.parquet") == Appended(rows=3, changed=3)
    rows = pq.read_table(tmp_path / "tried.parquet").to_pylist()
    counts = [(row["doc_id"][15], row["round"], row["n"], row["successes"]) for row in rows]
    assert counts == [(0, 1, 16, 5), (1, 1, 8, 0), (2, 1, 4, 4)]
    with Feedback(tmp_path / "heap", manifest, rank=0) as feedback:
        feedback.write(position=[5], step=2, loss=[0.5])
    with Feedback(tmp_path / "losses", manifest, rank=0) as feedback:
        feedback.write(position=[5], step=2, loss=[0.5])
    with pytest.raises(UsageError, match=r"have losses alone, and --kind is rollouts\. Leave --kind out"):
        append(tmp_path / "losses", manifest, tmp_path / "tried.parquet", "rollouts")
    with pytest.raises(UsageError, match="have losses and rollouts"):
        append(tmp_path / "heap", manifest, tmp_path / "tried.parquet")
    assert append(tmp_path / "heap", manifest, tmp_path / "losses.parquet", "loss").rows == 1


WORK = """
import sys
from concurrent.futures import ThreadPoolExecutor
from selector.consume import Feedback
feedback = Feedback(sys.argv[1], sys.argv[2], rank=0)
for step in range(4):
    feedback.write(position=[2 * step, 2 * step + 1], step=step, loss=[step, step])
    feedback.flush()
"""


@pytest.mark.parametrize("place", ["store.before_link", "store.after_link"])
def test_a_rank_that_is_killed_leaves_whole_files_and_its_next_attempt_goes_on(
    manifest: Manifest, tmp_path: Path, place: str
) -> None:
    heap, where = str(tmp_path / "heap"), repr(manifest).split()[1].rstrip(">")
    command = [sys.executable, "-c", WORK, heap, where]
    environment = {**os.environ, "SELECTOR_FAILPOINT": f"{place}:kill:3"}
    killed = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    seen = reports(heap, manifest)["position"].to_pylist()
    assert sorted(seen) == [*range(4 if place == "store.before_link" else 6)]
    subprocess.run(command, check=True)
    assert append(heap, manifest, tmp_path / "fed.parquet").rows == 6
    alone = tmp_path / "alone"
    subprocess.run([*command[:3], str(alone), where], check=True)
    append(alone, manifest, tmp_path / "of_one.parquet")
    assert (tmp_path / "fed.parquet").read_bytes() == (tmp_path / "of_one.parquet").read_bytes()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": [1.0]}, "Name the visits by position or the documents by doc_id"),
        ({"position": [0], "doc_id": ["00" * 16], "loss": [1.0]}, "one of them"),
        ({"position": [0]}, "Report a loss, or n and successes"),
        ({"position": [0], "n": [1]}, "Report a loss, or n and successes"),
        ({"position": [0, 1], "loss": [1.0]}, "There are 2 visits, and 1 values of loss"),
        ({"position": [8], "loss": [1.0]}, r"position has 8, and the order has the positions 0 to 7\."),
        ({"position": [-2], "loss": [1.0]}, "position has -2"),
        ({"doc_id": ["xyz"], "loss": [1.0]}, "no id of 32 hex digits or 16 bytes"),
        ({"position": [0.5], "loss": [1.0]}, r"position has what is no whole number: .*0\.5"),
        ({"position": ["1"], "loss": [1.0]}, r"position has text, such as '1'\. Give whole numbers\."),
        ({"position": [None], "loss": [1.0]}, "position has a null"),
        ({"position": [0], "loss": ["1.5"]}, r"loss has text, such as '1\.5'\. Give numbers\."),
        ({"position": [0], "loss": [[1.0, 2.0]]}, "loss has what is no number"),
        ({"position": [0], "loss": [1j]}, "loss has what is no number"),
        ({"position": [0], "n": [2], "successes": [3]}, "n is 2 and successes is 3: of n answers 0 to n can be right"),
        ({"position": [0], "n": [2], "successes": [-1]}, "n is 2 and successes is -1"),
        ({"position": [0], "n": [-2], "successes": [-2]}, "n is -2 and successes is -2"),
        ({"position": [0], "n": [2], "successes": [0.5]}, "successes has what is no whole number"),
        ({"position": [0], "n": [float("nan")], "successes": [0]}, "n has what is no whole number"),
        ({"position": [0], "loss": [1.0], "step": -1}, r"step is -1\. Write a whole number from 0 on\."),
        ({"position": [0], "loss": [1.0], "step": "last"}, "step has text, such as 'last'"),
        ({"position": [0], "loss": [1.0], "step": 0.5}, "step has what is no whole number"),
        ({"position": [0], "loss": [1.0], "round": -1}, "round is -1"),
    ],
)
def test_what_is_no_report_is_refused(manifest: Manifest, tmp_path: Path, given: dict[str, Any], message: str) -> None:
    given = {"step": 0, **given}
    feedback = Feedback(tmp_path, manifest, rank=0)
    with pytest.raises(UsageError, match=message):
        feedback.write(**given)
    feedback.close()
    assert not list(tmp_path.iterdir())


def test_losses_that_are_not_finite_are_kept_and_counted(manifest: Manifest, tmp_path: Path) -> None:
    with Feedback(tmp_path / "heap", manifest, rank=0) as feedback:
        losses = [0.5, float("nan"), float("inf"), float("nan"), 1.0]
        feedback.write(position=[0, 1, 2, -1, -1], step=0, loss=losses)
    appended = append(tmp_path / "heap", manifest, tmp_path / "fed.jsonl")
    assert appended == Appended(rows=3, changed=3, not_finite=2), "padding is passed over, however often it is there"
    assert scores(tmp_path / "fed.jsonl") == {(1, 0): 0.5, (1, 1): None, (1, 2): None}


def test_a_table_or_a_folder_of_something_else_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "heap").mkdir()
    with pytest.raises(NotFoundError, match=r"has no report of the manifest .*, nothing at all"):
        append(tmp_path / "heap", manifest, tmp_path / "fed.parquet")
    with pytest.raises(NotFoundError, match="nothing at all, since there is no such folder"):
        append(tmp_path / "none", manifest, tmp_path / "fed.parquet")
    other = committed(tmp_path / "other", 7)
    with Feedback(tmp_path / "heap", other, rank=0) as feedback:
        feedback.write(position=[6], step=0, loss=[1.0])
    with pytest.raises(NotFoundError, match=rf"only of the manifests {other.digest[:16]}"):
        append(tmp_path / "heap", manifest, tmp_path / "fed.parquet")
    with pytest.raises(UsageError, match=r"is neither \.parquet nor \.jsonl"):
        append(tmp_path / "heap", other, tmp_path / "fed.csv")
    for name, content in (("fed.jsonl", b'{"doc_id": 1}\n'), ("fed.parquet", b"PAR1")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CorpusError, match="is no table of doc_id, round, score"):
            append(tmp_path / "heap", other, tmp_path / name)
        assert (tmp_path / name).read_bytes() == content
    whole = pa.Table.from_pylist([{"position": 7, "step": 0, "round": 1, "loss": 1.0}], schema=REPORTS)
    with pytest.raises(CorpusError, match="There is a report of position 7, and the order has 7 visits"):
        joined(other, whole)


def test_ranks_that_write_and_commands_that_append_at_once_lose_nothing(manifest: Manifest, tmp_path: Path) -> None:
    def report(number: int) -> None:  # all of them call themselves rank 0
        with Feedback(tmp_path / "heap", manifest, rank=0, round=number, flush_rows=1) as feedback:
            for position in range(8):
                feedback.write(position=[position], step=position, loss=[number])

    def put(number: int) -> None:
        append(tmp_path / f"heap {number}", manifest, tmp_path / "fed.parquet")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(report, range(1, 5)))
        whole = reports(tmp_path / "heap", manifest)
        assert sorted(zip(whole["round"].to_pylist(), whole["position"].to_pylist(), strict=True)) == [
            (number, position) for number in range(1, 5) for position in range(8)
        ]
        for number in range(4):
            with Feedback(tmp_path / f"heap {number}", manifest, rank=0, round=number) as feedback:
                feedback.write(position=[number], step=0, loss=[0.5])
        list(threads.map(put, range(4)))
    assert scores(tmp_path / "fed.parquet") == {(number, number): 0.5 for number in range(4)}


# ---------------------------------------------------------------- a small model is trained, round by round


class Small(torch.nn.Module):
    """Predicts each byte of a text from the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(256, 256)

    def forward(self, texts: list[str]) -> torch.Tensor:
        losses: list[torch.Tensor] = []
        for text in texts:
            data = torch.tensor([*text.encode()])
            losses.append(torch.nn.functional.cross_entropy(self.table(data[:-1]), data[1:]))
        return torch.stack(losses)


@pytest.mark.slow
def test_training_reports_a_round_and_the_same_command_goes_on_with_the_next(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "corpus").mkdir()
    write_corpus(tmp_path / "corpus")
    table, heap, root = tmp_path / "feedback.parquet", tmp_path / "reports", tmp_path / "runs"
    using = {"iterative": {"inner": "random", "rounds": 2, "feedback": str(table), "mode": "softmax"}}
    policy = policy_of(
        tmp_path / "corpus",
        tiny_model,
        rate=[{"training_loss": {"feedback": str(table)}}],
        select={"budget": {"documents": 32}, "using": using, "missing": "last"},
        order={"using": "shuffled"},
        manifest={},
    )
    torch.manual_seed(0)
    model, state = Small(), None
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    reported: list[float] = []
    trained: list[str] = []
    for number in (1, 2):
        finished = run(policy, root)
        manifest = finished.manifest
        assert round_of(manifest) == number
        dataset = ManifestDataset(manifest, global_batch_size=4, rank=0, world_size=1)
        if state is not None:
            dataset.load_state_dict(state)  # of the round before, which this manifest begins like
        with Feedback(heap, manifest, rank=0) as feedback:
            for step, batch in enumerate(DataLoader(dataset, batch_size=None)):
                losses = model(batch["text"])
                optimizer.zero_grad()
                losses.mean().backward()
                optimizer.step()
                feedback.write(position=batch["position"], step=step, loss=losses)
                reported += losses.tolist()
                trained += batch["doc_id"]
                state = dataset.state_dict(batch)
        ended = selector("feedback", heap, finished.uri, "--into", table, "--json")
        assert ended.json == {"table": str(table), "rows": 16 * number, "changed": 16}
    assert state == {"manifest": manifest.digest, "position": 32}
    assert len(set(trained)) == len(trained) == 32, "nothing is seen twice, nothing is left out"
    assert trained == [one.hex() for one in manifest.rows(0, 32)["doc_id"].to_pylist()]
    assert np.mean(reported[-8:]) < np.mean(reported[:8]), "it learns"
    losses = pq.read_table(table)
    assert losses["score"].to_numpy() == pytest.approx(sorted_by_id(losses, trained, reported), abs=1e-6)


def sorted_by_id(table: pa.Table, trained: list[str], reported: list[float]) -> list[float]:
    loss_of = dict(zip(trained, reported, strict=True))
    return [loss_of[one.hex()] for one in table["doc_id"].to_pylist()]
