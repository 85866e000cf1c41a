"""All that a graphics card does for Selector, measured in one go: embedding, assignment, k-means; and that it agrees
with a CPU.

On a machine without a card nothing is run, and that is said. `--device cpu` rehearses the same code there; its figures
say nothing of a card.
"""

import dataclasses
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np

from jobs.bench.cluster import drawn
from selector.cli.demo import documents
from selector.engine.local import LocalExecutor
from selector.models import kmeans, neighbours
from selector.models.encoder import Device, Encoder, bare_model
from selector.models.kmeans import Method
from selector.policy.sections import ClusterPolicy

_BARE_BATCH = 256  # texts of a batch of `SentenceTransformer.encode`, which does best with many on a card
_COMPARED = 256  # documents that a CPU embeds too
_LOOK = 0.05  # seconds between two looks at how busy the card is
_MUCH = 1 << 26  # tokens of a batch that no card has room for


@dataclass(kw_only=True)
class Busy:
    """How busy the first card was: the share of looks at which a kernel was at work. A context manager."""

    shares: list[float] = field(default_factory=list[float])
    _ended: threading.Event = field(default_factory=threading.Event)
    _looking: threading.Thread | None = None

    def __enter__(self) -> Self:
        try:
            import pynvml  # pyright: ignore[reportMissingImports] - of nvidia-ml-py, which few have
        except ImportError:
            return self
        library: Any = pynvml
        self._looking = threading.Thread(target=self._look, args=(library,), daemon=True)
        self._looking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._looking is not None:
            self._looking.join()

    def _look(self, library: Any) -> None:
        library.nvmlInit()
        card = library.nvmlDeviceGetHandleByIndex(0)
        while not self._ended.wait(_LOOK):
            self.shares.append(library.nvmlDeviceGetUtilizationRates(card).gpu / 100)
        library.nvmlShutdown()

    @property
    def in_words(self) -> str:
        return f"busy {statistics.mean(self.shares):.0%}" if self.shares else "busy: unknown, without nvidia-ml-py"


def gpu(
    models: Sequence[str], num_documents: int, num_vectors: int, num_clusters: int, rehearsed: Device | None
) -> None:
    """Prints a line for each thing that was measured."""
    device = rehearsed or LocalExecutor().device()
    if device == "cpu" and rehearsed is None:
        print("There is no GPU here that torch can use, so nothing was run and nothing is known of one.")
        print("`--device cpu` rehearses the same code without one.", file=sys.stderr)
        return
    import torch

    card = torch.cuda.get_device_name(0) if device == "cuda" else "a rehearsal on the CPU"
    print(f"{card}, torch {torch.__version__}")
    texts = [document["text"] for document in documents(num_documents)][:num_documents]
    for model in models:
        _embed(model, texts, device)
    _assign(num_vectors, num_clusters, device)


def _embed(model: str, texts: Sequence[str], device: Device) -> None:
    """Documents a second of the embed step, beside the library's own way; how far its vectors are from a CPU's."""
    import torch

    encoder = Encoder.of(model, device=device, long_documents="truncate")
    bare = bare_model(encoder.folder, device).to(getattr(torch, encoder.precision))
    bare.max_seq_length = encoder.max_tokens

    def plain() -> None:
        bare.encode(list(texts), batch_size=_BARE_BATCH, show_progress_bar=False)

    def ours() -> None:
        encoder.encode(texts)

    print(f"{model}: {len(texts):,} documents, {encoder.precision}, {encoder.batch_tokens:,} tokens a batch")
    for name, work in (("SentenceTransformer.encode", plain), ("embed step", ours)):
        work()  # what is loaded and tuned at first is not what is measured
        seconds, busy = _timed(work)
        print(f"  {name:<28} {len(texts) / seconds:10,.0f} documents/s, {busy.in_words}", flush=True)
    some = texts[:_COMPARED]
    by_device = encoder.encode(some)
    by_cpu = Encoder.of(model, device="cpu", precision="float32", long_documents="truncate").encode(some)
    cosines = (by_device.astype(np.float64) * by_cpu).sum(axis=1)
    same = _neighbours_kept(by_device, by_cpu)
    print(
        f"  beside float32 on the CPU: cosine {cosines.mean():.6f} (least {cosines.min():.6f}), {same:.1%} of the ten"
    )
    print("  nearest of each document are the same")
    if device == "cuda":
        greedy = dataclasses.replace(encoder, batch_tokens=_MUCH)
        seconds, _ = _timed(lambda: greedy.encode(texts))
        print(f"  with batches of {_MUCH:,} tokens, halved to what fits: {len(texts) / seconds:,.0f} documents/s")


def _neighbours_kept(first: Any, second: Any, k: int = 10) -> float:
    """The share of each document's nearest that both know."""
    k = min(k, len(first) - 1)
    places = [
        np.argsort(-(vectors @ vectors.T) + 4 * np.eye(len(vectors)), axis=1)[:, :k] for vectors in (first, second)
    ]
    kept = [len(np.intersect1d(a, b)) for a, b in zip(*places, strict=True)]
    return float(np.mean(kept)) / k


def _assign(num_vectors: int, num_clusters: int, device: Device) -> None:
    """Vectors a second that are given to their nearest centroid, and k-means, on a card and on the CPU: the same."""
    if device == "cuda" and not neighbours.has_gpu():
        print("assignment: faiss finds no card here (install the extra `gpu`, and not `cpu` beside it): not measured")
        return
    points = drawn(num_vectors)
    options = ClusterPolicy.model_validate({})
    method = Method(kind=options.kind, start=options.start, restarts=1, iterations=options.iterations, seed=0)
    centroids = points[:num_clusters]
    proposers = {"the CPU": neighbours.on_cpu}
    if device == "cuda":
        proposers["the card"] = neighbours.on_gpu
    labels: dict[str, Any] = {}
    for name, propose in proposers.items():
        neighbours.closest(points[:1024], centroids, propose)

        def assign(name: str = name, propose: neighbours.Propose = propose) -> None:
            labels[name] = neighbours.closest(points, centroids, propose)

        seconds, busy = _timed(assign)
        words = f", {busy.in_words}" if name == "the card" else ""
        print(f"assignment to {num_clusters:,} centroids on {name:<8} {num_vectors / seconds:12,.0f} vectors/s{words}")
    seconds, _ = _timed(lambda: kmeans.centroids_of(points[: 64 * num_clusters], num_clusters, method))
    print(f"k-means of {min(len(points), 64 * num_clusters):,} vectors: {seconds:.1f} s")
    differing = sum(int((answer != labels["the CPU"]).sum()) for answer in labels.values())
    print(f"labels that differ from the CPU's: {differing} (none may)")


def _timed(work: Callable[[], object]) -> tuple[float, Busy]:
    began = time.perf_counter()
    with Busy() as busy:
        work()
    return time.perf_counter() - began, busy
