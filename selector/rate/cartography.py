"""How sure of a document the model was while it trained, and how much that wavered: a map of a corpus.

Source: Swayamdipta et al. 2020, "Dataset Cartography", arXiv:2009.10795, section 2: the mean and the standard deviation
(ddof 0) over epochs of the probability of the right answer, and in how many epochs it was right. Reported: RoBERTa
trained on the third of SNLI or WinoGrande whose probability varied most did as well within the task and better outside
it; what is easy helps the optimisation, and what is hard is often mislabelled.

Unit: a probability. Range: 0 to 1; of the deviation 0 to 0.5. A high confidence means easier, a high variability better
(most to learn). With losses of a language model it is exp(-loss): with a mean per token, the geometric mean of the
tokens' probabilities. Not measured here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector.rate import Meaning
from selector.rate._curves import Curves, FromTraining


@dataclass(frozen=True, kw_only=True)
class Cartography(FromTraining):
    """How sure the model was of the document over the rounds, how much it wavered, and how often it was right.

    `confidence` is the mean probability of what is right (high: easy), `variability` its standard deviation (high: the
    ambiguous documents, which the paper trains on), `correctness` in how many rounds that probability was at least
    `right_from`, which is far too much for the tokens of a language model: write what it is sure with, e.g. 0.1. Two
    rounds are the least of which a variability means anything; of one it is 0.
    """

    right_from: float = 0.5

    def scores(self, name: str) -> dict[str, Meaning]:
        return {f"{name}_confidence": "easier", f"{name}_variability": "better", f"{name}_correctness": "easier"}

    def signals(self, curves: Curves) -> Mapping[str, pa.Array]:
        probability = curves.probabilities(self.score_is)
        mean = curves.means(probability)
        deviation = np.sqrt(curves.means((probability - np.repeat(mean, curves.lengths)) ** 2))
        right = curves.sums(probability >= self.right_from).astype(np.int64)
        known = dict(zip(self.scores("score"), (mean, deviation, right), strict=True))
        return {name: pa.array(values) for name, values in known.items()}
