"""How hard a document is, by which of many learners got it right: item response theory.

Source: Rasch 1960; the two-parameter model of Birnbaum 1968; marginal maximum likelihood by Bock and Aitkin 1981. A
learner of ability t is right about an item of difficulty b and discrimination a with probability 1 / (1 + exp(-a (t -
b))). Abilities are N(0, 1) and integrated out, over 61 points of Gauss and Hermite: what is maximised is this marginal
likelihood and not the conditional one, whose difficulties say nothing of abilities. Learners are models, checkpoints or
people. Such difficulties as a curriculum: Lalor and Yu 2020, arXiv:2011.00080.

Range: any number, mostly -4 to 4. A high value means harder. Unit: standard deviations of ability; with a document of
difficulty 0 the average learner has an even chance. Checked on simulated responses (tests/rate/test_item_response.py);
no real ones were at hand.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import scipy.sparse

from selector.errors import PolicyError, did_you_mean
from selector.exact import Floats, keyed
from selector.rate import Columns, Fit, Meaning, Pool, Rater, TablePath
from selector.rate._known import LookedUp

Model = Literal["rasch", "2pl"]

_POINTS = 61
_MOST_ROUNDS = 5000  # of expectation and maximisation
_TOLERANCE = 1e-8  # by which a parameter still moves at the end
_MOST_STEP = 1.0  # of Newton's method, so that none goes too far
_SPREAD = 0.5  # of the logarithms of discriminations


@dataclass(frozen=True, kw_only=True)
class ItemResponse(Fit):
    """How hard the document is by the learners' answers, and how much its answer tells of one learner.

    The table has a row for each answer: to which document (`doc_id`), whose (`learner`), and whether it was right
    (`correct`); not every learner needs to have tried every document, and of one who tried it several times each answer
    counts, also where some are right and some wrong. The model `rasch` gives each document a difficulty; `2pl` a
    `discrimination` too, whose logarithm has the prior N(0, 0.5), since with few learners it has no finite maximum;
    with `rasch` it is 1. `information` is a^2 P (1 - P): largest for what is neither too hard nor too
    easy for a learner of this `ability`, or for the `learner` of that name, whose ability is estimated (the posterior's
    mean). A document of which all or none were right has no finite difficulty: not_applicable. One that nobody tried is
    missing.
    """

    sample = 1  # it learns from its table alone
    libraries = ("scipy",)

    responses: Annotated[TablePath, Columns.several(doc_id="doc_id", learner="string", correct="bool")]
    model: Model = "rasch"
    ability: float = 0.0
    learner: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def scores(self, name: str) -> dict[str, Meaning]:
        return {name: "harder", f"{name}_discrimination": "better", f"{name}_information": "better"}

    def fit(self, sample: Pool, seed: int) -> pa.Table:
        answers = Answers.of(self.responses.table)
        items, abilities = fitted(answers, self.model)
        ability = self.ability
        if self.learner is not None:
            if self.learner not in answers.learners:
                hint = did_you_mean(self.learner, answers.learners)
                raise PolicyError(f"item_response.learner: no row of the table is of {self.learner!r}. {hint}")
            ability = float(abilities.means[answers.learners.index(self.learner)])
        columns = (items.difficulty, items.discrimination, items.information(ability))
        mask = np.isnan(items.difficulty)
        known = [pa.array(values, mask=mask) for values in columns]
        return pa.table([answers.doc_ids, *known], names=["doc_id", *self.scores("score")])

    def rater(self, fitted: pa.Table) -> Rater:
        return LookedUp(table=fitted, meanings=self.scores("score"))


@dataclass(frozen=True, kw_only=True)
class Answers:
    """How often each learner was right and wrong about each document: two sparse matrices (learners, documents)."""

    doc_ids: pa.Array  # sorted
    learners: list[str]  # sorted
    right: Any
    wrong: Any

    @classmethod
    def of(cls, table: pa.Table) -> "Answers":
        """The answers of a table with doc_id, learner and correct."""
        table = table.select(["doc_id", "learner", "correct"]).drop_null().combine_chunks()
        ids, item = np.unique(keyed.sortable(table["doc_id"]), return_inverse=True)
        names, learner = np.unique(table["learner"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
        is_right = table["correct"].to_numpy(zero_copy_only=False).astype(np.bool_)
        shape, right = (len(names), len(ids)), is_right.astype(np.float64)
        return cls(
            doc_ids=keyed.ids(ids.view(">u8").reshape(-1, 2).astype(np.uint64)),
            learners=names.tolist(),
            right=scipy.sparse.csr_matrix((right, (learner, item)), shape),
            wrong=scipy.sparse.csr_matrix((1 - right, (learner, item)), shape),
        )


@dataclass(frozen=True, kw_only=True)
class Items:
    """The parameters of documents; NaN where all or none were right."""

    difficulty: Floats
    discrimination: Floats

    def chances(self, abilities: Floats) -> Floats:
        """The probability that a learner of each of these abilities is right, (documents, abilities)."""
        return 1 / (1 + np.exp(-self.discrimination[:, None] * (abilities - self.difficulty[:, None])))

    def information(self, ability: float) -> Floats:
        """What the answer of a learner of this ability tells of it."""
        chance = self.chances(np.array([ability]))[:, 0]
        return self.discrimination**2 * chance * (1 - chance)


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """The learners' abilities, given their answers: means and standard deviations of the posterior."""

    means: Floats
    deviations: Floats
    log_likelihood: float  # of all answers, marginal


