"""What other libraries' loaders make of the order, with the libraries themselves: in two processes, on CPU, over gloo.

Each case is right or refused. Right: every epoch's positions, over both ranks, are those of the order, and each step's
are those of its global batch.
"""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consume.test_consume import NUM_VISITS, committed
from selector.manifest import Manifest

pytestmark = pytest.mark.slow

SIZE = 4
ALL = list(range(NUM_VISITS))
WRAPPED = [*ALL, *range(-NUM_VISITS % SIZE)]
DROPPED = ALL[: NUM_VISITS // SIZE * SIZE]

OURS = "UsageError"
CUT = "cuts what it reads over 2 processes, and this is already the share of rank"
# What each case gives: the positions of its epochs over both ranks, in the order of training, or how it is refused.
CASES: dict[str, dict[str, list[list[int]] | str]] = {
    "torch": {
        "checked": [ALL, ALL],
        "one share twice": r"of world_size=2 ranks 2 processes read \{0: 2\}",
        "one is refused": "Process 0: batch_size=2 would join batches .* batch_size=None",
        "one is elsewhere": "The processes do not read the same: position is 0, 8",
    },
    "torchdata": {
        **{f"dataset, {workers} workers, after {after}": [ALL, ALL] for workers in (0, 2) for after in (1, 5)},
        **{f"sampler, {workers} workers, after {after}": [WRAPPED, WRAPPED] for workers in (0, 2) for after in (1, 5)},
    },
    "accelerate": {
        "beside": [ALL, ALL],
        "resumed": [[2, 2], WRAPPED[40:], WRAPPED],
        "skipped": [WRAPPED[40:]],
        "skipped twice": "skips 2 batches, and the state that was loaded begins at 8",
        "stateful": [WRAPPED[40:]],
        **{f"{name}{checked}": [WRAPPED, WRAPPED] for name in ("sampler", "sampler, workers", "sampler, uneven")
           for checked in ("", ", checked")},
        **{f"sampler, dropped{checked}": [DROPPED, DROPPED] for checked in ("", ", checked")},
        **{f"{name}{checked}": CUT for checked in ("", ", checked") for name in (
            "sampler, dispatched", "sampler, alone", "dataset", "dataset, workers", "dataset, sharded",
            "dataset, batched")},
        "sampler, split": "split_batches",
        "sampler, split, checked": "split_batches",
    },
    "transformers": {
        "dataset": CUT,
        "dataset, own loader": [ALL, ALL],
        "dataset, own loader, resumed": [ALL[40:], ALL[:8]],  # as many steps as the Trainer counted when it began
        "sampler, prepared": [WRAPPED, WRAPPED],
        "neither, checked": "There is no ManifestDataset and no ManifestBatchSampler in this loader, only",
    },
    "pytorch_lightning": {
        "dataset, made before": "WORLD_SIZE=2 in the environment says that this is one of several processes",
        "dataset": [ALL, ALL],
        "dataset, workers": [ALL, ALL],
        "sampler": "can't inject a .distributed. sampler into your batch sampler",
        "sampler, not injected": [WRAPPED, WRAPPED],
    },
}  # fmt: skip
THEIRS = {"sampler, split", "sampler, split, checked", "sampler"}  # refused by the library itself
NEEDS = {"transformers": ("transformers", "accelerate")}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return committed(tmp_path_factory.mktemp("wrapped"))


def on_two_ranks(command: Callable[[int], list[str]], where: Path, **environment: str) -> None:
    """Runs a command as each of two processes of a training."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    told = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared = {**os.environ, **told, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", **environment}
    processes: list[subprocess.Popen[str]] = []
    try:
        for rank in range(2):
            with (where / f"log{rank}").open("w") as log:
                processes.append(
                    subprocess.Popen(
                        command(rank), cwd=where, stdout=log, stderr=log, text=True,
                        env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    )
                )  # fmt: skip
        codes = [process.wait(300) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert codes == [0, 0], "\n".join((where / f"log{rank}").read_text("utf-8")[-3000:] for rank in range(2))


@pytest.mark.parametrize("library", CASES)
def test_other_loaders_keep_the_order_on_two_ranks_or_are_refused(
    library: str, manifest: Manifest, tmp_path: Path
) -> None:
    for needed in NEEDS.get(library, (library,)):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    uri = f"{manifest._storage.address}/run"  # pyright: ignore[reportPrivateUsage]
    script = str(Path(__file__).with_name("two_ranks.py"))
    on_two_ranks(lambda rank: [sys.executable, script, library, uri, str(tmp_path / f"{rank}.json")], tmp_path)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text("utf-8")) for rank in range(2)]
    for case, wanted in CASES[library].items():
        gave: list[dict[str, Any]] = [rank[case] for rank in ranks]
        if isinstance(wanted, str):
            for answer in gave:
                assert "error" in answer, (case, answer)
                with pytest.raises(RuntimeError, match=f"(?i){wanted}"):
                    raise RuntimeError(answer["error"])
                assert answer["is_ours"] or case in THEIRS, (case, answer)
            continue
        assert all("epochs" in answer for answer in gave), (case, gave)
        epochs = [interleaved(*shares) for shares in zip(*(answer["epochs"] for answer in gave), strict=True)]
        assert epochs == wanted, case


def interleaved(first: list[int], second: list[int]) -> list[int]:
    """The shares of two ranks as the order has them; the first may be longer by one, where padding was left out."""
    dealt = [position for pair in zip(first, second, strict=False) for position in pair]
    return dealt + first[len(second) :]
