"""What selectors choose from a real corpus, beside the random control: diversity and quality by budget, over seeds.

The real flow makes the columns (vectors, clusters, neighbours, scores), once for each number of clusters and each seed;
a selector is then asked over them, as the flow asks it. A seed moves the draw and the clusters, so the intervals have
both; a selector that reads neither has the same answer for every seed. The control is drawn with more seeds than the
others, since every difference is one to it.
"""

import functools
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from selector import plugins
from selector.engine.local import LocalExecutor
from selector.engine.runner import Runner
from selector.engine.step import needed
from selector.exact.vectors import vectors_of
from selector.pipeline import flow
from selector.policy import Policy
from selector.policy.resolve import resolve
from selector.select import Budget, Decisions, Pool, ScoreName, Selector
from selector.steps.run import Run
from selector.steps.select import Select
from selector.tune.diversity import entropy, vendi_score


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A selector with its options, and the clusters that there are for it: so many, or of these `cluster.levels`, which
    are resampled towards a uniform support. SCORE is the score that is asked for, PICKS the share of the budget in a
    batch."""

    name: str
    options: Mapping[str, Any]
    num_clusters: int = 64
    levels: tuple[int, ...] = ()
    more_seeds: int = 1

    @property
    def label(self) -> str:
        written = [f"{key}={value}" for key, value in self.options.items() if value not in ("SCORE", "PICKS")]
        clusters = "" if self.num_clusters == 64 else f", clusters: {self.num_clusters}"
        levels = f", cluster.levels: {list(self.levels)}" if self.levels else ""
        return " ".join([self.name, *written]) + clusters + levels

    @property
    def cluster(self) -> tuple[tuple[str, Any], ...]:
        """The policy's section on clusters."""
        return (("levels", self.levels),) if self.levels else (("num_clusters", self.num_clusters),)


RESAMPLED = (128,)
"""Clusters that stand about evenly wherever there are documents: so many that of 5 % of some thousand documents each
keeps two or three."""

SELECTORS: tuple[Tried, ...] = (
    Tried(name="random", options={}, more_seeds=5),
    Tried(name="kmeans_quality", options={"score": "SCORE"}),
    Tried(name="kmeans_quality", options={"score": "SCORE", "quota": "equal"}),
    Tried(name="kmeans_quality", options={"score": "SCORE", "quota": "equal"}, levels=RESAMPLED),
    Tried(name="hierarchical", options={}),
    Tried(name="hierarchical", options={"levels": (8,)}),
    Tried(name="hierarchical", options={}, levels=RESAMPLED),
    Tried(name="hierarchical", options={}, levels=(*RESAMPLED, 16)),
    Tried(name="closest", options={}),
    Tried(name="farthest", options={}),
    Tried(name="farthest", options={"quota": "equal"}, levels=RESAMPLED),
    Tried(name="k_center", options={}),
    Tried(name="k_center", options={"quota": "equal"}, levels=RESAMPLED),
    Tried(name="k_center", options={}, num_clusters=1),
    Tried(name="facility_location", options={}),
    Tried(name="facility_location", options={}, num_clusters=1),
    Tried(name="diverse", options={"score": "SCORE", "most": 0.9}),
    Tried(name="diverse", options={"score": "SCORE", "most": 0.7}),
    Tried(name="diverse", options={"score": "SCORE", "most": 0.5}, num_clusters=1),
    Tried(name="prune", options={"most": 0.95}),
    Tried(name="prune", options={"most": 0.8}),
    Tried(name="prune", options={"most": 0.5}, num_clusters=8),
    Tried(name="prune", options={"most": 0.5}, num_clusters=1),
    Tried(name="prune", options={"first": "farthest"}),
    Tried(name="decorrelated", options={"batch": 256, "picks": "PICKS"}),
    Tried(name="determinantal", options={}),
    Tried(name="determinantal", options={"quota": "equal"}, levels=RESAMPLED),
    Tried(name="marginal_relevance", options={"score": "SCORE"}),
    Tried(name="mixture", options={"by": "cluster", "temperature": 2.0}),
    Tried(name="mixture", options={"by": "cluster", "temperature": 2.0}, levels=RESAMPLED),
    Tried(name="parallel", options={"scores": ("SCORE",)}),
    Tried(name="quality_sampling", options={"score": "SCORE"}),
    Tried(name="top", options={"score": "SCORE"}),
)
"""What is measured."""

_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262, 25: 2.064}  # 95 %


