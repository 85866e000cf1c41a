"""Plug-ins as somebody else would write them, from the contracts' docstrings alone: one for each kind of option and of
answer. `test_trials.py` puts each of them before the laws and through a whole run."""

import functools
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from safetensors.numpy import load_file

from selector import exact
from selector.exact import Floats, Ints, UInt64, keyed
from selector.exact.vectors import vectors_of
from selector.order import Order, Positions
from selector.rate import Columns, Fit, Meaning, ModelPath, Pool, Rater, ScoreName, TablePath, TextsPath
from selector.select import Budget, Decisions, Group, Grouped, Keys, Ranked, Reasons, Selector
from selector.select.random import Random

Bools = npt.NDArray[np.bool_]


# ---------------------------------------------------------------- selectors


@dataclass(frozen=True, kw_only=True)
class Graded(Ranked):
    """The documents with the best grades that somebody gave them; those without a grade last."""

    judged: Annotated[TablePath, Columns(doc_id="doc_id", grade="float32")]

    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> UInt64:
        return exact.descending(batch["judged.grade"])

    def values(self, batch: pa.RecordBatch, summary: Any, seed: int) -> Floats:
        return exact.floats(batch["judged.grade"])


@dataclass(frozen=True, kw_only=True)
class Nearest(Ranked):
    """The documents that are nearest to any of some examples, by the cosine of their embeddings."""

    examples: TextsPath

    @property
    def needs(self) -> tuple[str, ...]:
        return ("embedding",)

    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> UInt64:
        return exact.descending(pa.array(self.values(batch, summary, seed)))

    def values(self, batch: pa.RecordBatch, summary: Any, seed: int) -> Floats:
        examples = _vectors(self.examples.table["embedding"])
        return (_vectors(batch["embedding"]) @ examples.T).max(axis=1, initial=-1)


