import gc
import gzip
import itertools
import json
import multiprocessing
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from conftest import tries
from manifests import committed_in
from selector import consume, tables
from selector.consume import Layout, ManifestBatchSampler, ManifestDataset, Texts
from selector.engine.store import to_parquet
from selector.errors import CorpusError, DamagedError, NotFoundError, UsageError
from selector.exact import keyed
from selector.manifest import Manifest
from selector.manifest.format import canonical
from selector.manifest.ranks import LASTS, PADDING, Last
from selector.storage import open_storage

# Two cores and three workers: torch would rather have fewer.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

NUM_VISITS = 45


@pytest.fixture(autouse=True)
def _ends_workers_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch gives each worker of an abandoned iteration five seconds to end by itself before it ends it; on a busy
    machine some need that."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)


def text_of(number: int) -> str:
    return f"document {number}: déjà vu\n"


def corpus(folder: Path) -> list[Path]:
    """Ten documents in each of three files of three formats; JSONL rows with a blank line before each."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = [{"text": text_of(number), "id": number} for number in range(30)]
    lines = ["".join("\n" + json.dumps(document) + "\n" for document in documents[at : at + 10]) for at in (0, 10)]
    (folder / "a.jsonl").write_text(lines[0], "utf-8")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines[1].encode(), mtime=0))
    pq.write_table(pa.Table.from_pylist(documents[20:]), folder / "c.parquet", row_group_size=4)
    return [folder / name for name in ("a.jsonl", "b.jsonl.gz", "c.parquet")]


def committed(where: Path, key: str | None = None) -> Manifest:
    """A manifest that sees 30 documents once and 15 of them again, in three phases and in parts of 16."""
    paths = corpus(where / "corpus")
    number = np.arange(30)
    ids = [keyed.digest((text_of(n) if key is None else str(n)).encode()) for n in range(30)]
    chosen = {
        "doc_id": pa.array(ids, tables.DOC_ID),
        "source": pa.array(["web", "books"] * 15).dictionary_encode(),
        "cluster": pa.array([None if n == 5 else n % 4 for n in range(30)], pa.int32()),
        "file": (number // 10).astype(np.uint32),
        "row": np.where(number < 20, number % 10 * 2 + 1, number % 10).astype(np.uint32),
        "num_tokens": (number + 1).astype(np.uint32),
        "inclusion_probability": np.ones(30, np.float32),
        "difficulty": pa.array([None if n == 3 else n / 2 for n in range(30)], pa.float32()),
        "quality": pa.nulls(30, pa.float32()),
        "reason": pa.array(["kept"] * 30).dictionary_encode(),
    }
    document = np.concatenate([number * 7 % 30, number[:15] * 4 % 15])
    visits = {
        "document": document,
        "visit": np.repeat([0, 1], [30, 15]).astype(np.uint16),
        "phase": pa.array(["easy"] * 20 + ["hard"] * 10 + ["again"] * 15).dictionary_encode(),
        "loss_weight": np.where(document % 2, 1, 0.25).astype(np.float32),
    }
    decisions = {
        **{name: chosen[name] for name in ("doc_id", "file", "row", "inclusion_probability", "reason")},
        "outcome": pa.array(["kept"] * 30).dictionary_encode(),
        "visits": np.ones(30, np.uint16),
        "round": np.zeros(30, np.uint16),
    }
    absent = {field.name: pa.nulls(30, field.type) for field in tables.DECISIONS if field.name not in decisions}
    files = {
        "uri": [str(path) for path in paths],
        "format": ["jsonl", "jsonl.gz", "parquet"],
        "num_rows": [20, 20, 10],
        "size": [path.stat().st_size for path in paths],
        "sha256": ["", "", ""],
        "unread": [None, None, None],
    }
    return committed_in(
        open_storage(str(where)),
        pa.table(chosen),
        pa.table(visits),
        part_rows=16,
        files=pa.table(files, schema=tables.FILES),
        decisions=[to_parquet(canonical(pa.table({**decisions, **absent}), tables.DECISIONS))],
        policy={"corpus": {"text": "text", "key": key}},
    )


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return committed(tmp_path_factory.mktemp("consume"))


@pytest.fixture(scope="module")
def expected(manifest: Manifest) -> list[dict[str, Any]]:
    """What is to be seen at each position."""
    numbers = [*(n * 7 % 30 for n in range(30)), *(n * 4 % 15 for n in range(15))]
    return [
        {**visit, "doc_id": visit["doc_id"].hex(), "text": text_of(number)}
        for number, visit in zip(numbers, manifest.rows(0, NUM_VISITS).to_pylist(), strict=True)
    ]


def seen(batches: Iterator[dict[str, Any]] | DataLoader[Any]) -> list[tuple[int, str, str, str, float]]:
    """(position, doc_id, phase, text, loss weight) of all that the batches hold, padding left out."""
    columns = ("position", "doc_id", "phase", "text", "loss_weight")
    lists = (
        [batch[name] if isinstance(batch[name], list) else batch[name].tolist() for name in columns]
        for batch in batches
    )
    return [visit for values in lists for visit in zip(*values, strict=True) if visit[0] != PADDING]


def as_seen(visits: list[dict[str, Any]]) -> list[tuple[int, str, str, str, float]]:
    return [
        (visit["position"], visit["doc_id"], visit["phase"], visit["text"], visit["loss_weight"]) for visit in visits
    ]


# The rank function

SIZES = st.tuples(st.integers(1, 8), st.integers(1, 6)).map(lambda pair: (pair[0], pair[0] * pair[1]))


@given(sizes=SIZES, num_positions=st.integers(0, 99), start=st.integers(0, 120), last=st.sampled_from(LASTS))
def test_ranks_together_see_the_global_batch_whatever_the_world_size(
    sizes: tuple[int, int], num_positions: int, start: int, last: Last
) -> None:
    world_size, size = sizes
    ranks = [
        Layout(global_batch_size=size, rank=rank, world_size=world_size, start=start, last=last)
        for rank in range(world_size)
    ]
    num_steps = ranks[0].num_steps(num_positions)
    everything: list[int] = []
    for step in range(num_steps):
        shares = [rank.positions(step, num_positions) for rank in ranks]
        assert {len(share) for share in shares} == {size // world_size} == {ranks[0].batch_size}
        batch = np.stack(shares, axis=1).reshape(-1).tolist()
        alone = Layout(global_batch_size=size, start=start, last=last).positions(step, num_positions)
        assert batch == alone.tolist()
        everything += batch
    left = list(range(start, num_positions))
    whole = len(left) // size * size
    if last == "drop":
        assert everything == left[:whole]
    else:
        assert everything[: len(left)] == left
        filled = everything[len(left) :]
        assert len(filled) == -len(left) % size
        assert filled == [PADDING if last == "pad" else at % num_positions for at in range(len(filled))]
    assert ranks[0].position_after(num_steps, num_positions) == max(
        start, start + whole if last == "drop" else num_positions
    )


@given(num_positions=st.integers(0, 99), num_workers=st.integers(1, 5), size=st.integers(1, 9))
def test_workers_in_turn_make_the_batches_in_order(num_positions: int, num_workers: int, size: int) -> None:
    layout = Layout(global_batch_size=size)
    turns = [iter(layout.steps(num_positions, worker, num_workers)) for worker in range(num_workers)]
    made = [step for _ in range(num_positions + 1) for turn in turns for step in [next(turn, None)] if step is not None]
    assert made == list(range(layout.num_steps(num_positions)))


@given(st.data())
def test_any_stops_and_changes_of_sizes_continue_exactly(data: st.DataObject) -> None:
    num_positions = data.draw(st.integers(0, 99))
    everything: list[int] = []
    state: dict[str, Any] = {"manifest": "digest", "position": 0}
    while state["position"] != num_positions:
        world_size, size = data.draw(SIZES)
        ranks = [
            Layout(global_batch_size=size, rank=rank, world_size=world_size).resumed(state, "digest", num_positions)
            for rank in range(world_size)
        ]
        num_steps = data.draw(st.integers(1, ranks[0].num_steps(num_positions)))
        for step in range(num_steps):
            everything += np.stack([rank.positions(step, num_positions) for rank in ranks], axis=1).reshape(-1).tolist()
        state = {"manifest": "digest", "position": ranks[0].position_after(num_steps, num_positions)}
    assert [position for position in everything if position != PADDING] == list(range(num_positions))


def test_ranks_of_a_known_order_see_what_they_should() -> None:
    order = [4, 1, 3, 10, 2, 8, 12, 7, 9, 11, 5, 6]
    seen_by = {
        (world_size, rank): [
            order[position]
            for position in Layout(global_batch_size=6, rank=rank, world_size=world_size).positions(0, 12)
        ]
        for world_size in (1, 2, 3)
        for rank in range(world_size)
    }
    assert seen_by == {
        (1, 0): [4, 1, 3, 10, 2, 8],
        (2, 0): [4, 3, 2],
        (2, 1): [1, 10, 8],
        (3, 0): [4, 10],
        (3, 1): [1, 2],
        (3, 2): [3, 8],
    }


def test_sizes_that_do_not_fit_together_are_said_so() -> None:
    for numbers, message in (
        (
            {"global_batch_size": 12, "world_size": 5},
            r"=12 does not divide evenly over world_size=5 ranks\. 10 and 15 do",
        ),
        ({"global_batch_size": 3, "world_size": 5}, r"=3 does not divide evenly over world_size=5 ranks\. 5 does"),
        ({"global_batch_size": 0}, r"global_batch_size=0 has no documents"),
        ({"global_batch_size": 4, "world_size": 0}, r"world_size=0 has no ranks"),
        ({"global_batch_size": 4, "rank": 2, "world_size": 2}, r"rank=2 is not one of world_size=2 ranks"),
        ({"global_batch_size": 4, "start": -1}, r"start=-1 is before the first position"),
        ({"global_batch_size": 4, "last": "padd"}, r"There is no last='padd'\. Did you mean 'pad'\?"),
        ({"global_batch_size": 4, "last": None}, r"There is no last=None\. There is: drop, pad, wrap\."),
        ({"global_batch_size": 4.0}, r"global_batch_size=4\.0 is not a whole number"),
        ({"global_batch_size": 4, "rank": True, "world_size": 2}, r"rank=True is not a whole number"),
    ):
        with pytest.raises(UsageError, match=message):
            Layout(**numbers)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match=r"step=0\.5 is not a whole number"):
        Layout(global_batch_size=3).positions(0.5, 9)  # pyright: ignore[reportArgumentType]
    with pytest.raises(NotFoundError, match=r"There is no step 3: from position 0 to the end at 9 there are 3 steps"):
        Layout(global_batch_size=3).positions(3, 9)


# Texts


def test_texts_are_those_of_the_visits(manifest: Manifest, expected: list[dict[str, Any]]) -> None:
    texts = Texts(manifest)
    assert texts.read(manifest.rows(0, NUM_VISITS)) == [visit["text"] for visit in expected]
    assert texts.read(manifest.take([44, 0, 44])) == [expected[position]["text"] for position in (44, 0, 44)]
    assert texts.read(manifest.rows(0, 0)) == []


@pytest.mark.parametrize("key", [None, "id"])
def test_a_corpus_that_changed_under_the_manifest_is_noticed(tmp_path: Path, key: str | None) -> None:
    manifest = committed(tmp_path, key)
    assert Texts(manifest).read(manifest.rows(0, NUM_VISITS))[0] == text_of(0)
    path = tmp_path / "corpus/a.jsonl"
    sound = path.read_text("utf-8")
    for before, after, message in (
        ("document 3", "document X", "its doc_id is [0-9a-f]{32}, and [0-9a-f]{32} was chosen"),
        ('"text": "document 3', '"test": "document 3', "it has no text now .missing_column"),
    ):
        before, after = (before, after) if key is None or "missing" in message else ('"id": 3', '"id": 8')
        path.write_text(sound.replace(before, after), "utf-8")
        with pytest.raises(
            CorpusError, match=rf"Row 7 of {path} is not the document that the manifest names: {message}"
        ):
            Texts(manifest).read(manifest.rows(0, NUM_VISITS))
    path.write_text(sound + " ", "utf-8")
    with pytest.raises(CorpusError, match=rf"The corpus file {path} is not what it was: it has .* bytes and had"):
        Texts(manifest).read(manifest.rows(0, NUM_VISITS))


# ManifestDataset


@pytest.mark.parametrize(
    ("world_size", "num_workers"),
    [(1, 0), (2, 1), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((1, 1), (1, 3), (2, 0), (2, 3)))],
)
def test_a_real_loader_gives_every_rank_its_batches_in_order(
    manifest: Manifest, expected: list[dict[str, Any]], num_workers: int, world_size: int
) -> None:
    ranks: list[list[dict[str, Any]]] = []
    for rank in range(world_size):
        dataset = ManifestDataset(manifest, global_batch_size=8, rank=rank, world_size=world_size)
        loader: DataLoader[Any] = DataLoader(dataset, batch_size=None, num_workers=num_workers)
        ranks.append(list(loader))
        assert len(ranks[-1]) == len(loader) == 6
        assert seen(loader) == seen(iter(ranks[-1]))  # a second iteration begins where the first did
    for step, shares in enumerate(zip(*ranks, strict=True)):
        assert {share["next_position"] for share in shares} == {min(8 * step + 8, NUM_VISITS)}
        visits = [as_seen(expected[8 * step : 8 * step + 8])[rank::world_size] for rank in range(world_size)]
        assert [seen(iter([share])) for share in shares] == visits


@pytest.mark.parametrize(
    ("before", "after"), [(3, 0), *(pytest.param(*numbers, marks=pytest.mark.slow) for numbers in ((0, 3), (1, 3)))]
)
def test_training_goes_on_exactly_with_other_workers_ranks_and_batch_sizes(
    manifest: Manifest, expected: list[dict[str, Any]], before: int, after: int
) -> None:
    dataset = ManifestDataset(manifest, global_batch_size=6, rank=1, world_size=2)
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=None, num_workers=before)
    state: dict[str, Any] = {}
    for step, batch in enumerate(loader):  # with workers, more has been read by now than was trained on
        state = json.loads(json.dumps(dataset.state_dict(batch)))
        if step == 2:
            break
    assert state == {"manifest": manifest.digest, "position": 18}
    for world_size, size in ((1, 9), (3, 12)):
        trained: list[list[tuple[Any, ...]]] = []
        for rank in range(world_size):
            resumed = ManifestDataset(manifest, global_batch_size=size, rank=rank, world_size=world_size)
            resumed.load_state_dict(state)
            trained.append(seen(DataLoader(resumed, batch_size=None, num_workers=after)))
        assert sorted(itertools.chain(*trained)) == as_seen(expected)[18:]


@pytest.mark.slow
@tries(30)
@given(data=st.data())
def test_a_dataset_resumes_from_any_position_on_any_sizes(manifest: Manifest, data: st.DataObject) -> None:
    state: dict[str, Any] = {"manifest": manifest.digest, "position": 0}
    positions: list[int] = []
    while state["position"] < NUM_VISITS:
        world_size, size = data.draw(SIZES)
        num_steps = data.draw(st.integers(1, 5))
        states: list[dict[str, Any]] = []
        shares: list[int] = []
        for rank in range(world_size):
            dataset = ManifestDataset(manifest, global_batch_size=size, rank=rank, world_size=world_size, text=False)
            dataset.load_state_dict(state)
            for batch in itertools.islice(dataset, num_steps):
                shares += batch["position"].tolist()
                assert dataset.state_dict() == dataset.state_dict(batch)
            states.append(dataset.state_dict())
        assert all(told == states[0] for told in states)
        state = states[0]
        positions += sorted(position for position in shares if position != PADDING)
    assert positions == list(range(NUM_VISITS))


def test_without_workers_the_dataset_knows_its_state(manifest: Manifest) -> None:
    dataset = ManifestDataset(manifest, global_batch_size=10, text=False)
    assert dataset.state_dict() == {"manifest": manifest.digest, "position": 0}
    for batch in DataLoader(dataset, batch_size=None):
        assert dataset.state_dict() == dataset.state_dict(batch)
    assert dataset.state_dict()["position"] == NUM_VISITS
    dataset.load_state_dict(dataset.state_dict())
    assert len(dataset) == 0
    assert list(dataset) == []
    assert len(dataset) == len(list(dataset)) == 5


def test_with_workers_the_dataset_does_not_guess_its_state(manifest: Manifest) -> None:
    dataset = ManifestDataset(manifest, global_batch_size=10, text=False)
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=None, num_workers=2)
    batch = next(iter(loader))
    with pytest.raises(
        UsageError, match=r"does not know what was trained on\. Give the last batch: dataset\.state_dict"
    ):
        dataset.state_dict()
    assert dataset.state_dict(batch)["position"] == 10
    dataset.load_state_dict(dataset.state_dict(batch))
    assert dataset.state_dict()["position"] == 10


def test_a_state_asked_for_in_a_worker_is_refused_with_the_cure(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = ManifestDataset(manifest, global_batch_size=10)
    monkeypatch.setattr("selector.consume.dataset.get_worker_info", object)
    with pytest.raises(UsageError, match=r"called in a loader worker, .* dataset\.state_dict\(batch\)"):
        dataset.state_dict()


def test_states_that_are_not_this_manifests_are_refused(manifest: Manifest, tmp_path: Path) -> None:
    dataset = ManifestDataset(manifest, global_batch_size=10)
    other = committed(tmp_path)
    sampler = ManifestBatchSampler(manifest, global_batch_size=10, last="drop")
    for consumer in (dataset, sampler):
        with pytest.raises(
            UsageError, match=rf"belongs to the manifest {other.digest}, and this is {manifest.digest}\."
        ):
            consumer.load_state_dict({"manifest": other.digest, "position": 0})
        for position in (-1, NUM_VISITS + 1):
            with pytest.raises(
                UsageError, match=rf"The state has position {position}, and there are 0 to {NUM_VISITS}\."
            ):
                consumer.load_state_dict({"manifest": manifest.digest, "position": position})
        nonsense: Any
        for nonsense in (
            {}, None, "state", 8, [manifest.digest, 8], {"manifest": manifest.digest},
            {"manifest": manifest.digest, "position": "3"}, {"manifest": manifest.digest, "position": True},
            {"manifest": manifest.digest, "position": 8, "epoch": 1},
        ):  # fmt: skip
            with pytest.raises(
                UsageError, match=r"This is not a state: .* It is \{'manifest': digest, 'position': int\}"
            ):
                consumer.load_state_dict(nonsense)


def test_a_last_batch_is_padded_dropped_or_wrapped_as_told(manifest: Manifest, expected: list[dict[str, Any]]) -> None:
    batches = {last: list(ManifestDataset(manifest, global_batch_size=20, last=last)) for last in LASTS}
    assert [len(batches[last]) for last in LASTS] == [3, 2, 3]
    padded, wrapped = batches["pad"][-1], batches["wrap"][-1]
    assert padded["position"].tolist() == [*range(40, 45), *[PADDING] * 15]
    assert padded["loss_weight"][5:].tolist() == padded["num_tokens"][5:].tolist() == [0] * 15
    assert padded["text"][5:] == padded["doc_id"][5:] == padded["phase"][5:] == [""] * 15
    assert seen(iter([wrapped])) == as_seen(expected[40:] + expected[:15])
    assert [batches[last][-1]["next_position"] for last in LASTS] == [45, 40, 45]


def test_a_batch_holds_the_columns_asked_for_in_torchs_types(
    manifest: Manifest, expected: list[dict[str, Any]]
) -> None:
    columns = ("difficulty", "source", "cluster", "reason", "token_start", "visit", "byte_length")
    (batch,) = ManifestDataset(manifest, global_batch_size=48, columns=columns)
    assert {name: value.dtype for name, value in batch.items() if isinstance(value, torch.Tensor)} == {
        **dict.fromkeys(("position", "num_tokens", "cluster", "token_start", "visit", "byte_length"), torch.int64),
        **dict.fromkeys(("loss_weight", "difficulty"), torch.float32),
    }
    for name in ("source", "reason", "cluster", "token_start", "visit", "num_tokens"):
        values = batch[name].tolist() if isinstance(batch[name], torch.Tensor) else batch[name]
        assert values[:NUM_VISITS] == [-1 if visit[name] is None else visit[name] for visit in expected]
        assert values[NUM_VISITS:] == [values[0].__class__()] * 3
    assert -1 in batch["cluster"].tolist() and batch["byte_length"].tolist() == [-1] * NUM_VISITS + [0] * 3
    for told, visit in zip(batch["difficulty"].tolist(), expected, strict=False):
        assert told == visit["difficulty"] or (visit["difficulty"] is None and np.isnan(told))
    assert "text" not in next(iter(ManifestDataset(manifest, global_batch_size=4, text=False)))
    for asked in (["dificulty"], "dificulty"):
        with pytest.raises(UsageError, match=r"A manifest has no column 'dificulty'\. Did you mean 'difficulty'\?"):
            ManifestDataset(manifest, global_batch_size=4, columns=asked)
    with pytest.raises(UsageError, match=r"This batch has no next_position\. A collate_fn has to leave it"):
        ManifestDataset(manifest, global_batch_size=4).state_dict({"text": []})
    for nothing in (None, 8, ["runs"]):
        with pytest.raises(UsageError, match=r"is not a manifest[.] Give a Manifest or the address of one"):
            ManifestDataset(nothing, global_batch_size=4)  # pyright: ignore[reportArgumentType]


def test_a_key_column_names_the_documents(tmp_path: Path) -> None:
    dataset = ManifestDataset(str(committed(tmp_path, "id")._storage.address), global_batch_size=NUM_VISITS)  # pyright: ignore[reportPrivateUsage]
    (batch,) = dataset
    assert batch["doc_id"][1] == keyed.digest(b"7").hex()
    assert batch["text"][1] == text_of(7)


@pytest.mark.slow
def test_a_dataset_travels_to_other_processes(manifest: Manifest) -> None:
    dataset = ManifestDataset(manifest, global_batch_size=15)
    batches = list(dataset)
    dataset.load_state_dict(dataset.state_dict(batches[0]))
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301
    assert seen(iter(copy)) == seen(iter(batches[1:]))
    spawned: DataLoader[Any] = DataLoader(
        dataset, batch_size=None, num_workers=1, multiprocessing_context=multiprocessing.get_context("spawn")
    )
    assert seen(spawned) == seen(iter(batches[1:]))
    with pytest.raises(UsageError, match="does not know what was trained on"):
        dataset.state_dict()


def of(batches: Any) -> list[int]:
    """The positions of batches of a dataset or a sampler, without padding."""
    lists = [batch["position"] if isinstance(batch, dict) else torch.as_tensor(batch) for batch in batches]
    return [position for positions in lists for position in positions.tolist() if position != PADDING]


LOADERS = [
    {},
    *(
        pytest.param(loader, marks=pytest.mark.slow)
        for loader in ({"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}, {"num_workers": 3})
    ),
]


def looping(kind: str, manifest: Manifest, loader: dict[str, Any] | None) -> tuple[Any, Any]:
    """A dataset or a sampler of the order in batches of 4, and what is iterated of it: itself, or in a loader."""
    if kind == "dataset":
        dataset = ManifestDataset(manifest, global_batch_size=4, text=False)
        return dataset, dataset if loader is None else DataLoader(dataset, batch_size=None, **loader)
    sampler = ManifestBatchSampler(manifest, global_batch_size=4, last="drop")
    return sampler, sampler if loader is None else DataLoader(Positions(), batch_sampler=sampler, **loader)


@pytest.mark.parametrize("kind", ["dataset", "sampler"])
@pytest.mark.parametrize("loader", [None, *LOADERS])
def test_a_state_is_for_the_rest_of_one_epoch_and_the_length_says_so(
    manifest: Manifest, kind: str, loader: dict[str, Any] | None
) -> None:
    consumer, iterated = looping(kind, manifest, loader)
    end = NUM_VISITS if kind == "dataset" else NUM_VISITS // 4 * 4
    for start in (20, 41, 44, NUM_VISITS):  # the last of these leave one batch, or none
        consumer.load_state_dict({"manifest": manifest.digest, "position": start})
        steps = -(-(end - start) // 4) if start < end else 0
        assert len(iterated) == steps
        assert of(iterated) == list(range(start, start + steps * 4))[: end - start if kind == "dataset" else None]
        for _ in range(2):
            assert len(iterated) == -(-end // 4)
            assert of(iterated) == list(range(end))


@pytest.mark.parametrize("kind", ["dataset", "sampler"])
@pytest.mark.parametrize("loader", [None, *LOADERS])
def test_a_peek_costs_nothing(manifest: Manifest, kind: str, loader: dict[str, Any] | None) -> None:
    consumer, iterated = looping(kind, manifest, loader)
    consumer.load_state_dict({"manifest": manifest.digest, "position": 4})
    for _ in range(2):
        assert of([next(iter(iterated))]) == [4, 5, 6, 7]
    assert of(itertools.islice(iterated, 3)) == list(range(4, 16))
    assert of(iterated)[:5] == [4, 5, 6, 7, 8]
    assert of(iterated)[:5] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["dataset", "sampler"])
@pytest.mark.parametrize("loader", [None, {}, {"num_workers": 2}])
def test_an_epoch_ends_with_its_last_batch_though_nobody_asks_for_more(
    manifest: Manifest, kind: str, loader: dict[str, Any] | None
) -> None:
    """As trainers do that count the batches of an epoch."""
    consumer, iterated = looping(kind, manifest, loader)
    consumer.load_state_dict({"manifest": manifest.digest, "position": 4})
    num_batches = len(iterated)
    batches = iter(iterated)
    assert of(next(batches) for _ in range(num_batches))[0] == 4
    assert len(iterated) == num_batches + 1
    assert of(iterated)[0] == 0


def test_what_an_abandoned_iteration_does_later_changes_nothing(manifest: Manifest) -> None:
    for kind in ("dataset", "sampler"):
        consumer, _ = looping(kind, manifest, None)
        consumer.load_state_dict({"manifest": manifest.digest, "position": 32})
        abandoned = iter(consumer)
        next(abandoned)
        consumer.load_state_dict({"manifest": manifest.digest, "position": 8})
        of(abandoned)
        assert of(consumer)[0] == 8


@pytest.fixture
def torn_down(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ends within the test what torch tears down slowly and noisily: a loader that is refused as it starts its
    workers, and the threads that feed them."""
    if request.node.callspec.params.get("num_workers") == 0:
        yield  # there is no worker
        return
    before = threading.enumerate()
    gc.freeze()  # what was there before is not looked through
    try:
        yield
        gc.collect()
        for thread in threading.enumerate():
            if thread not in before and thread.name.startswith("QueueFeederThread"):
                thread.join(timeout=10)
        gc.collect()
    finally:
        gc.unfreeze()


