"""Raters with a model beside the bare forward pass of the same tokens, in one process and in turns.

The model has drawn weights and the shape of a small real one: what is measured is what a rater adds to its model, which
is tokenising, windows, padding and the losses. The bare pass is given the same batches, made beforehand.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from selector import plugins
from selector.cli.demo import documents
from selector.models.batching import Room, batches
from selector.models.causal import Causal, Window, windows_of
from selector.models.drawn import write
from selector.models.encoder import hardware_precision
from selector.rate import Rater


def models(num_documents: int, rounds: int, layers: int, width: int) -> None:
    """Documents per second of `perplexity` and of `regression` beside the forward pass of what they ask."""
    texts = [document["text"] for document in documents(num_documents)][:num_documents]
    batch = pa.record_batch({"text": pa.array(texts)})
    with tempfile.TemporaryDirectory() as above:
        language, head = Path(above, "language"), Path(above, "head")
        num_parameters = write(language, layers, width, is_classifier=False)
        write(head, layers, width, is_classifier=True)
        precision = hardware_precision("cpu")
        options = {"model": str(language), "precision": precision}
        perplexity = plugins.make("raters", "perplexity", options, "bench", Rater)
        regression = plugins.make("raters", "regression", {**options, "model": str(head)}, "bench", Rater)
        for rater in (perplexity, regression):
            rater.prepare()
        causal = Causal(folder=str(language), precision=precision)
        classifier = Causal(folder=str(head), head="classifier", precision=precision)
        width_of = causal.window(None)
        windows = [w for t in causal.tokens(texts) for w in windows_of(t, causal.begins, width_of, width_of // 2)]
        segments = [Window(tuple(s), 1) for t in classifier.tokens(texts) for s in classifier.segments(t, width_of)]
        print(f"{num_parameters / 1e6:.1f} million parameters, {precision}, {len(windows)} windows")
        _compare(len(texts), rounds, _bare(causal, windows), perplexity=lambda: perplexity.rate(batch))
        _compare(len(texts), rounds, _bare(classifier, segments), regression=lambda: regression.rate(batch))


def _compare(num_texts: int, rounds: int, bare: Callable[[], Any], **raters: Callable[[], Any]) -> None:
    """Prints what each costs, in CPU seconds, which neighbours on the machine disturb least."""
    alternatives = {"forward pass": bare, **raters}
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for _ in range(rounds + 1):  # the first round warms up
        for name, alternative in alternatives.items():
            began = time.process_time()
            alternative()
            seconds[name].append(time.process_time() - began)
    medians = {name: statistics.median(of_name[1:]) for name, of_name in seconds.items()}
    for name, median in medians.items():
        ratio = median / medians["forward pass"]
        print(f"{name:<14} {num_texts / median:7.1f} documents a CPU second, {ratio:.3f} times the forward pass")


def _bare(model: Causal, windows: list[Window]) -> Callable[[], Any]:
    """The forward pass of these windows, in the batches that the rater makes of them."""
    import torch

    different = list(dict.fromkeys(windows))
    lengths = np.array([len(window.tokens) for window in different], np.int64)
    padded: list[tuple[Any, Any]] = []
    for some in batches(lengths, Room(tokens=model.batch_tokens)):
        ids = torch.zeros((len(some), int(lengths[some].max())), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, place in enumerate(some):
            tokens = different[place].tokens
            ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
        padded.append((ids, mask))
    loaded = model.network

    def forward() -> None:
        with torch.inference_mode():
            for ids, mask in padded:
                loaded(input_ids=ids, attention_mask=mask)

    return forward
