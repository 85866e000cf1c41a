"""The laws hold for every rater there is and for every kind of option; and each law has a rater that breaks it."""

import collections
import functools
import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from selector import exact, plugins
from selector.exact import Floats, keyed
from selector.rate import Columns, Fit, ModelPath, Pool, Rater, ScoreName, TablePath, TextsPath
from selector.testing import RATER_LAWS, check_rater
from selector.testing._law import broken
from selector.testing._trials import variants
from testing.trials import LengthZScore

pytestmark = pytest.mark.slow

# ---------------------------------------------------------------- trials, one for each kind of option and answer


@dataclass(frozen=True, kw_only=True)
class Preferred(Fit):
    """How good it is by comparisons of documents: Bradley-Terry's model of their embeddings, a few steps uphill."""

    higher_is = "better"
    sample = None  # the documents that were compared are few, so all are looked at

    comparisons: Annotated[TablePath, Columns(winner="doc_id", loser="doc_id")]

    @property
    def needs(self) -> tuple[str, ...]:
        return ("embedding",)

    def fit(self, sample: Pool, seed: int) -> pa.Table:
        vector_of: dict[bytes, npt.NDArray[np.float64]] = {}
        for batch in sample.batches("doc_id", "embedding"):
            vector_of.update(zip(batch["doc_id"].to_pylist(), _vectors(batch), strict=True))
        pairs = zip(*(self.comparisons.table[name].to_pylist() for name in ("winner", "loser")), strict=True)
        gaps = [vector_of[a] - vector_of[b] for a, b in pairs if a in vector_of and b in vector_of]
        weights = np.zeros(sample.schema.field("embedding").type.list_size)
        for _ in range(8):
            for gap in gaps:
                weights += gap / (1 + np.exp(gap @ weights))
        return pa.table({"weight": weights.astype(np.float16)})  # so that no product of two is rounded

    def rater(self, fitted: pa.Table) -> Rater:
        return _Preferred(weights=tuple(fitted["weight"].to_pylist()))


@dataclass(frozen=True, kw_only=True)
class _Preferred(Rater):
    """The product of its embedding with the weights."""

    higher_is = "better"

    weights: tuple[float, ...]

    @property
    def needs(self) -> tuple[str, ...]:
        return ("embedding",)

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"score": _vectors(batch) @ np.array(self.weights, np.float64)})


def _vectors(batch: pa.RecordBatch) -> npt.NDArray[np.float64]:
    size = batch["embedding"].type.list_size
    return batch["embedding"].flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, size)


@dataclass(frozen=True, kw_only=True)
class Topic(Rater):
    """The word that the corpus has for it, passed on."""

    higher_is = "label"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("score.topic",)

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"score": batch["score.topic"]})


@dataclass(frozen=True, kw_only=True)
class Judged(Rater):
    """The grade that somebody gave it, exactly."""

    higher_is = "better"

    grades: Annotated[TablePath, Columns(doc_id="doc_id", grade="int64")]

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"score": batch["grades.grade"]})


@dataclass(frozen=True, kw_only=True)
class NearestExample(Rater):
    """How close its embedding is to the nearest example's."""

    higher_is = "closer"

    examples: TextsPath

    @property
    def needs(self) -> tuple[str, ...]:
        return ("embedding",)

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        (examples,) = self.examples.table.combine_chunks().to_batches()
        return pa.record_batch({"score": (_vectors(batch) @ _vectors(examples).T).max(axis=1)})


@dataclass(frozen=True, kw_only=True)
class Percent(Rater):
    """Another score in hundredths."""

    higher_is = "better"

    score: ScoreName

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"score": batch[self.score].cast(pa.float64(), safe=False).to_numpy(False) * 100})


@dataclass(frozen=True, kw_only=True)
class Known(Rater):
    """How many of its words a model knows, which is loaded once per worker."""

    higher_is = "better"

    model: ModelPath

    @functools.cached_property
    def _words(self) -> set[str]:
        return set(Path(self.model, "words.txt").read_text("utf-8").split())

    def prepare(self) -> None:
        assert self._words

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        counts = [len(self._words.intersection(text.split())) for text in batch["text"].to_pylist()]
        return pa.record_batch({"score": pa.array(counts, pa.int64())})


@dataclass(frozen=True, kw_only=True)
class Reversed(Rater):
    """Another rater's first score that is a number, with the other sign."""

    higher_is = "better"

    inner: Rater

    @property
    def needs(self) -> tuple[str, ...]:
        return self.inner.needs

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        numbers = [name for name, meaning in self.inner.scores("score").items() if meaning != "label"]
        if not numbers:
            return pa.record_batch({"score": pa.nulls(batch.num_rows, pa.float64())})
        answer, name = self.inner.rate(batch), numbers[0]
        said = exact.floats(answer[name if name in answer.schema.names else "score"])
        return pa.record_batch({"score": pa.array(-said, mask=np.isnan(said))})


