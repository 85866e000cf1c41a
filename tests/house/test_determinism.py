"""The same policy over the same corpus gives the same bytes, and a change costs what it must and no more."""

import glob
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from conftest import use_one_thread, write_jsonl
from runs import Noting, corpus_rows, policy_of, run, uncached, write_corpus
from selector.engine.local import LocalExecutor
from selector.engine.part import Receipt, Task
from selector.engine.step import Map
from selector.engine.store import Store
from selector.pipeline import FinishedRun
from selector.policy import Policy

pytestmark = pytest.mark.slow

Make = Callable[..., dict[str, Any]]

FLAKY = '''
"""A rater that fails at every part the first time."""

import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from selector.rate import Rater


@dataclass(frozen=True, kw_only=True)
class Flaky(Rater):
    higher_is = "harder"

    def rate(self, batch):
        marker = Path(os.environ["FLAKY_FOLDER"], batch["text"][0].as_py()[:40]) if batch.num_rows else None
        if marker is not None and not marker.exists():
            marker.touch()
            raise ConnectionError("not today")
        return pa.record_batch({"score": pa.array([len(text) for text in batch["text"].to_pylist()], pa.float64())})
'''


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def make(corpus: Path, tiny_model: Path) -> Make:
    return lambda **sections: policy_of(corpus, tiny_model, **sections)