@dataclass(frozen=True, kw_only=True)
class Repeated(Selector):
    """What another selector chooses with half of the budget, to be seen twice."""

    fills_budget = False

    inner: Selector

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        overshoot = "stop" if budget.overshoot == "cross" else budget.overshoot
        half = replace(budget, amount=budget.amount // 2, overshoot=overshoot)
        decisions = self.inner.select(pool, half, seed)
        return replace(decisions, decide=_Twice(decide=decisions.decide))


@dataclass(frozen=True, kw_only=True)
class _Twice:
    decide: Any

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        verdict = self.decide(batch)
        twice = pa.array(np.full(verdict.num_rows, 2, np.uint16))
        chance = pa.nulls(verdict.num_rows, pa.float32())  # a chance of being seen twice is none of being seen
        columns = [{"visits": twice, "inclusion_probability": chance}.get(n, verdict[n]) for n in verdict.schema.names]
        return pa.RecordBatch.from_arrays(columns, schema=verdict.schema)


@dataclass(frozen=True, kw_only=True)
class Pruned(Grouped):
    """No two documents of a cluster that are nearer than a limit (SemDeDup, arXiv 2303.09540, greedily by id)."""

    fills_budget = False

    similarity: float = 0.9

    @property
    def needs(self) -> tuple[str, ...]:
        return (*super().needs, "embedding")

    def group_keys(self, group: pa.RecordBatch, given: pa.RecordBatch, seed: int) -> Keys:
        vectors = np.concatenate([_vectors(given["embedding"]), _vectors(group["embedding"])])
        ids, first = pa.concat_arrays([given["doc_id"], group["doc_id"]]), given.num_rows
        cosines, is_kept = vectors @ vectors.T, np.arange(len(vectors)) < first
        nearest, similarity = np.zeros(len(vectors), np.int64), np.full(len(vectors), -np.inf)
        for i in range(first, len(vectors)):
            before = np.where(is_kept[:i], cosines[i, :i], -np.inf)
            if len(before):
                nearest[i], similarity[i] = int(np.argmax(before)), before.max()
            is_kept[i] = similarity[i] <= self.similarity
        never = ~is_kept[first:]
        return Keys(
            keys=keyed.hashes(group["doc_id"], seed, "pruned"),
            never=never,
            values=-np.where(np.isinf(similarity[first:]), np.nan, similarity[first:]),
            others=ids.take(pa.array(nearest[first:], mask=~never)),
        )

    def reasons(self, group: Group) -> Reasons:
        said = super().reasons(group)
        return replace(said, never=("cluster {group}: nearer than {limit} to another", {"limit": self.similarity}))


@dataclass(frozen=True, kw_only=True)
class AtLeast(Ranked):
    """The best documents, but none below a limit, whatever is left of the budget."""

    fills_budget = False

    score: ScoreName
    least: float = 0.0

    def keys(self, batch: pa.RecordBatch, summary: Any, seed: int) -> UInt64:
        return exact.descending(batch[self.score])

    def allowed(self, batch: pa.RecordBatch, summary: Any) -> Bools:
        return exact.floats(batch[self.score]) >= self.least

    def reasons(self, group: Group) -> Reasons:
        return replace(super().reasons(group), never=("{score} below {least}", vars(self)))


@dataclass(frozen=True, kw_only=True)
class InRounds(Selector):
    """Half of the budget now, at random; the rest once training has told of it."""

    fills_budget = False

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        overshoot = "stop" if budget.overshoot == "cross" else budget.overshoot
        now = Random().select(pool, replace(budget, amount=budget.amount // 2, overshoot=overshoot), seed)
        left = budget.amount - budget.amount // 2
        return replace(now, facts={"rounds": 1}, waiting=f"round 2 needs feedback to spend {left} {budget.unit}")


# ---------------------------------------------------------------- orders


@dataclass(frozen=True, kw_only=True)
class WindowShuffle(Order):
    """Another order, shuffled within windows of so many visits; a window ends with its phase."""

    inner: Order
    window: int = 4

    def arrange(self, chosen: Pool, seed: int) -> Positions:
        positions = self.inner.arrange(chosen, seed)
        ids = keyed.words(chosen.table("doc_id")["doc_id"])
        visits = positions.visits
        phases = visits["phase"].to_pylist()
        is_new = np.array([i == 0 or phases[i] != phases[i - 1] for i in range(len(phases))], np.bool_)
        begins = np.flatnonzero(is_new)
        phase = np.cumsum(is_new) - 1
        within = np.arange(len(phases)) - begins[phase] if len(phases) else np.empty(0, np.int64)
        visited = ids[visits["document"].to_numpy()]
        draws = keyed.hashes(keyed.ids(visited), seed, "window_shuffle")
        sort = np.lexsort(
            (visits["visit"].to_numpy(), visited[:, 1], visited[:, 0], draws, within // self.window, phase)
        )
        return positions.rearranged(sort, ids)


# ---------------------------------------------------------------- raters


@dataclass(frozen=True, kw_only=True)
class Surprise(Rater):
    """How surprising a text's bytes are to a model of single bytes, in nats."""

    higher_is = "rarer"

    model: ModelPath

    @functools.cached_property
    def _surprise(self) -> Floats:
        return load_file(Path(self.model) / "model.safetensors")["surprise"].astype(np.float64)

    def prepare(self) -> None:
        assert self._surprise.shape == (256,)

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        data = [np.frombuffer(text.encode(), np.uint8) for text in batch["text"].to_pylist()]
        means = [float(self._surprise[text].sum()) / len(text) if len(text) else None for text in data]
        return pa.record_batch({"score": pa.array(means, pa.float64())})


@dataclass(frozen=True, kw_only=True)
class Mood(Rater):
    """A word for how loud a text is; none for one without letters."""

    higher_is = "label"

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"score": pa.array(map(_mood, batch["text"].to_pylist()), pa.string())})


def _mood(text: str) -> str | None:
    letters = [letter for letter in text if letter.isalpha()]
    if not letters:
        return None
    return "loud" if sum(map(str.isupper, letters)) * 10 > len(letters) else "quiet"


@dataclass(frozen=True, kw_only=True)
class Written(Rater):
    """When a document was written, to the microsecond."""

    higher_is = "harder"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("corpus.written",)

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        said = pl.Series(batch["corpus.written"], dtype=pl.String)
        moment = said.str.to_datetime("%Y-%m-%dT%H:%M:%S%.6f", time_unit="us", strict=False)
        state = np.where(said.is_null(), "missing", np.where(moment.is_null(), "failed", "ok"))
        return pa.record_batch({"score": moment.to_arrow(), "state": pa.array(state)})


@dataclass(frozen=True, kw_only=True)
class Letters(Rater):
    """Three scores of one look at a text: a share, a whole number and a word, each with a state of its own."""

    def scores(self, name: str) -> dict[str, Meaning]:
        return {f"{name}_share": "better", f"{name}_count": "harder", f"{name}_first": "label"}

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = batch["text"].to_pylist()
        counts = [sum(map(str.isalpha, text)) for text in texts]
        shares = [count / len(text) if text else None for count, text in zip(counts, texts, strict=True)]
        firsts = [next(filter(str.isalpha, text), None) for text in texts]
        return pa.record_batch(
            {
                "score_first": pa.array(firsts, pa.string()),
                "score_first.state": pa.array(["missing" if first is None else "ok" for first in firsts], pa.string()),
                "score_count": pa.array(counts, pa.int64()),
                "score_share": pa.array(shares, pa.float64()),
                "score_share.state": pa.array(["failed" if share is None else "ok" for share in shares], pa.string()),
            }
        )


@dataclass(frozen=True, kw_only=True)
class LengthZScore(Fit):
    """How far from the corpus's mean length the document is, in standard deviations."""

    higher_is = "harder"

    def fit(self, sample: Pool, seed: int) -> pa.Table:
        lengths = np.concatenate([[], *sample.map(_lengths, "text")])
        lengths = lengths if len(lengths) else np.zeros(1)
        return pa.table({"mean": [lengths.mean()], "std": [lengths.std() or 1.0]})

    def rater(self, fitted: pa.Table) -> Rater:
        return _LengthZScore(mean=fitted["mean"][0].as_py(), std=fitted["std"][0].as_py())


@dataclass(frozen=True, kw_only=True)
class _LengthZScore(Rater):
    """How far from a mean length the document is."""

    higher_is = "harder"

    mean: float
    std: float

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"score": (_lengths(batch) - self.mean) / self.std})