TRIALS = (Preferred, Topic, Judged, NearestExample, Percent, Known, Reversed)


def is_given(name: str) -> bool:
    """Whether it needs what cannot be made up, such as a model."""
    try:
        next(variants("raters", name))
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("name", [name for name in plugins.names("raters") if not is_given(name)])
def test_every_rater_keeps_the_laws(name: str) -> None:
    check_rater(name, examples=10)


@pytest.mark.parametrize("name", [name for name in plugins.names("raters") if is_given(name)])
def test_a_rater_that_must_be_given_something_is_put_before_the_laws_where_it_is_made(name: str) -> None:
    files = (Path(__file__).parents[1] / "rate").glob("test_*.py")
    assert any(f'check_rater("{name}"' in file.read_text("utf-8") for file in files)


@pytest.mark.parametrize("cls", TRIALS)
def test_the_laws_hold_for_a_rater_with_every_kind_of_option(cls: type[Any], tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("ok a One", "utf-8")
    given: dict[str, Any] = {"model": str(tmp_path)} if cls is Known else {}
    check_rater(f"{__name__}:{cls.__qualname__}", examples=10, **given)


def test_a_model_is_not_made_up_but_given() -> None:
    with pytest.raises(AssertionError, match=r"A model cannot be made up\. Give '.*Known' one: model=<folder>\."):
        check_rater(f"{__name__}:Known")


def test_a_fit_measures_every_part_against_the_whole_corpus() -> None:
    corpus = pa.table({"text": ["ab", "abcd", "ab", "abcd"]})
    fit = LengthZScore()
    rater = fit.rater(fit.fit(Pool.of(corpus), seed=7))
    assert rater.rate(corpus.slice(1, 1).to_batches()[0])["score"].to_pylist() == [1.0]


def test_a_table_of_comparisons_is_joined_to_no_document() -> None:
    comparisons = Columns(winner="doc_id", loser="doc_id")
    assert comparisons.key is None
    assert Columns(doc_id="doc_id", grade="int64").key == "doc_id"
    assert Columns(doc_id="string").key is None


def test_the_preferred_document_has_the_higher_score() -> None:
    ids = keyed.ids(np.array([[0, 1], [0, 2], [0, 3]], np.uint64))
    vectors = pa.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], pa.list_(pa.float16(), 2))
    comparisons = pa.table({"winner": ids.take([0, 2]), "loser": ids.take([1, 1])})
    fit = Preferred(comparisons=TablePath("judged.jsonl").attached(comparisons))
    corpus = pa.record_batch({"doc_id": ids, "embedding": vectors})
    rater = fit.rater(fit.fit(Pool.of(pa.Table.from_batches([corpus])), seed=7))
    best, worst, middle = rater.rate(corpus)["score"].to_pylist()
    assert best > middle > worst


# ---------------------------------------------------------------- raters that break a law


def _lengths(batch: pa.RecordBatch) -> Floats:
    return np.array([len(text) for text in batch["text"].to_pylist()], np.float64)


@dataclass(frozen=True, kw_only=True)
class Counts(Rater):
    """What a broken rater breaks: how long the text is."""

    higher_is = "harder"

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"score": _lengths(batch)})


@dataclass(frozen=True, kw_only=True)
class LooksAtItsBatch(Counts):
    """The share of the longest text of the batch."""

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        lengths = 1 + _lengths(batch)
        return pa.record_batch({"score": lengths / lengths.max(initial=1)})


@dataclass(frozen=True, kw_only=True)
class LosesARow(Counts):
    """One row less than it was given."""

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return super().rate(batch).slice(1)


@dataclass(frozen=True, kw_only=True)
class HoldsALock(Counts):
    """A rater that cannot be sent anywhere."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_lock", threading.Lock())


@dataclass(frozen=True, kw_only=True)
class KnowsWhenItWasMade(Counts):
    """Another score for each that is made."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_number", float(next(_MADE)))

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"score": _lengths(batch) + vars(self)["_number"]})


_MADE: Iterator[int] = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Remembers(Counts):
    """How often it has seen the text."""

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = batch["text"].to_pylist()
        _SEEN.update(texts)
        return pa.record_batch({"score": pa.array([_SEEN[text] for text in texts], pa.int64())})


_SEEN: collections.Counter[str] = collections.Counter()


