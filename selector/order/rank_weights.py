"""Another order whose visits weigh little at first where a document is hard to rank."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import exact
from selector.errors import PolicyError
from selector.exact import Floats, Ints, keyed
from selector.order import Along, Columns, Direction, TablePath
from selector.order._around import Visits
from selector.order._weighted import Weighted, check_epochs, code_of, released

_MISSING_RANK = 1000  # of a document that the run does not have
_FAR = 8.0  # standard deviations; beyond, the normal distribution is 0 or 1 to 15 digits
_TERMS = 130  # of its series, which is then exact to 15 digits


@dataclass(frozen=True, kw_only=True)
class RankWeights(Weighted):
    """Weighs the visits of another order by how easily a first ranker tells the document from the others.

    For training rankers and embedders. The table `run` has the rows of a ranking: `query`, `document` (its doc_id),
    `score` (null: the ranker did not return it) and `relevant`: true, false (a negative), or null where it only takes a
    place in the ranking. `by` says how high the document stands, R from 0 to 1: recip_rank 1 / rank (1000 for one
    without a score), norm_score (score - min) / (max - min) of the query's scores, kde the share of their Gaussian
    kernel density below it (Scott's bandwidth). The ease D is, pointwise, R of a relevant document and 1 - R of a
    negative; pairwise the least of (R - R of a negative + 1) / 2 over the query's negatives, for relevant documents
    alone. Epoch e, the number of the visit, weighs D (1 - e / m) + e / m, and 1 from m = `epochs` on; an
    anti-curriculum has 1 - D for D. Weights are normalised to a mean of 1 over all visits, not over a batch;
    `normalised: false` leaves them as published. The driver holds the table, every worker the eases of its documents.

    Ours: ties of scores are in the order of the ids; a document of several queries has the least of its eases; without
    a score R is 0 by norm_score, and by kde that of the lowest; where all scores are equal R is 1/2; a document that
    the table does not judge weighs what the others do on average.

    Evidence: Training Curricula for Open Domain Answer Re-Ranking (arXiv 2004.14269, SIGIR 2020), whose heuristics,
    m = 20 and weights these are; its code multiplies the mean loss of a batch by the mean of the weights, this one each
    loss by its own. Reported: better with BERT and ConvKNRM on three data sets of answers, with BERT up to 4 % in MRR
    and 9 % in P@1. Against it: with a manifest that visits each document once only epoch 0 is seen, and hard documents
    just weigh less; no comparison for training language models is known to us. Not measured here.

    When: a ranker or an embedder is trained in several epochs, and a first ranking of the candidates is there.
    """

    run: Annotated[TablePath, Columns(query="string", document="doc_id", score="float64", relevant="bool")]
    by: Literal["recip_rank", "norm_score", "kde"] = "recip_rank"
    compared: Literal["pointwise", "pairwise"] = "pointwise"
    epochs: int = 20
    direction: Direction = "curriculum"

    def __post_init__(self) -> None:
        check_epochs("rank_weights", "epochs", self.epochs)

    def summary(self, visits: Visits, seed: int) -> tuple[pa.Array, Floats]:
        return self.eases()

    def weights(self, along: Along, summary: tuple[pa.Array, Floats]) -> Floats:
        documents, ease = summary
        of_visit = np.append(ease, np.nan)[code_of(along.ids, documents)]
        if self.direction == "anti_curriculum":
            of_visit = 1 - of_visit
        return released(of_visit, along.visit, self.epochs)

    def eases(self) -> tuple[pa.Array, Floats]:
        """The documents that the table judges, and the ease of each."""
        table = self.run.table.filter(self.run.table["query"].is_valid()).combine_chunks()
        table = table.filter(table["document"].is_valid()).combine_chunks()
        query = table["query"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
        ids, score = table["document"].combine_chunks(), exact.floats(table["score"])
        if np.isinf(score).any():
            raise PolicyError("rank_weights.run has a score that is infinite. Write a number, or null for none.")
        relevant = table["relevant"].combine_chunks()
        is_relevant = relevant.fill_null(False).to_numpy(zero_copy_only=False)
        is_judged = relevant.is_valid().to_numpy(zero_copy_only=False)
        height = self.heights(query, score, ids, is_judged)
        if self.compared == "pointwise":
            ease = np.where(is_relevant, height, 1 - height)
        else:
            highest = np.full(int(query.max(initial=-1)) + 1, -np.inf)
            is_negative = is_judged & ~is_relevant
            np.maximum.at(highest, query[is_negative], height[is_negative])
            ease = (height - highest[query] + 1) / 2
            is_judged = is_relevant & np.isfinite(ease)  # a query without negatives compares nothing
        encoded = ids.filter(pa.array(is_judged)).dictionary_encode()
        least = np.full(len(encoded.dictionary), np.inf)
        np.minimum.at(least, encoded.indices.to_numpy(), ease[is_judged])
        return encoded.dictionary, least

    def heights(self, query: Ints, score: Floats, ids: pa.Array, is_judged: npt.NDArray[np.bool_]) -> Floats:
        """How high each row stands in the ranking of its query; of rows that are not judged it may be left out."""
        words = keyed.words(ids)
        order = np.lexsort((words[:, 1], words[:, 0], -np.nan_to_num(score, nan=-np.inf), query))
        begins = np.flatnonzero(np.diff(query[order], prepend=-1))
        height = np.zeros(len(query))
        for rows in np.split(order, begins[1:]) if len(order) else []:
            scores = score[rows]
            known = scores[~np.isnan(scores)]
            if self.by == "recip_rank":
                height[rows] = np.where(np.isnan(scores), 1 / _MISSING_RANK, 1 / np.arange(1, len(rows) + 1))
            elif not len(known):
                height[rows] = 0.5
            elif self.by == "norm_score":
                width = known.max() - known.min()
                height[rows] = np.nan_to_num((scores - known.min()) / width) if width else 0.5
            else:
                wanted = rows[is_judged[rows]]
                height[wanted] = density_below(known, np.nan_to_num(score[wanted], nan=known.min()))
        return height


def density_below(scores: Floats, values: Floats) -> Floats:
    """The share of the Gaussian kernel density of these scores that lies below each value, with Scott's bandwidth."""
    n = len(scores)
    average = math.fsum(scores) / n
    variance = math.fsum((scores - average) ** 2) / (n - 1) if n > 1 else 0.0
    factor = float(exact.expm1(-exact.log(np.array([float(n)])) / 5)[0]) + 1
    bandwidth = factor * math.sqrt(variance)
    shares = np.empty(len(values))
    for i, value in enumerate(values.tolist()):
        away = value - scores
        away = away / bandwidth if bandwidth else np.sign(away) * _FAR
        shares[i] = math.fsum(_normal(np.clip(away, -_FAR, _FAR))) / n
    return shares


def _normal(x: Floats) -> Floats:
    """The cumulative normal distribution, for numbers from -8 to 8."""
    squared, term = x * x, x
    series = term
    for k in range(1, _TERMS):
        term = term * squared / (2 * k + 1)
        series = series + term
    return 0.5 + series / ((exact.expm1(squared / 2) + 1) * math.sqrt(2 * math.pi))
