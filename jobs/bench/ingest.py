"""The ingest of files as they are beside the plain way: JSON lines, and the tokenizer's own batches.

Every round starts cold: a new process, a new root, workers that are started for it. Whatever the executor connects to
is there, as Ray is on a cluster; how long it takes to start is told apart. The alternatives take turns, and the medians
and their ratio are what to quote.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from selector import pipeline, plugins
from selector.corpus.files import expand
from selector.engine.executor import Executor
from selector.engine.runner import Runner
from selector.policy import Policy
from selector.policy.resolve import resolve
from selector.steps.run import Run

_BATCH = 256  # texts that the plain way hands to the tokenizer at once


def ingest(paths: Sequence[str], executor: str, rounds: int) -> None:
    """Prints the rate of survey and ingest over these files, and that of the plain way."""
    policy = {"corpus": {"paths": list(paths)}, "select": {"budget": {"tokens": 1}}, "order": {"using": "shuffled"}}
    files = [file for file in expand(Policy.of(policy).corpus.paths).uris if file.endswith(".jsonl")]
    num_bytes = sum(os.path.getsize(file) for file in files)
    print(f"{len(files)} files of JSON lines, {num_bytes / 1e6:.1f} MB; load {os.getloadavg()[0]:.2f}")
    policy["corpus"] = {"paths": files}
    seconds: dict[str, list[float]] = {}
    started: list[float] = []
    for _ in range(rounds):
        alternatives = {"json and encode_batch": _plain, f"survey and ingest, --executor {executor}": _ours}
        for name, work in alternatives.items():
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                before, taken = pool.submit(work, policy, executor).result()
            seconds.setdefault(name, []).append(taken)
            started += [before] if before else []
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    first = next(iter(medians.values()))
    for name, median in medians.items():
        spread = f"{num_bytes / 1e6 / max(seconds[name]):.2f} to {num_bytes / 1e6 / min(seconds[name]):.2f}"
        print(f"{name:<44} {num_bytes / 1e6 / median:7.2f} MB/s ({spread})  x{first / median:.2f}")
    print(f"before that, the executor took {statistics.median(started):.1f} s to connect")


def _plain(policy: Any, executor: str) -> tuple[float, float]:
    """0, and seconds of reading every line and counting its tokens on all CPUs: there is no executor to connect."""
    del executor
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(resolve(Policy.of(policy)).tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    began = time.monotonic()
    for path in policy["corpus"]["paths"]:
        with Path(path).open(encoding="utf-8") as lines:
            texts = [json.loads(line)["text"] for line in lines]
        for first in range(0, len(texts), _BATCH):
            tokenizer.encode_batch(texts[first : first + _BATCH], add_special_tokens=False)
    return 0.0, time.monotonic() - began


def _ours(policy: Any, executor: str) -> tuple[float, float]:
    """Seconds until the executor is connected, and of the two steps, with what it takes to start the workers."""
    with tempfile.TemporaryDirectory(prefix="selector-ingest-") as root:
        resolved = resolve(Policy.of(policy))
        chosen = plugins.make("executors", executor, {}, "--executor", Executor)
        began = time.monotonic()
        with chosen:
            connected = time.monotonic()
            flow = pipeline.flow(resolved, chosen)
            run = Run.open(resolved, flow, root)
            with Runner(run.store, chosen) as runner:
                runner.run(
                    [step for step in flow if step.family in ("survey", "ingest")], {"survey": run.after()["survey"]}
                )
            return connected - began, time.monotonic() - connected