def noisy(test: Any) -> Any:
    """A test in which a loader is refused as it starts its workers."""
    kinds = ("PytestUnhandledThreadExceptionWarning", "PytestUnraisableExceptionWarning")
    quiet = pytest.mark.filterwarnings(*(f"ignore::pytest.{kind}" for kind in kinds))
    return quiet(pytest.mark.usefixtures("torn_down")(test))


@noisy
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_loader_that_would_join_whole_batches_is_refused(
    manifest: Manifest, batch_size: int, num_workers: int
) -> None:
    dataset = ManifestDataset(manifest, global_batch_size=4)
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=batch_size, num_workers=num_workers)
    told = rf"batch_size={batch_size} would join .* write DataLoader\(dataset, batch_size=None"
    for call in (lambda: next(iter(loader)), lambda: consume.check(loader), lambda: len(loader)):
        with pytest.raises(UsageError, match=told):
            call()
    sampler = ManifestBatchSampler(manifest, global_batch_size=4, last="drop")
    joined: DataLoader[Any] = DataLoader(Positions(), sampler=sampler, batch_size=batch_size, num_workers=num_workers)
    for call in (lambda: next(iter(joined)), lambda: consume.check(joined)):
        with pytest.raises(UsageError, match=r"would join this sampler's batches .* batch_sampler=sampler"):
            call()


