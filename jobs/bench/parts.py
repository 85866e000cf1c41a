"""What a part costs by itself, step by step, and what many small files cost beside one.

The same short documents lie in a file each, in a tenth as many files, and in one. Where each file is a part
(`rows_per_part`), what more files cost is what parts cost: CPU milliseconds and stored objects, by step. Left alone,
the survey puts small files together; what such a corpus costs beside one file is measured with the policy that does
the least. What one object costs by itself is told beside: nothing that is durable is cheaper.

All is the flow's own, but for the model: a document's vector is drawn, since what a model takes is not the part's.
Nothing is removed before the end: for some minutes after files have gone, ext4 looks past them whenever it makes a new
one, and 1,500 of them cost each new file 0.7 CPU ms instead of 0.03.
"""

import dataclasses
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from jobs.bench.meter import Meter, in_a_process
from selector import pipeline, plugins
from selector.engine.executor import Executor
from selector.engine.runner import Runner
from selector.engine.step import Step
from selector.engine.store import Store
from selector.exact import keyed
from selector.models.encoder import Encoder
from selector.policy import Policy
from selector.policy.resolve import resolve
from selector.rate import Rater
from selector.steps.embed import Embed
from selector.steps.run import Run
from selector.storage import open_storage

_DIMENSION = 64
_NUM_OBJECTS, _OBJECT_BYTES = 200, 1500

LEAST: Mapping[str, Any] = {"select": {"budget": {"fraction": 0.5}, "using": "random"}, "order": {"using": "shuffled"}}
"""The policy that embeds and rates nothing."""

MOST: Mapping[str, Any] = {
    "cluster": {"num_clusters": 8, "gates": "warn"},
    "rate": [{"jobs.bench.parts:Characters": {}, "as": "characters"}],
    "select": {
        "where": "size >= 0",
        "budget": {"fraction": 0.5},
        "using": {"kmeans_quality": {"score": "characters"}},
    },
    "order": {"using": {"by_score": {"score": "characters"}}},
}
"""One with a step of every kind."""


RUNS = ("parts of few", "parts of each", "one", "each")
"""A folder of the corpus, and whether each of its files is a part."""


@dataclass(frozen=True, kw_only=True)
class Characters(Rater):
    """Counts the characters of a text, in as few steps as a rater can take."""

    higher_is = "harder"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("text",)

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"score": [len(text) for text in batch["text"].to_pylist()]})


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run cost, by step: seconds of CPU; and how many objects each family of steps has stored."""

    cpu: Mapping[str, float]
    objects: Mapping[str, int]

    @property
    def total(self) -> float:
        return sum(self.cpu.values())


def parts(num_files: int, rounds: int, executor: str, above: str | None = None) -> None:
    """Prints what a part costs and what small files cost, the least of some rounds."""
    home = Path(tempfile.mkdtemp(prefix="selector-parts-", dir=above))
    try:
        write(home, num_files)
        costs = {
            name: [in_a_process(measure, home, number, name, executor) for number in range(rounds)] for name in RUNS
        }
        few, many, one, each = (_least(costs[name]) for name in RUNS)
        print(f"an object of {_OBJECT_BYTES:,} bytes, by itself: {object_ms(home):.2f} CPU ms")
        print(_parts_table(few, many, num_files - len(list((home / "few").iterdir()))))
        print(
            f"random and shuffled: {num_files:,} files of one document {each.total:.2f} CPU s, one file of them "
            f"{one.total:.2f} CPU s: x{each.total / one.total:.2f}"
        )
    finally:
        shutil.rmtree(home)


def write(home: Path, num_files: int) -> None:
    """The corpus in one file, in a tenth of the files, and in a file for each document."""
    lines = [json.dumps({"text": f"document {i} has few words", "size": i % 9}) + "\n" for i in range(num_files)]
    for folder, rows in {"one": num_files, "few": 10, "each": 1}.items():
        (home / folder).mkdir()
        for first in range(0, num_files, rows):
            (home / folder / f"{first:06}.jsonl").write_text("".join(lines[first : first + rows]), "utf-8")


def measure(home: Path, number: int, name: str, executor: str) -> Cost:
    """A cold run over the corpus, in a root of its own."""
    folder, are_parts = name.removeprefix("parts of "), name.startswith("parts of ")
    root = home / f"root-{name}-{number}"
    corpus = {"paths": [str(home / folder)], "rows_per_part": 65_536 if are_parts else None}
    resolved = resolve(Policy.of({"corpus": corpus, **(MOST if are_parts else LEAST)}))
    chosen = plugins.make("executors", executor, {}, "--executor", Executor)
    flow = [_drawn(step) for step in pipeline.flow(resolved, chosen)]
    run = Run.open(resolved, flow, root)
    with Meter(()) as meter, Runner(run.store, chosen, meter) as runner:
        runner.run(flow, run.after())
    return Cost(cpu={cost.name: cost.cpu for cost in meter.costs}, objects=_objects(run.store))


def object_ms(home: Path) -> float:
    """Milliseconds of CPU that an object costs which is made durable, the least of three rounds."""
    storage, rounds = open_storage(home / "objects"), list[float]()
    for number in range(3):
        began = time.process_time()
        for i in range(_NUM_OBJECTS):
            storage.put_if_absent(f"{number}/{i}", b"." * _OBJECT_BYTES)
        rounds.append(1000 * (time.process_time() - began) / _NUM_OBJECTS)
    return min(rounds)


@dataclass(frozen=True, kw_only=True)
class _Drawing(Encoder):
    """Draws the vector of a text by its hash, and loads no model."""

    @property
    def dimension(self) -> int:
        return _DIMENSION

    def load(self) -> None:
        """There is nothing to load."""

    def encode(self, texts: Any) -> Any:
        digests = [np.frombuffer(keyed.digest(text.encode()), np.uint8) for text in texts]
        drawn = np.resize(np.array(digests, np.float32).reshape(len(texts), -1) - 127.5, (len(texts), _DIMENSION))
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _drawn(step: Step) -> Step:
    if not isinstance(step, Embed):
        return step
    known = {field.name: getattr(step.encoder, field.name) for field in dataclasses.fields(Encoder)}
    return dataclasses.replace(step, encoder=cast(Encoder, _Drawing(**known)))


def _objects(store: Store) -> Counter[str]:
    """How many objects the artefacts of each family take: their seals, and what those name. What ingest has stored
    and another step takes over is ingest's."""
    objects = Counter[str]()
    counted = set[str]()
    for key in sorted(store.seals(), key=lambda key: (not key.startswith("ingest/"), key)):
        own = {f"artifacts/seals/{key}.json", *(blob.key for blob in store.sealed(key).tables.values())} - counted
        objects[key.partition("/")[0]] += len(own)
        counted |= own
    return objects


def _least(costs: list[Cost]) -> Cost:
    cpu = {name: min(cost.cpu[name] for cost in costs) for name in costs[0].cpu}
    return Cost(cpu=cpu, objects=costs[0].objects)


def _parts_table(few: Cost, many: Cost, num_more: int) -> str:
    """A line for each step: what each of so many more parts costs."""
    lines = [f"{'step, by part':<20}{'CPU ms':>10}{'objects':>10}"]
    for name, cpu in many.cpu.items():
        families = [family for family in many.objects if family.split(".")[0] == name.partition("/")[0]]
        objects = sum(many.objects[family] - few.objects.get(family, 0) for family in families) / num_more
        lines.append(f"{name:<20}{1000 * (cpu - few.cpu[name]) / num_more:>10.2f}{objects:>10.2f}")
    return "\n".join(lines)
