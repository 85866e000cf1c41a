"""How fast a trainer is given an order's documents, beside Hugging Face datasets' `select` and iteration.

Real documents, half of them in JSON lines and half in Parquet, in a random order, in batches of 32. The alternatives
take turns in one process, each time with nothing held from the time before; the medians are what to quote.
"""

import importlib.util
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import DataLoader

import selector
from selector.consume import ManifestDataset
from selector.errors import UsageError
from selector.manifest import Manifest

_BATCH = 32


def consume(paths: Sequence[str], num_documents: int, rounds: int) -> None:
    """Prints the documents a second of ManifestDataset with 0 and 2 workers, and of `datasets`."""
    with tempfile.TemporaryDirectory(prefix="selector-consume-") as folder:
        corpus = _corpus(paths, num_documents, Path(folder))
        manifest = _manifest(corpus, folder)
        ways = {
            f"ManifestDataset, {num_workers} workers": _ours(manifest, num_workers) for num_workers in (0, 2)
        } | _theirs(corpus, manifest, folder)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        cpu: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                began, before = time.monotonic(), _cpu_seconds()
                num_seen = way()
                seconds[name].append(time.monotonic() - began)
                cpu[name].append(_cpu_seconds() - before)
                assert num_seen == len(manifest), (name, num_seen)
        size = sum(path.stat().st_size for path in corpus)
        print(f"{len(manifest)} documents, {size / 1e6:.0f} MB; load {os.getloadavg()[0]:.2f}")
        for name, times in seconds.items():
            median = statistics.median(times)
            spread = f"{len(manifest) / max(times):,.0f} to {len(manifest) / min(times):,.0f}"
            by_cpu = len(manifest) / statistics.median(cpu[name])
            print(f"{name:<30} {len(manifest) / median:9,.0f} documents/s ({spread}); {by_cpu:9,.0f} by CPU seconds")


def _corpus(paths: Sequence[str], num_documents: int, folder: Path) -> list[Path]:
    """The documents of JSON lines, again under other names where there are not enough of them, in two files."""
    files = [str(path) for path in paths if str(path).endswith(".jsonl")]
    texts = [json.loads(line).get("text") for file in files for line in Path(file).read_text("utf-8").splitlines()]
    texts = [text for text in texts if isinstance(text, str) and text.strip()]
    if not texts:
        raise UsageError(f"{', '.join(map(str, paths))} have no JSON lines with a text.")
    rows = [
        {"text": text if again == 0 else f"{text} ({again})", "id": number}
        for number, (again, text) in enumerate(
            itertools.islice(((again, text) for again in itertools.count() for text in texts), num_documents)
        )
    ]
    lines, table = folder / "corpus/a.jsonl", folder / "corpus/b.parquet"
    lines.parent.mkdir()
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows[::2]), "utf-8")
    pq.write_table(pa.Table.from_pylist(rows[1::2]), table)
    return [lines, table]


def _manifest(corpus: Sequence[Path], folder: str) -> Manifest:
    policy = {
        "corpus": {"paths": [str(path) for path in corpus]},
        "rate": ["length"],
        "select": {"budget": {"fraction": 1.0}, "using": "random"},
        "order": {"using": "shuffled"},
    }
    return selector.run(policy, root=f"{folder}/runs", executor="local")


def _ours(manifest: Manifest, num_workers: int) -> Callable[[], int]:
    address = repr(manifest).removeprefix("<Manifest ").removesuffix(">")

    def way() -> int:
        dataset = ManifestDataset(address, global_batch_size=_BATCH, rank=0, world_size=1)
        loader: DataLoader[Any] = DataLoader(dataset, batch_size=None, num_workers=num_workers)
        return _counted(batch["text"][: int((batch["position"] >= 0).sum())] for batch in loader)

    return way


def _theirs(corpus: Sequence[Path], manifest: Manifest, folder: str) -> dict[str, Callable[[], int]]:
    if importlib.util.find_spec("datasets") is None:
        print("Hugging Face datasets is not installed: pip install datasets to have it beside.")
        return {}
    datasets: Any = importlib.import_module("datasets")
    datasets.disable_progress_bars()
    parts = [
        datasets.load_dataset(
            path.suffix[1:].replace("jsonl", "json"), data_files=str(path), split="train", cache_dir=folder
        ).select_columns(["text"])
        for path in corpus
    ]
    visits = manifest.rows(0, len(manifest))
    starts = [0, len(parts[0])]
    order = [
        starts[file] + row for file, row in zip(*(visits[name].to_pylist() for name in ("file", "row")), strict=True)
    ]

    def way() -> int:
        selected = datasets.concatenate_datasets(parts).select(order)
        return _counted(batch["text"] for batch in selected.iter(batch_size=_BATCH))

    def loaded() -> int:
        selected = datasets.concatenate_datasets(parts).select(order)
        loader: DataLoader[Any] = DataLoader(selected, batch_size=_BATCH, num_workers=2)
        return _counted(batch["text"] for batch in loader)

    return {"datasets, select and iter": way, "datasets, DataLoader, 2 workers": loaded}


def _counted(batches: Iterator[Sequence[str]]) -> int:
    return sum(len(texts) for texts in batches)


def _cpu_seconds() -> float:
    """Of this process and of those below it that have ended."""
    return sum(os.times()[:4])