@noisy
@pytest.mark.parametrize("num_items", [NUM_VISITS - 1, NUM_VISITS + 1, 10 * NUM_VISITS])
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_dataset_that_is_not_one_item_a_position_is_refused(
    manifest: Manifest, num_items: int, num_workers: int
) -> None:
    """The rows of the corpus, for instance: whoever read them by position would train on other documents."""
    sampler = ManifestBatchSampler(manifest, global_batch_size=4, last="drop")
    loader: DataLoader[Any] = DataLoader(list(range(num_items)), batch_sampler=sampler, num_workers=num_workers)  # pyright: ignore[reportArgumentType]
    for call in (lambda: next(iter(loader)), lambda: consume.check(loader), lambda: len(loader)):
        with pytest.raises(
            UsageError, match=rf"has {num_items} items and the order {NUM_VISITS} positions, .* dataset\.select\("
        ):
            call()


def test_a_loader_that_reads_lists_of_positions_is_right(manifest: Manifest) -> None:
    class Lists(torch.utils.data.Dataset[Any]):
        def __getitem__(self, index: Any) -> Any:
            return torch.tensor(index)

    sampler = ManifestBatchSampler(manifest, global_batch_size=4, last="drop")
    loader: DataLoader[Any] = DataLoader(Lists(), sampler=sampler, batch_size=None)
    consume.check(loader)
    assert of(loader) == list(range(44))


