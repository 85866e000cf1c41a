"""What selectors choose from a real corpus, beside the random control: diversity and quality by budget, over seeds.

Every figure is that of a manifest which the real flow made. A seed moves the draw and the clusters, so the intervals
have both; a selector that reads neither has the same manifest for every seed.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selector import pipeline
from selector.engine.local import LocalExecutor
from selector.manifest import Manifest
from selector.policy import Policy

SELECTORS: tuple[Mapping[str, Mapping[str, Any]], ...] = (
    {"random": {}},
    {"kmeans_quality": {"score": "SCORE"}},
    {"kmeans_quality": {"score": "SCORE", "quota": "equal"}},
    {"closest": {}},
    {"farthest": {}},
    {"k_center": {}},
    {"diverse": {"score": "SCORE", "most": 0.9}},
    {"diverse": {"score": "SCORE", "most": 0.7}},
    {"prune": {"most": 0.8}},
    {"prune": {"first": "farthest"}},
    {"decorrelated": {"batch": 256, "picks": "PICKS"}},
    {"mixture": {"by": "cluster", "temperature": 2.0}},
    {"quality_sampling": {"score": "SCORE"}},
    {"top": {"score": "SCORE"}},
)
"""What is measured; SCORE is the score that is asked for, PICKS the share of the budget in a batch."""

_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}  # Student's, 95 %


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one selector chose by one budget, over seeds."""

    selector: str
    share: float
    entropies: Sequence[float]  # of sources, as a part of the largest that there can be
    sources: Sequence[int]
    qualities: Sequence[float]  # the mean score


def selectors(corpus: Mapping[str, Any], score: str, shares: Sequence[float], num_seeds: int, root: str) -> None:
    """Prints a table in Markdown. `corpus` is the policy's section, with the column that counts as the source."""
    print("| selector | budget | entropy of sources | sources | mean score |\n|---|---|---|---|---|")
    for measured in measure(corpus, score, shares, num_seeds, root):
        entropy, quality = interval(measured.entropies), interval(measured.qualities)
        num_sources = statistics.mean(measured.sources)
        print(f"| {measured.selector} | {measured.share:.0%} | {entropy} | {num_sources:.1f} | {quality} |", flush=True)


def measure(
    corpus: Mapping[str, Any], score: str, shares: Sequence[float], num_seeds: int, root: str
) -> Iterator[Measured]:
    """What each selector chose by each budget, a share of the documents."""
    everything = [_manifest(corpus, score, {"random": {}}, {"fraction": 1.0}, 0, root)]
    num_documents, num_sources = len(everything[0]), len(_sources(everything[0]))
    for share in shares:
        for selector in SELECTORS:
            ((name, options),) = selector.items()
            known = {"SCORE": score, "PICKS": math.ceil(share * 256)}
            options = {
                key: known.get(value, value) if isinstance(value, str) else value for key, value in options.items()
            }
            budget = {"documents": max(1, round(share * num_documents))}
            manifests = [_manifest(corpus, score, {name: options}, budget, seed, root) for seed in range(num_seeds)]
            counted = [_sources(manifest) for manifest in manifests]
            yield Measured(
                selector=" ".join([name, *(f"{key}={value}" for key, value in options.items() if key != "score")]),
                share=share,
                entropies=[entropy(counts, num_sources) for counts in counted],
                sources=[len(counts) for counts in counted],
                qualities=[_mean_quality(manifest) for manifest in manifests],
            )


def entropy(counts: Mapping[str, int], num_sources: int) -> float:
    """The entropy of these shares, divided by that of so many equal ones."""
    total = sum(counts.values())
    shares = [count / total for count in counts.values() if count]
    return -math.fsum(share * math.log(share) for share in shares) / math.log(num_sources) if num_sources > 1 else 0.0


def interval(values: Sequence[float]) -> str:
    """The mean with its 95 % interval; without one where all values are equal."""
    mean = statistics.mean(values)
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    if spread == 0:
        return f"{mean:.3f}"
    return f"{mean:.3f} ± {_T.get(len(values), 1.96) * spread / math.sqrt(len(values)):.3f}"


def _manifest(
    corpus: Mapping[str, Any], score: str, using: Mapping[str, Any], budget: Mapping[str, Any], seed: int, root: str
) -> Manifest:
    policy = {
        "seed": seed,
        "corpus": dict(corpus),
        "embed": {"max_tokens": 64, "long_documents": "truncate"},
        "cluster": {"num_clusters": 64},
        "rate": [score],
        "select": {"budget": dict(budget), "using": dict(using)},
        "order": {"using": "shuffled"},
        "manifest": {"quality": score},
    }
    return pipeline.build(Policy.of(policy), root=root, executor=LocalExecutor(workers=1)).manifest


def _sources(manifest: Manifest) -> Counter[str]:
    return Counter(manifest.rows(0, len(manifest))["source"].to_pylist())


def _mean_quality(manifest: Manifest) -> float:
    scores = manifest.rows(0, len(manifest))["quality"].drop_null().to_pylist()
    return math.fsum(scores) / len(scores) if scores else math.nan