@dataclass(frozen=True, kw_only=True)
class ComparesWithTheLast(Counts):
    """How much longer the text is than the one that was rated before it."""

    @functools.cached_property
    def _last(self) -> list[float]:
        return [0.0]

    def prepare(self) -> None:
        self._last[:] = [0.0]

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        lengths = _lengths(batch)
        scores = np.diff(lengths, prepend=self._last[0])
        self._last[:] = lengths[-1:].tolist() or self._last
        return pa.record_batch({"score": scores})


@dataclass(frozen=True, kw_only=True)
class SaysThatAllIsWell(Counts):
    """No score for an empty text, and no reason either."""

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        scores = pa.array([float(len(text)) if text else None for text in batch["text"].to_pylist()], pa.float64())
        return pa.record_batch({"score": scores, "state": pa.array(["ok"] * batch.num_rows, pa.string())})


@dataclass(frozen=True, kw_only=True)
class ReadsWhatItDidNotName(Counts):
    """How many bytes the text has, which it needs and does not say."""

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"score": batch["num_bytes"]})


@dataclass(frozen=True, kw_only=True)
class ChangesItsType(Counts):
    """A whole number where all are, and otherwise a float."""

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        halves = [length / 2 for length in _lengths(batch)]
        is_whole = all(half.is_integer() for half in halves)
        return pa.record_batch({"score": pa.array(halves, pa.int64() if is_whole else pa.float64())})


@dataclass(frozen=True, kw_only=True)
class GivesUp(Counts):
    """Refuses long texts."""

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if _lengths(batch).max(initial=0) > 1000:
            raise ValueError("too long")
        return super().rate(batch)


@dataclass(frozen=True, kw_only=True)
class NeedsADocument(Counts):
    """Cannot rate none."""

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        lengths = _lengths(batch)
        assert lengths.max() >= 0
        return pa.record_batch({"score": lengths})


@dataclass(kw_only=True)
class NotFrozen(Rater):
    """A rater whose options can be changed."""

    higher_is = "harder"

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"score": _lengths(batch)})


@dataclass(frozen=True, kw_only=True)
class CountsShards(Fit):
    """How many shards the corpus was cut into."""

    higher_is = "harder"

    def fit(self, sample: Pool, seed: int) -> pa.Table:
        return pa.table({"shards": [sum(1 for _ in sample.batches("text"))]})

    def rater(self, fitted: pa.Table) -> Rater:
        return Counts()


@dataclass(frozen=True, kw_only=True)
class MakesAnother(Fit):
    """A fit whose rater says that a large score means something else."""

    higher_is = "better"

    def fit(self, sample: Pool, seed: int) -> pa.Table:
        return pa.table({"nothing": pa.nulls(0)})

    def rater(self, fitted: pa.Table) -> Rater:
        return Counts()


@dataclass(frozen=True, kw_only=True)
class GoesByTheId(Rater):
    """A draw, which depends on the id of a document and not on what it says."""

    higher_is = "better"

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"score": keyed.uniforms(batch["doc_id"], 0, "a draw")})


FORM, FROZEN, SPLIT, PLACE, AGAIN, PICKLE, STATE, EMPTY, CUT, TWICE, TEXT = (law.__name__ for law in RATER_LAWS)

MUTANTS: list[tuple[Rater | Fit, str]] = [
    (LosesARow(), FORM),
    (MakesAnother(), FORM),
    (NotFrozen(), FROZEN),
    (LooksAtItsBatch(), SPLIT),
    (ChangesItsType(), SPLIT),
    (ComparesWithTheLast(), PLACE),
    (KnowsWhenItWasMade(), AGAIN),
    (HoldsALock(), PICKLE),
    (SaysThatAllIsWell(), STATE),
    (NeedsADocument(), EMPTY),
    (CountsShards(), CUT),
    (GoesByTheId(), TWICE),
    (GivesUp(), TEXT),
]


@pytest.mark.parametrize(("rater", "law"), MUTANTS)
def test_a_broken_rater_breaks_the_law_that_is_about_it_and_no_other(rater: Rater | Fit, law: str) -> None:
    assert broken(RATER_LAWS, rater, [law]) == [law]


def test_every_law_of_raters_has_a_rater_that_breaks_it() -> None:
    assert {law for _, law in MUTANTS} == {law.__name__ for law in RATER_LAWS}
    assert broken(RATER_LAWS, Counts()) == []


@pytest.mark.parametrize(("rater", "law"), [(Remembers(), AGAIN), (ReadsWhatItDidNotName(), FORM)])
def test_a_rater_that_breaks_several_laws_breaks_the_one_that_is_about_it(rater: Rater, law: str) -> None:
    assert law in broken(RATER_LAWS, rater, [law])