@noisy
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dataset", "sampler"])
@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_batches_out_of_turn_are_refused(manifest: Manifest, kind: str, context: str) -> None:
    options = {"num_workers": 2, "in_order": False, "multiprocessing_context": context}
    _, loader = looping(kind, manifest, options)
    for call in (lambda: next(iter(loader)), lambda: consume.check(loader)):
        with pytest.raises(UsageError, match=r"in_order=False hands out batches as workers finish them"):
            call()
    _, alone = looping(kind, manifest, {"in_order": False})  # without workers it changes nothing
    consume.check(alone)
    assert of(alone)[:5] == [0, 1, 2, 3, 4]


def test_a_dataset_around_ours_may_batch_as_it_likes(manifest: Manifest) -> None:
    class Documents(torch.utils.data.IterableDataset[Any]):
        def __init__(self) -> None:
            self.batches = ManifestDataset(manifest, global_batch_size=4, text=False)

        def __iter__(self) -> Iterator[Any]:
            for batch in self.batches:
                yield from batch["position"].tolist()

    loader: DataLoader[Any] = DataLoader(Documents(), batch_size=3, num_workers=1)
    assert next(iter(loader)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", [ManifestDataset, ManifestBatchSampler])
def test_rank_and_world_size_are_those_of_torch_distributed(
    kind: Any, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"global_batch_size": 4, "last": "drop"}
    first = lambda consumer: of([next(iter(consumer))])  # noqa: E731
    before = kind(manifest, **options)
    given = kind(manifest, **options, rank=0, world_size=1)
    assert first(before) == [0, 1, 2, 3]
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert first(kind(manifest, **options)) == [0, 1, 2, 3]
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        found = kind(manifest, **options)
        assert first(found) == [1, 3]
        for call in (lambda: first(before), lambda: len(before)):
            with pytest.raises(UsageError, match=r"made as rank 0 of 1, and torch\.distributed now says rank 1 of 2"):
                call()
        assert first(given) == [0, 1, 2, 3]  # a twin in a device mesh, for instance
    finally:
        monkeypatch.undo()
        torch.distributed.destroy_process_group()
    assert first(found) == [1, 3]


@pytest.mark.parametrize("kind", [ManifestDataset, ManifestBatchSampler])
def test_a_rank_that_is_not_known_yet_is_refused(
    kind: Any, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"global_batch_size": 4, "last": "drop"}
    for name, value in (
        ("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "3"), ("SLURM_NTASKS", "8"), ("SLURM_PROCID", "1"),
        ("OMPI_COMM_WORLD_SIZE", "2"), ("PMI_SIZE", "2"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
        with pytest.raises(
            UsageError,
            match=rf"{name}={value} in the environment .* Call torch.distributed.init_process_group.* before, or",
        ):
            kind(manifest, **options)
        assert of([next(iter(kind(manifest, **options, rank=1, world_size=2)))]) == [1, 3]
        monkeypatch.delenv(name)
    for name, value in (("WORLD_SIZE", "1"), ("RANK", "0"), ("SLURM_NTASKS", "1"), ("SLURM_PROCID", ""), ("RANK", "x")):
        monkeypatch.setenv(name, value)
        assert of([next(iter(kind(manifest, **options)))]) == [0, 1, 2, 3]
        monkeypatch.delenv(name)
    for half in ({"rank": 0}, {"world_size": 2}):
        with pytest.raises(UsageError, match="give both or neither"):
            kind(manifest, **options, **half)


@noisy
@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_a_process_group_that_comes_later_is_seen_by_loader_workers(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: str
) -> None:
    dataset = ManifestDataset(manifest, global_batch_size=4)
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=context)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(torch.distributed, "get_world_size", lambda: 2)
            with pytest.raises(UsageError, match=r"made as rank 0 of 1, and torch\.distributed now says rank 0 of 2"):
                next(iter(loader))
    finally:
        torch.distributed.destroy_process_group()


@given(size=st.integers(1, 60), last=st.sampled_from(LASTS), world_size=st.sampled_from([1, 2, 3]))
@tries(30)
def test_the_documented_loss_is_the_weighted_mean_of_the_global_batch_on_any_ranks(
    manifest: Manifest, size: int, last: Last, world_size: int
) -> None:
    """Also where a rank's share is nothing but padding."""
    options: dict[str, Any] = {"global_batch_size": size * world_size, "last": last, "text": False}
    ranks = [ManifestDataset(manifest, **options, rank=rank, world_size=world_size) for rank in range(world_size)]
    for shares in zip(*ranks, strict=True):
        whole = {name: torch.cat([share[name] for share in shares]) for name in ("position", "loss_weight")}
        losses = [torch.where(share["position"] < 0, 1.0, share["position"].double() % 7) for share in shares]
        weighted = (torch.cat(losses) * whole["loss_weight"]).sum() / whole["loss_weight"].sum()
        by_rank = [
            (loss * share["loss_weight"]).sum() / share["weight_per_rank"]
            for loss, share in zip(losses, shares, strict=True)
        ]
        assert torch.stack(by_rank).mean().item() == pytest.approx(weighted.item(), rel=1e-6)


def test_damage_reaches_the_trainer_as_an_error(tmp_path: Path) -> None:
    committed(tmp_path)
    part = tmp_path / "run/manifest/parts/part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    dataset = ManifestDataset(str(tmp_path), global_batch_size=4)
    for num_workers, error in ((0, DamagedError), (2, RuntimeError)):  # torch wraps what it cannot make again
        with pytest.raises(error, match=r"part-00001\.parquet is damaged"):
            list(DataLoader(dataset, batch_size=None, num_workers=num_workers))


# ManifestBatchSampler


class Positions(torch.utils.data.Dataset[int]):
    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize("num_workers", [0, 3])
def test_a_sampler_gives_a_loader_its_positions(manifest: Manifest, num_workers: int) -> None:
    sampler = ManifestBatchSampler(manifest, global_batch_size=8, last="wrap", rank=1, world_size=2)
    loader: DataLoader[Any] = DataLoader(Positions(), batch_sampler=sampler, num_workers=num_workers)
    batches = [batch.tolist() for batch in loader]
    assert len(batches) == len(sampler) == 6
    assert [position for batch in batches for position in batch] == [*range(1, NUM_VISITS, 2), 0, 2]
    state = sampler.state_dict(2)
    assert state == {"manifest": manifest.digest, "position": 16}
    resumed = ManifestBatchSampler(manifest, global_batch_size=4, last="drop")
    resumed.load_state_dict(state)
    assert [position for batch in resumed for position in batch] == list(range(16, 44))
    assert resumed.state_dict(7)["position"] == resumed.state_dict()["position"] == 44
    with pytest.raises(UsageError, match=r"num_steps=7 is not a number of steps: an iteration has 6\."):
        sampler.state_dict(7)
    with pytest.raises(UsageError, match=r"last='pad' is not for a sampler\. Give 'drop' or 'wrap', or use Man"):
        ManifestBatchSampler(manifest, global_batch_size=8, last="pad")  # pyright: ignore[reportArgumentType]


# What a trainer has to install

WITHOUT = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
from selector.consume import Layout, ManifestBatchSampler, Texts
from selector.manifest import Manifest
manifest = Manifest.open({uri!r})
assert manifest.verify().ok
batch = manifest.batch(1, global_batch_size=8, rank=1, world_size=2)
print("".join(Texts(manifest).read(batch)))
manifest.explain(manifest.at(3)["doc_id"]), manifest.describe()
assert next(iter(ManifestBatchSampler(manifest, global_batch_size=8, last="drop"))) == list(range(8))
try:
    from selector.consume import ManifestDataset
except ModuleNotFoundError as error:
    print(error.__notes__)
"""


def test_numpy_and_pyarrow_are_enough(manifest: Manifest, expected: list[dict[str, Any]]) -> None:
    blocked = "pydantic polars torch ray faiss yaml typer rich fsspec sklearn scipy sentence_transformers transformers"
    uri = f"{manifest._storage.address}/run"  # pyright: ignore[reportPrivateUsage]
    code = WITHOUT.format(blocked=set(blocked.split()), uri=uri)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("".join(visit["text"] for visit in expected[9:16:2]))
    assert "ManifestDataset needs torch: pip install torch" in done.stdout