def fitted(answers: Answers, model: Model) -> tuple[Items, Abilities]:
    """The parameters of greatest marginal likelihood (of 2pl: of greatest density, with its prior), and the abilities.

    Each round asks how many learners of each ability are expected to have been right about each document, and takes a
    step of Newton's method towards what that makes likeliest.
    """
    num_right, num_wrong = (np.asarray(matrix.sum(axis=0)).ravel() for matrix in (answers.right, answers.wrong))
    is_mixed = (num_right > 0) & (num_wrong > 0)
    right, wrong = answers.right[:, is_mixed], answers.wrong[:, is_mixed]
    nodes, weights = np.polynomial.hermite_e.hermegauss(_POINTS)
    log_weights = np.log(weights / weights.sum())
    items = Items(difficulty=np.zeros(int(is_mixed.sum())), discrimination=np.ones(int(is_mixed.sum())))
    for _ in range(_MOST_ROUNDS):
        posterior, _ = _posterior(right, wrong, items, nodes, log_weights)
        step, items = _stepped(items, right.T @ posterior, wrong.T @ posterior, nodes, model)
        if step < _TOLERANCE:
            break
    posterior, log_likelihood = _posterior(right, wrong, items, nodes, log_weights)
    means = posterior @ nodes
    deviations = np.sqrt(np.maximum(posterior @ nodes**2 - means**2, 0))
    every = np.full((2, len(is_mixed)), np.nan)
    every[:, is_mixed] = items.difficulty, items.discrimination
    return (
        Items(difficulty=every[0], discrimination=every[1]),
        Abilities(means=means, deviations=deviations, log_likelihood=log_likelihood),
    )


def _posterior(right: Any, wrong: Any, items: Items, nodes: Floats, log_weights: Floats) -> tuple[Floats, float]:
    """How likely each learner has each ability, (learners, points); and the logarithm of the whole likelihood."""
    signed = -items.discrimination[:, None] * (nodes - items.difficulty[:, None])
    logs = right @ -np.logaddexp(0, signed) + wrong @ -np.logaddexp(0, -signed) + log_weights
    largest = logs.max(axis=1, keepdims=True)
    joint = np.exp(logs - largest)
    sums = joint.sum(axis=1, keepdims=True)
    return joint / sums, float((largest + np.log(sums)).sum())


def _stepped(items: Items, right: Floats, wrong: Floats, nodes: Floats, model: Model) -> tuple[float, Items]:
    """How far the parameters go in a step of Fisher's scoring, and where to; of expected answers, (documents, points).

    The parameters are the difficulty b and l = log a, so that a stays positive; z = a (t - b).
    """
    slope = items.discrimination[:, None]
    z = slope * (nodes - items.difficulty[:, None])
    chances = items.chances(nodes)
    rest = right - (right + wrong) * chances
    weight = (right + wrong) * chances * (1 - chances)
    towards_b, curved_b = -(slope * rest).sum(axis=1), (slope**2 * weight).sum(axis=1)
    if model == "rasch":
        step_b, step_l = towards_b / curved_b, np.zeros(len(curved_b))
    else:
        log_slope = np.log(items.discrimination)
        towards_l = (rest * z).sum(axis=1) - log_slope / _SPREAD**2
        curved_l = (weight * z**2).sum(axis=1) + 1 / _SPREAD**2
        mixed = -(slope * weight * z).sum(axis=1)
        determinant = curved_b * curved_l - mixed**2
        step_b = (curved_l * towards_b - mixed * towards_l) / determinant
        step_l = (curved_b * towards_l - mixed * towards_b) / determinant
    step_b, step_l = (np.clip(step, -_MOST_STEP, _MOST_STEP) for step in (step_b, step_l))
    moved = Items(difficulty=items.difficulty + step_b, discrimination=items.discrimination * np.exp(step_l))
    return float(max(np.abs(step_b).max(initial=0), np.abs(step_l).max(initial=0))), moved