@dataclass(frozen=True, kw_only=True)
class Everything(Selector):
    """Names every column that a selector is asked over; nobody asks it to select."""

    score: ScoreName
    topic: str | None = None  # a column of the corpus

    @property
    def needs(self) -> tuple[str, ...]:
        topic = () if self.topic is None else (f"corpus.{self.topic}",)
        return ("source", "cluster", "distance", "branches", "embedding", "neighbours", "neighbour_cosines", *topic)

    def select(self, pool: Pool, budget: Budget, seed: int) -> Decisions:
        raise NotImplementedError("it only names columns")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one selector chose by one budget, over seeds."""

    selector: str
    share: float
    entropies: Sequence[float]  # of sources, as a part of the largest that there can be
    sources: Sequence[int]
    topics: Sequence[int]  # of another column; none without one
    vendi: Sequence[float]  # how many documents, all unlike each other, would be as diverse
    qualities: Sequence[float]  # the mean score


def selectors(
    corpus: Mapping[str, Any],
    score: str,
    shares: Sequence[float],
    num_seeds: int,
    root: str,
    topic: str | None = None,
) -> None:
    """Prints a table in Markdown. `corpus` is the policy's section, with the column that counts as the source; `topic`
    is another column of the corpus, whose different values are counted."""
    heading = ["selector", "budget", "entropy of sources", "sources", *(["topics"] if topic else [])]
    heading += ["Vendi score", "mean score"]
    print(f"| {' | '.join(heading)} |\n{'|---' * len(heading)}|")
    for one in measure(corpus, score, shares, num_seeds, root, topic):
        counts = [f"{statistics.mean(counted):.1f}" for counted in (one.sources, one.topics) if counted]
        measured = [interval(one.entropies), *counts, interval(one.vendi, 1), interval(one.qualities)]
        print(f"| {one.selector} | {one.share:.0%} | {' | '.join(measured)} |", flush=True)


def measure(
    corpus: Mapping[str, Any],
    score: str,
    shares: Sequence[float],
    num_seeds: int,
    root: str,
    topic: str | None = None,
) -> Iterator[Measured]:
    """What each selector chose by each budget, a share of the documents."""
    columns = functools.cache(functools.partial(_columns, corpus, score, topic, root=root))
    control = SELECTORS[0]

    @functools.cache
    def documents(cluster: tuple[tuple[str, Any], ...], seed: int) -> pa.Table:
        """With the score that the usual clusters give: some raters look at them, and it is to mean one thing."""
        own, usual = columns(cluster, seed), columns(control.cluster, seed)
        assert own["doc_id"].equals(usual["doc_id"]), "a pool is in corpus order, whatever the clusters"
        at = own.schema.get_field_index(score)
        return own.set_column(at, own.schema.field(at), usual[score])

    whole = documents(control.cluster, 0)
    num_sources = len(Counter(whole["source"].to_pylist()))
    for share in shares:
        budget = Budget(amount=max(1, round(share * whole.num_rows)), unit="documents")
        for tried in SELECTORS:
            selector = _selector_of(tried, score, share)
            chosen = [
                _chosen(selector, documents(tried.cluster, seed % num_seeds), budget, seed)
                for seed in range(num_seeds * tried.more_seeds)
            ]
            counted = [Counter(some["source"].to_pylist()) for some in chosen]
            yield Measured(
                selector=tried.label,
                share=share,
                entropies=[entropy(counts.values(), num_sources) for counts in counted],
                sources=[len(counts) for counts in counted],
                topics=[len(some[f"corpus.{topic}"].unique()) for some in chosen] if topic else [],
                vendi=[vendi_score(vectors_of(some["embedding"]).astype(np.float64)) for some in chosen],
                qualities=[_mean(some[score]) for some in chosen],
            )


def interval(values: Sequence[float], digits: int = 3) -> str:
    """The mean with its 95 % interval; without one where all values are equal."""
    mean = statistics.mean(values)
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    if spread == 0:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {_T.get(len(values), 1.96) * spread / math.sqrt(len(values)):.{digits}f}"


def _columns(
    corpus: Mapping[str, Any],
    score: str,
    topic: str | None,
    cluster: tuple[tuple[str, Any], ...],
    seed: int,
    *,
    root: str,
) -> pa.Table:
    """The documents that may be chosen, with every column that a selector reads, as the real flow makes them."""
    everything = {"score": score, **({"topic": topic} if topic else {})}
    policy = {
        "seed": seed,
        "corpus": dict(corpus),
        "embed": {"max_tokens": 128, "long_documents": "truncate"},
        "cluster": dict(cluster),
        "rate": [score],
        "select": {"budget": {"documents": 1}, "using": {"jobs.bench.selectors:Everything": everything}},
    }
    executor = LocalExecutor(workers=1)
    resolved = resolve(Policy.of(policy))
    steps = flow(resolved, executor)
    (select,) = [step for step in steps if isinstance(step, Select)]
    with Runner(Run.open(resolved, steps, root).store, executor) as runner:
        done = runner.run(needed(steps, select.reads))
        pool = select.shards(done).pool(select.columns, "jobs.bench selectors")
        return pool.table(*pool.schema.names)


def _selector_of(tried: Tried, score: str, share: float) -> Selector:
    """The selector of a line of the table."""

    def known(value: Any) -> Any:
        if isinstance(value, tuple):
            return [known(item) for item in value]
        return {"SCORE": score, "PICKS": math.ceil(share * 256)}.get(value, value) if isinstance(value, str) else value

    options = {key: known(value) for key, value in tried.options.items()}
    return plugins.make("selectors", tried.name, options, "jobs.bench", Selector)


def _chosen(selector: Selector, documents: pa.Table, budget: Budget, seed: int) -> pa.Table:
    """The documents that a selector keeps."""
    pool = Pool.of(documents)
    decisions = selector.select(pool, budget, seed)
    columns = dict.fromkeys((*decisions.columns, *decisions.known))
    verdicts = [decisions.decide(batch) for batch in (decisions.pool or pool).batches(*columns)]
    return documents.filter(pa.concat_arrays([verdict["kept"] for verdict in verdicts])).combine_chunks()


def _mean(scores: pa.ChunkedArray) -> float:
    known = scores.drop_null().to_pylist()
    return math.fsum(known) / len(known) if known else math.nan
