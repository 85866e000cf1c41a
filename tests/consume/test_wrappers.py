"""What other libraries' loaders make of the order, with the libraries themselves: in two processes, on CPU, over gloo.

Each case is right or refused. Right: every epoch's positions, over both ranks, are those of the order, and each step's
are those of its global batch.
"""

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consume.test_consume import NUM_VISITS, committed
from selector import consume
from selector.consume import sampler
from selector.manifest import Manifest

pytestmark = pytest.mark.slow

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
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
        "stateful": "use_stateful_dataloader stores how many batches were read, and not of which manifest",
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
        "dataset, from a checkpoint": [ALL[20:28]],
        "dataset, from a checkpoint, loaded": [ALL[20:28]],
        "dataset, from a checkpoint, not loaded": "Training goes on after 5 steps, .* would begin at 0 once more",
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


def shared() -> dict[str, str]:
    """The environment of every process of a training."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}


def on_ranks(num_ranks: int, command: Callable[[int], list[str]], where: Path) -> None:
    """Runs a command as each of the processes of a training."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {
        **shared(), "WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    processes: list[subprocess.Popen[str]] = []
    try:
        for rank in range(num_ranks):
            with (where / f"log{rank}").open("w") as log:
                processes.append(
                    subprocess.Popen(
                        command(rank), cwd=where, stdout=log, stderr=log, text=True,
                        env={**world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    )
                )  # fmt: skip
        codes = [process.wait(300) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    logs = [(where / f"log{rank}").read_text("utf-8")[-3000:] for rank in range(num_ranks)]
    assert not any(codes), "\n".join(logs)


@pytest.fixture(scope="module")
def answers(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, dict[str, Any]]]]:
    """What every case gave on each of two ranks, by the installed libraries."""
    libraries = [library for library in CASES if all(map(importlib.util.find_spec, NEEDS.get(library, (library,))))]
    folder = tmp_path_factory.mktemp("answers")
    uri = f"{manifest._storage.address}/run"  # pyright: ignore[reportPrivateUsage]
    script = [sys.executable, str(Path(__file__).with_name("two_ranks.py")), uri, str(folder), *libraries]
    with (folder / "log").open("w") as log:
        ranks = subprocess.Popen(script, cwd=folder, stdout=log, stderr=log, env=shared(), start_new_session=True)
    try:
        code = ranks.wait(600)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(ranks.pid, signal.SIGKILL)
        ranks.wait()
    logs = [log.read_text("utf-8")[-3000:] for log in (folder / "log", *folder.glob("*.log"))]
    assert code == 0, "\n".join(logs)
    return {
        library: [json.loads((folder / f"{library}-{rank}.json").read_text("utf-8")) for rank in range(2)]
        for library in libraries
    }


def test_other_loaders_keep_the_order_on_two_ranks_or_are_refused(
    answers: dict[str, list[dict[str, dict[str, Any]]]],
) -> None:
    for library, of_ranks in answers.items():
        for case, wanted in CASES[library].items():
            gave = [of_rank[case] for of_rank in of_ranks]
            if isinstance(wanted, str):
                for answer in gave:
                    assert "error" in answer, (library, case, answer)
                    with pytest.raises(RuntimeError, match=f"(?i){wanted}"):
                        raise RuntimeError(answer["error"])
                    assert answer["is_ours"] or case in THEIRS, (library, case, answer)
                continue
            assert all("epochs" in answer for answer in gave), (library, case, gave)
            epochs = [interleaved(*shares) for shares in zip(*(answer["epochs"] for answer in gave), strict=True)]
            assert epochs == wanted, (library, case)


