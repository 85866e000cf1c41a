"""Texts with what people said of them: three public sets outside of the project, cut into folds.

Think of a set as a table of texts and a question: how hard each text is (a number), or which of two is better (pairs).
Whoever learns from a set learns for a text only from other folds. Texts that are nearly alike (cosine above 0.9) are in
one fold, and so are all arguments of one debate.
"""

import functools
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.errors import NotFoundError
from selector.exact import Floats, Ints
from selector.models import agreement
from selector.models.encoder import Encoder

MOST_ALIKE = 0.9  # cosine of two texts that may be in different folds
MODEL = "all-MiniLM-L6-v2"


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Which of two texts people prefer: a row for each judgement, the texts by their places."""

    better: Ints
    worse: Ints
    debates: Ints  # whose judgements are drawn together


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Texts, and for each a number, or pairs of them."""

    name: str
    question: str  # "difficulty" or "quality"
    texts: pa.Array
    groups: Ints  # texts of one group are in one fold
    numbers: Floats | None = None
    pairs: Pairs | None = None

    @functools.cached_property
    def vectors(self) -> npt.NDArray[np.float32]:
        """A unit vector for each text, by the model that comes as a package. It takes minutes for a whole set."""
        return Encoder.of(MODEL, device="cpu", precision="float32").encode(self.texts.to_pylist())

    def folds(self, num_folds: int) -> Ints:
        """The fold of each text: whole groups, joined where texts of two are nearly alike."""
        return agreement.folds(self._whole_groups, num_folds, seed=0)

    @functools.cached_property
    def _whole_groups(self) -> Ints:
        return agreement.groups(self.vectors.astype(np.float16), self.groups, MOST_ALIKE)


def labelled(folder: Path) -> list[Labelled]:
    """The three sets, from a folder laid out as `difficulty/…` and `quality/…`. Raises NotFoundError."""
    if not folder.is_dir():
        raise NotFoundError(f"There is no folder {str(folder)!r} with labelled sets. Give another one: --data FOLDER.")
    return [cefr(folder), gsm8k(folder), ukp(folder)]


def cefr(folder: Path) -> Labelled:
    """CEFR-SP (Arase et al. 2022): sentences of Wikipedia with the mean of two annotators' levels, 1 easy to 6 hard."""
    rows = _rows(folder / "difficulty/cefr_sp_wiki_train.jsonl")
    levels = np.array([(row["a"] + row["b"]) / 2 for row in rows])
    return _numbered("CEFR-SP", [row["text"] for row in rows], levels)


def gsm8k(folder: Path) -> Labelled:
    """GSM8K (Cobbe et al. 2021): problems with the number of lines that the written solution has before its answer."""
    rows = _rows(folder / "difficulty/gsm8k_train.jsonl")
    steps = [len([line for line in row["answer"].splitlines() if line and not line.startswith("####")]) for row in rows]
    return _numbered("GSM8K steps", [row["question"] for row in rows], np.array(steps, np.float64))


def ukp(folder: Path) -> Labelled:
    """UKPConvArg (Habernal and Gurevych 2016): which of two arguments of a debate convinces more."""
    rows = _rows(folder / "quality/ukp_pairs_dev.jsonl")
    place: dict[str, int] = {}
    debate_of: list[str] = []
    ends = np.empty((len(rows), 2), np.int64)
    for i, row in enumerate(rows):
        debate = row["topic"].partition("_")[0]
        for side, text in enumerate((row["a1"], row["a2"])):
            if text not in place:
                debate_of.append(debate)
            ends[i, side] = place.setdefault(text, len(place))
    is_second = np.array([row["better"] == "a2" for row in rows])
    _, debates = np.unique(debate_of, return_inverse=True)
    return Labelled(
        name="UKP pairs",
        question="quality",
        texts=pa.array(list(place)),
        groups=debates,
        pairs=Pairs(
            better=np.where(is_second, ends[:, 1], ends[:, 0]),
            worse=np.where(is_second, ends[:, 0], ends[:, 1]),
            debates=debates[ends[:, 0]],
        ),
    )


def _numbered(name: str, texts: list[str], numbers: Floats) -> Labelled:
    return Labelled(
        name=name, question="difficulty", texts=pa.array(texts), groups=np.arange(len(texts)), numbers=numbers
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise NotFoundError(f"{str(path)!r} is missing: a set of texts that people judged.")
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
