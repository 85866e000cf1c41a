"""The embed step beside a bare `SentenceTransformer.encode`, in one process and in turns.

Machines are noisy, so the alternatives take turns, several rounds of them, and the median and the ratio of
medians are what to quote.
"""

import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

from selector.cli.demo import documents
from selector.models.encoder import Encoder, Precision, bare_model, hardware_precision


def embed(num_documents: int, rounds: int) -> None:
    """Documents per second of the embed step beside a bare `SentenceTransformer.encode` of the same texts.

    All load the same weights, use the same threads and see the first 256 tokens of each text.
    """
    import torch

    texts = [document["text"] for document in documents(num_documents)][:num_documents]
    half = hardware_precision("cpu")

    def bare(precision: str) -> Callable[[], Any]:
        folder = Encoder.of("all-MiniLM-L6-v2", device="cpu").folder
        model = bare_model(folder, "cpu").to(getattr(torch, precision))
        model.max_seq_length = 256
        return lambda: model.encode(texts, batch_size=32, show_progress_bar=False, convert_to_tensor=True)

    def ours(precision: Precision) -> Callable[[], Any]:
        encoder = Encoder.of("all-MiniLM-L6-v2", device="cpu", precision=precision, long_documents="truncate")
        return lambda: encoder.encode(texts)

    compare(
        {
            "SentenceTransformer.encode, float32": bare("float32"),
            f"SentenceTransformer.encode, {half}": bare(half),
            "embed step, float32": ours("float32"),
            f"embed step, {half} (the default here)": ours(half),
        },
        len(texts),
        rounds,
    )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def compare(alternatives: dict[str, Callable[[], Any]], size: int, rounds: int) -> None:
    """Lets the contenders take turns and prints the median rate of each, and its ratio to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for _ in range(rounds + 1):  # the first round warms up
        for name, alternative in alternatives.items():
            began = time.perf_counter()
            alternative()
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    first = next(iter(medians.values()))
    for name, median in medians.items():
        spread = f"{size / max(seconds[name][1:]):.1f} to {size / min(seconds[name][1:]):.1f}"
        print(f"{name:<48} {size / median:7.1f} documents/s ({spread})  x{first / median:.2f}")