# A model whose gradient depends on every text, and what a script shows to its test.
BEFORE = """
import json, os, torch
import torch.distributed
from torch.utils.data import DataLoader
from selector.consume import ManifestBatchSampler
from selector.manifest import Manifest

torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.5

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
        self.texts = []

    def forward(self, texts):
        self.texts += texts
        return (self.weight * torch.tensor([float(len(text) + hash_of(text)) for text in texts]) - 20).square() / 1000

def hash_of(text):
    return sum(text.encode()) % 17

model = Model()
"""
AFTER = """
seen = [None] * torch.distributed.get_world_size()
torch.distributed.all_gather_object(seen, model.texts)
texts = [text for of_rank in seen for text in of_rank if text]
with open(f"out{os.environ['RANK']}.json", "w") as out:
    json.dump({"weight": model.weight.item(), "texts": sorted(texts), "state": state}, out)
"""


END = "torch.distributed.destroy_process_group()\n"  # or else a thread of gloo's may abort the process as it ends


def test_the_readmes_training_is_that_of_one_rank_on_two(manifest: Manifest, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python torchrun\n(.*?)```", README, re.DOTALL)
    steps, end, nothing = code.partition(END)
    assert end and not nothing
    (tmp_path / "train.py").write_text(BEFORE + steps + AFTER + end, "utf-8")
    (tmp_path / "runs").mkdir()
    run = f"{manifest._storage.address}/run"  # pyright: ignore[reportPrivateUsage]
    (tmp_path / "runs/2f1c9a0b3d4e5f60").symlink_to(run)
    gave: list[dict[str, Any]] = []
    for num_ranks in (1, 2):
        on_ranks(num_ranks, lambda _: [sys.executable, "train.py"], tmp_path)
        gave += [json.loads((tmp_path / f"out{rank}.json").read_text("utf-8")) for rank in range(num_ranks)]
    alone, *both = gave
    assert alone["weight"] != 1 and len(alone["texts"]) == NUM_VISITS
    for rank in both:
        assert rank["weight"] == pytest.approx(alone["weight"], rel=1e-6)
        assert rank["texts"] == alone["texts"] and rank["state"] == alone["state"]
        assert rank["state"] == {"manifest": manifest.digest, "position": NUM_VISITS}


def test_the_documented_lines_are_right_on_two_ranks(manifest: Manifest, tmp_path: Path) -> None:
    """Of the package, whose one batch is nearly all padding, and of the sampler."""
    of_package, of_sampler = (code_in(module.__doc__ or "") for module in (consume, sampler))
    code = f"""
torch.distributed.init_process_group("gloo")
states = []
def save(stored):
    states.append(stored["data"])
{of_package}
manifest = Manifest.open("runs/2f1c")
assert all(torch.isfinite(parameter.grad) for parameter in model.parameters()) and len(states) == 1
my_dataset = range(len(manifest))
{of_sampler.replace("512", "8")}
assert len(loader) == len(manifest) // 8
batches = [batch.tolist() for batch in loader]
model.texts = [str(position) for batch in batches for position in batch]
state = states[0]
"""
    (tmp_path / "lines.py").write_text(BEFORE + code + AFTER + END, "utf-8")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/2f1c").symlink_to(f"{manifest._storage.address}/run")  # pyright: ignore[reportPrivateUsage]
    on_ranks(2, lambda _: [sys.executable, "lines.py"], tmp_path)
    for rank in range(2):
        gave = json.loads((tmp_path / f"out{rank}.json").read_text("utf-8"))
        assert gave["state"] == {"manifest": manifest.digest, "position": NUM_VISITS}
        assert sorted(map(int, gave["texts"])) == list(range(NUM_VISITS // 8 * 8))


def code_in(doc: str) -> str:
    """The first block of code of a docstring."""
    block = re.split(r"\n(?=\S)", doc[doc.index("\n    ") :])[0]
    return textwrap.dedent(block)


def interleaved(first: list[int], second: list[int]) -> list[int]:
    """The shares of two ranks as the order has them; the first may be longer by one, where padding was left out."""
    dealt = [position for pair in zip(first, second, strict=False) for position in pair]
    return dealt + first[len(second) :]