@pytest.fixture(scope="module")
def first(make: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[FinishedRun, Path]:
    """What the others are compared with, and its root."""
    root = tmp_path_factory.mktemp("first") / "root"
    return run(make(), root), root


def files_of(root: Path, folder: str) -> dict[str, bytes]:
    """What is below the folders of this name in a root, by name."""
    found = [path for path in root.glob(f"*/{folder}/**/*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


# ---------------------------------------------------------------- the same bytes


def test_another_root_gets_the_same_bytes(make: Make, first: tuple[FinishedRun, Path], tmp_path: Path) -> None:
    outcome = run(make(), tmp_path)
    assert outcome.manifest.digest == first[0].manifest.digest
    for folder in ("manifest", "decisions"):
        assert files_of(tmp_path, folder) == files_of(first[1], folder) != {}
    (plan,), (other,) = tmp_path.glob("*/plan.json"), first[1].glob("*/plan.json")
    assert plan.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("num_threads", [2, 3])
def test_the_digest_does_not_depend_on_the_number_of_threads(
    num_threads: int, make: Make, first: tuple[FinishedRun, Path], tmp_path: Path
) -> None:
    import faiss
    import torch

    torch.set_num_threads(num_threads)
    faiss.omp_set_num_threads(num_threads)
    try:
        assert run(make(), tmp_path).manifest.digest == first[0].manifest.digest
    finally:
        use_one_thread()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_digest_does_not_depend_on_the_order_in_which_files_are_listed(
    seed: int, corpus: Path, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the policy nor by the operating system."""
    paths = [str(corpus / f"{index}.jsonl") for index in range(3)]
    sections = {"rows_per_part": 20}
    digest = run(make(corpus={**sections, "paths": paths}), tmp_path / "one").manifest.digest
    draw = random.Random(seed)
    found, listed = glob.glob, os.listdir

    def shuffled(items: Any) -> list[Any]:
        return draw.sample(list(items), len(list(items)))

    @contextmanager
    def scanned(path: Any) -> Generator[Iterator[os.DirEntry[str]], None, None]:
        with scandir(path) as entries:
            yield iter(shuffled(list(entries)))

    scandir = os.scandir
    monkeypatch.setattr(glob, "glob", lambda *args, **options: shuffled(found(*args, **options)))
    monkeypatch.setattr(os, "listdir", lambda *args: shuffled(listed(*args)))
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scanned)
        again = run(make(corpus={**sections, "paths": shuffled([*paths, paths[0]])}), tmp_path / "two")
    assert again.manifest.digest == digest
    by_folder = run(make(), tmp_path / "three").manifest
    assert by_folder.info["order_digest"] == again.manifest.info["order_digest"]


class Disorderly(LocalExecutor):
    """Runs the parts in a random order, and many of them a second time, as an orphaned worker might."""

    def run(self, step: Map, tasks: Sequence[Task], store: Store, num_rows: int | None = None) -> Iterator[Receipt]:
        shuffled = draw.sample(list(tasks), len(tasks))
        for task in shuffled[::2]:
            for _ in super().run(step, [task], store, num_rows):
                pass
        yield from super().run(step, shuffled, store, num_rows)


draw = random.Random(5)


def test_the_digest_does_not_depend_on_the_order_in_which_parts_finish(
    make: Make, first: tuple[FinishedRun, Path], tmp_path: Path
) -> None:
    for index in range(3):
        outcome = run(make(), tmp_path / str(index), Disorderly())
        assert outcome.manifest.digest == first[0].manifest.digest


def test_the_digest_does_not_depend_on_retries(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/flaky.py").write_text(FLAKY, "utf-8")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    policy = make(rate=["flaky:Flaky"], select={"budget": {"documents": 50}, "using": {"top": {"score": "Flaky"}}})
    policy |= {"order": {"using": {"by_score": {"score": "Flaky"}}}, "manifest": {}}
    monkeypatch.setenv("FLAKY_FOLDER", str(tmp_path / "elsewhere"))
    failing, calm = (run(policy, tmp_path / name) for name in ("failing", "calm"))
    assert len(list((tmp_path / "failing/attempts").rglob("1.json"))) == 6
    assert not (tmp_path / "calm/attempts").exists()
    assert failing.manifest.digest == calm.manifest.digest


def backwards(value: Any) -> Any:
    """A mapping, and those in it, with their keys in the opposite order."""
    if isinstance(value, Mapping):
        return {key: backwards(inner) for key, inner in reversed(list(value.items()))}
    return [backwards(inner) for inner in value] if isinstance(value, list) else value


def test_the_digest_does_not_depend_on_the_order_of_keys_or_on_defaults_written_out(
    make: Make, first: tuple[FinishedRun, Path], tmp_path: Path
) -> None:
    policy = make()
    in_full = json.loads(json.dumps(Policy.of(policy).resolved()))
    for number, other in enumerate((backwards(policy), in_full, backwards(in_full))):
        assert run(other, tmp_path / str(number)).manifest.digest == first[0].manifest.digest


def test_the_digest_does_not_depend_on_the_process(make: Make, first: tuple[FinishedRun, Path], tmp_path: Path) -> None:
    """Its hash seed, its locale, its time zone, its working directory."""
    program = f"import runs; print(runs.run({make()!r}, runs.Path('root')).manifest.digest)"
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    environment = {
        **os.environ, "PYTHONHASHSEED": "271828", "LC_ALL": "C", "TZ": "Asia/Kathmandu", "PYTHONPATH": path,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == first[0].manifest.digest, done.stderr


def test_another_seed_gives_another_digest(make: Make, tmp_path: Path) -> None:
    manifests = [run(make(seed=seed), tmp_path).manifest for seed in range(6)]
    assert len({manifest.digest for manifest in manifests}) == 6
    assert len({manifest.info["order_digest"] for manifest in manifests}) == 6


def test_a_golden_order(tiny_model: Path, tmp_path: Path) -> None:
    """Ids, the draw and the order of a fixed corpus. Changing this changes every user's data."""
    for name, texts in (("a", range(150)), ("b", range(100, 300))):
        write_jsonl(tmp_path / f"corpus/{name}.jsonl", [{"text": f"The text of document {n}."} for n in texts])
    policy = policy_of(tmp_path / "corpus", tiny_model, rate=[], manifest={}, order={"using": "shuffled"})
    policy["select"] = {"budget": {"documents": 100}, "using": "random"}
    manifest = run(policy, tmp_path / "root").manifest
    assert manifest.at(0)["doc_id"] == "68c6280865763df9da9991e8fcf107ea"
    assert manifest.info["order_digest"] == "53d49e97a1c808ca7f078108e60091d24845bc67a4f078f355d32ad6d546bd44"


# ---------------------------------------------------------------- what a change costs

BELOW_CENTROIDS = ["centroids", "cluster", "rate/prototypicality", "select", "order", "manifest"]
ALL = ["ingest", "dedup", "embed", "centroids", "cluster", "rate/readability", *BELOW_CENTROIDS[2:]]
CHOSEN_AGAIN = ["select", "order", "manifest"]
EDU = {"column": {"column": "edu", "higher_is": "better"}}
READ_AGAIN = ["ingest", "dedup", *CHOSEN_AGAIN]  # where the documents turn out to be the same

COST: dict[str, tuple[Any, list[str]]] = {
    "seed": (8, BELOW_CENTROIDS),
    "corpus.text": ("{source}: {text}", ALL),
    "corpus.format": ("jsonl", ["manifest"]),  # as their names say
    "corpus.key": ("edu", ALL),
    "corpus.source": ({"*.jsonl": "here"}, [step for step in ALL if step not in ("embed", "centroids", "cluster")]),
    "corpus.tokenizer": ("words", [step for step in ALL if step not in ("embed", "centroids", "cluster")]),
    "corpus.max_document_bytes": (100_000, READ_AGAIN),
    "corpus.keep_texts": (False, []),
    "corpus.most_lost": (0.5, []),
    "corpus.rows_per_part": (10, ["survey", *ALL]),
    "embed.model": ("other", ["embed", *BELOW_CENTROIDS]),
    "embed.max_tokens": (16, ["embed", *BELOW_CENTROIDS]),
    "embed.long_documents": ("truncate", ["embed", *BELOW_CENTROIDS]),
    "embed.precision": ("bfloat16", ["embed", *BELOW_CENTROIDS]),
    "cluster.num_clusters": (5, BELOW_CENTROIDS),
    "cluster.iterations": (24, BELOW_CENTROIDS),
    "cluster.documents_per_cluster": (200, BELOW_CENTROIDS),
    "cluster.kind": ("spherical", BELOW_CENTROIDS),
    "cluster.start": ("k-means++", BELOW_CENTROIDS),
    "cluster.restarts": (2, BELOW_CENTROIDS),
    "cluster.levels": ([4, 2], BELOW_CENTROIDS),
    "cluster.gates": ("stop", []),
    "cluster.num_neighbours": (8, ["manifest"]),
    "rate": (["readability", "prototypicality", "length"], ["rate/length", "manifest"]),  # nobody reads it
    "rate ": ([{"readability": {}, "as": "grade"}, "readability", "prototypicality"], ["rate/grade", "manifest"]),
    "rate  ": (["readability", "prototypicality", EDU], ["columns", "rate/edu", "manifest"]),
    "select.where": ("num_tokens >= 12", CHOSEN_AGAIN),
    "select.where ": ("edu >= 3", ["columns", *CHOSEN_AGAIN]),  # a column that only the corpus has
    "select.where  ": ("distance > 0.1 AND score.readability > 2", CHOSEN_AGAIN),
    "select.budget": ({"fraction": 0.3}, CHOSEN_AGAIN),
    "select.budget.overshoot": ("fill", CHOSEN_AGAIN),
    "select.using": ("random", CHOSEN_AGAIN),
    "select.using.kmeans_quality.temperature": (1.0, CHOSEN_AGAIN),
    "select.missing": ("last", CHOSEN_AGAIN),
    "select.shares": ({"source": {"web": {"most": 0.5}}}, CHOSEN_AGAIN),
    "select.visits": ({"most": 1}, CHOSEN_AGAIN),
    "select.allow_empty": (True, []),
    "order.using": ({"by_score": {"score": "readability", "direction": "anti_curriculum"}}, ["order", "manifest"]),
    "order.using ": ("shuffled", ["order", "manifest"]),
    "order.using.by_score.score": ("prototypicality", ["order", "manifest"]),
    "training": ({"global_batch_size": 8, "schedule": {"peak": 0.001, "decay": "wsd"}}, ["manifest"]),
    "manifest.difficulty": ("prototypicality", ["manifest"]),
    "manifest.quality": (None, ["manifest"]),
}  # fmt: skip
"""For every option: another value, and the steps that it runs again. A new option needs a line here."""


@pytest.fixture(scope="module")
def others(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Another model and another tokenizer, by what the table calls them."""
    from safetensors.numpy import load_file, save_file
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    folder = tmp_path_factory.mktemp("others")
    model = Path(shutil.copytree(tiny_model, folder / "model"))
    weights = load_file(model / "model.safetensors")
    save_file({name: weight * 1.01 for name, weight in weights.items()}, model / "model.safetensors", {"format": "pt"})
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.save(str(folder / "words.json"))
    return {"other": str(model), "words": str(folder / "words.json")}


def options(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if (
            isinstance(field.annotation, type)
            and issubclass(field.annotation, BaseModel)
            and field.annotation.__name__.endswith("Policy")
        ):
            yield from options(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{field.alias or name}"


def test_the_table_of_costs_has_every_option() -> None:
    known = {name.strip() for name in COST if ".using." not in name} | {
        "corpus.paths",
        "cluster.from",
        "select.include",
        "select.exclude",
        "order.parent",
    }  # which have tests of their own
    budget = {f"select.budget.{unit}" for unit in ("documents", "tokens", "fraction")}
    assert set(options(Policy)) - budget == known - {"select.budget"}


@pytest.mark.parametrize("option", COST)
def test_a_changed_option_runs_its_step_and_those_below_it_again_and_no_others(
    option: str, make: Make, first: tuple[FinishedRun, Path], others: dict[str, str], tmp_path: Path
) -> None:
    value, expected = COST[option]
    policy: Any = make()
    section = policy
    *above, last = option.strip().split(".")
    for key in above:
        section[key] = dict(section[key])
        section = section[key]
    section[last] = others.get(value, value) if isinstance(value, str) else value
    root = shutil.copytree(first[1], tmp_path / "root")
    outcome = run(policy, root)
    assert uncached(outcome) == expected
    assert (outcome.manifest.digest == first[0].manifest.digest) == (not expected) and outcome.manifest.verify().ok
    assert uncached(run(make(), root)) == [], "and what was there before is still there"


def test_a_model_with_other_settings_or_weights_in_the_same_place_is_another_model(
    make: Make, tiny_model: Path, tmp_path: Path
) -> None:
    """Its pooling, its tokenizer, its weights: none of them may be taken from what an earlier run remembers."""
    from safetensors.numpy import load_file, save_file

    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    policy = make(embed={"model": str(model), "precision": "float32", "max_tokens": 32})

    def other_pooling() -> None:
        pooling = json.loads((model / "1_Pooling/config.json").read_text("utf-8"))
        pooling |= {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
        (model / "1_Pooling/config.json").write_text(json.dumps(pooling), "utf-8")

    def other_tokenizer() -> None:
        text = (model / "tokenizer.json").read_text("utf-8")
        (model / "tokenizer.json").write_text(text.replace('"lowercase":true', '"lowercase":false'), "utf-8")
        assert text != (model / "tokenizer.json").read_text("utf-8")

    def other_weights() -> None:
        weights = load_file(model / "model.safetensors")
        save_file(
            {name: 1.01 * weight for name, weight in weights.items()}, model / "model.safetensors", {"format": "pt"}
        )

    digests = {run(policy, tmp_path / "root").manifest.digest}
    for number, change in enumerate((other_pooling, other_tokenizer, other_weights)):
        change()
        outcome = run(policy, tmp_path / "root")
        assert "embed" in uncached(outcome) and ("ingest" in uncached(outcome)) == (change is other_tokenizer)
        assert outcome.manifest.digest == run(policy, tmp_path / str(number)).manifest.digest
        digests.add(outcome.manifest.digest)
    assert len(digests) == 4


def test_adding_a_file_computes_nothing_again_for_the_others(make: Make, corpus: Path, tmp_path: Path) -> None:
    """Even if it is the first by name, so that every other file has another number."""
    larger = shutil.copytree(corpus, tmp_path / "corpus")
    smaller = make(corpus={"paths": [str(larger)], "rows_per_part": 20})
    before = run(smaller, tmp_path / "root")
    write_jsonl(larger / "00.jsonl", corpus_rows(500, 560))
    (tmp_path / "notes").touch()
    after = run(smaller, tmp_path / "root", Noting(notes=tmp_path / "notes"))
    done = [key.partition("/")[0] for key in (tmp_path / "notes").read_text("utf-8").split()]
    assert {step: done.count(step) for step in ("survey", "ingest", "embed")} == {"survey": 1, "ingest": 3, "embed": 3}
    assert done.count("rate") == 3 + 9, "readability of the new parts, prototypicality of all: the centroids moved"
    assert after.manifest.digest == run(smaller, tmp_path / "elsewhere").manifest.digest

    (larger / "00.jsonl").unlink()
    again = run(smaller, tmp_path / "root")
    assert uncached(again) == [] and again.manifest.digest == before.manifest.digest


def test_a_file_of_another_name_with_the_same_content_is_not_computed_again(
    make: Make, corpus: Path, tmp_path: Path
) -> None:
    """Its documents are copies, and which of two copies goes on follows from the names of their files."""
    twice = shutil.copytree(corpus, tmp_path / "corpus")
    (twice / "copies").mkdir()
    shutil.copy(twice / "1.jsonl", twice / "copies/1.jsonl")
    (tmp_path / "notes").touch()
    policy = make(corpus={"paths": [str(twice)], "rows_per_part": 20})
    outcome = run(policy, tmp_path / "root", Noting(notes=tmp_path / "notes"))
    done = (tmp_path / "notes").read_text("utf-8").split()
    assert len(done) == len(set(done))
    assert outcome.manifest.verify().ok
    counts, alone = outcome.manifest.info["counts"], run(make(), tmp_path / "alone").manifest.info["counts"]
    assert counts["documents"] == alone["documents"] + 38 and counts["duplicate"] == alone["duplicate"] + 38
    assert counts["quarantined"] == alone["quarantined"] + 2 and counts["tokens"] == alone["tokens"]