def _lengths(batch: pa.RecordBatch) -> Floats:
    return np.array([len(text) for text in batch["text"].to_pylist()], np.float64)


@dataclass(frozen=True, kw_only=True)
class Resembles(Fit):
    """How much more its words are the target's than the corpus's (DSIR, in 64 buckets)."""

    higher_is = "closer"
    sample = None

    target: Annotated[TablePath, Columns(text="string")]

    def fit(self, sample: Pool, seed: int) -> pa.Table:
        raw = sum(sample.map(_buckets_of_batch, "text"), np.zeros(64, np.int64)) + 1
        wanted = sum(map(_buckets, self.target.table["text"].to_pylist()), np.zeros(64, np.int64)) + 1
        weights = exact.log(wanted / wanted.sum()) - exact.log(raw / raw.sum())
        return pa.table({"weight": weights})

    def rater(self, fitted: pa.Table) -> Rater:
        return _Resembles(weights=tuple(fitted["weight"].to_pylist()))


@dataclass(frozen=True, kw_only=True)
class _Resembles(Rater):
    """The sum of its words' weights."""

    higher_is = "closer"

    weights: tuple[float, ...]

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        counts = [_buckets(text) for text in batch["text"].to_pylist()]
        return pa.record_batch({"score": pa.array([float(c @ np.array(self.weights)) for c in counts], pa.float64())})


def _buckets(text: str) -> Ints:
    return np.bincount([zlib.crc32(word.encode()) % 64 for word in text.split()], minlength=64).astype(np.int64)


def _buckets_of_batch(batch: pa.RecordBatch) -> Ints:
    return sum(map(_buckets, batch["text"].to_pylist()), np.zeros(64, np.int64))


def _vectors(column: pa.Array | pa.ChunkedArray) -> Floats:
    """Embeddings as float64, in which products of float16 add up without rounding."""
    return vectors_of(column).astype(np.float64)
