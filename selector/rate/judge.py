"""Which of two texts a language model prefers, asked in both orders: the share of comparisons that a document wins.

Source: QuRating (Wettig et al. 2024, arXiv:2402.09739): four criteria, pairs in both orders, p = (p forward + 1 - p
backward) / 2, where each p is the share of answers for the text that is shown first; a pair counts as missing where
fewer than half of the answers of either order can be read. They judged 250,000 pairs by GPT-3.5 with 20 answers an
order and trained a rater on them; the judge agreed with people on 92 to 97 % of clear pairs. The questions here are
worded by us, and so are the opponents: a few documents that are drawn from the corpus, the same for all.

Unit: a share of comparisons with the opponents that the document wins. Range: 0 to 1. A high value means better (of
required expertise: harder). Not measured: no such model can be asked where the tests run. To rate a large corpus, judge
a sample and learn from that: `selector fit-rater`.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.engine.step import APART
from selector.errors import PolicyError
from selector.exact import Floats, keyed
from selector.models.judge import Answers, Client, Failure, Question
from selector.rate import Endpoint, Fit, HigherIs, Meaning, Pool, Rater, Resources

Criterion = Literal["writing_style", "required_expertise", "facts_and_trivia", "educational_value"]

_CRITERIA: dict[str, str] = {
    "writing_style": "Which of the two is better written? Think of clear sentences, well-chosen words, a thread that"
    " holds the text together, and care for detail.",
    "required_expertise": "Which of the two asks for more expertise? Think of how much a reader has to have learned, or"
    " practised, to follow it.",
    "facts_and_trivia": "Which of the two holds more facts? Think of names, numbers, events and other details that"
    " could be looked up; rare ones count as well.",
    "educational_value": "Which of the two would teach a learner more? Think of explanations, worked steps and"
    " questions that lead on, as in good teaching material.",
}
_SYSTEM = (
    "You compare two excerpts. Judge them by the question alone: neither the language, nor the length, nor which of"
    " them comes first may count. Answer with one letter, A or B, and nothing else."
)
_CHARACTERS_OF_A_TOKEN = 4  # about, in English
_LEAST_READ = 0.5  # of the answers of each order


@dataclass(frozen=True, kw_only=True)
class Judge(Fit):
    """For each criterion the share of comparisons with drawn documents that the document wins, by a model elsewhere.

    Every document is compared with `opponents` documents of the corpus, in both orders, `answers` times each; the model
    is asked 2 x opponents x criteria questions a document. The run says how many that will be, and about how many
    tokens, before it asks the first one (`most_questions` stops it there). Only the first `most_characters` of a text
    are shown. Scores are called `<name>_<criterion>`; `<name>_disagreement` is how much the two orders differ, over all
    criteria. Where too few answers can be read a score is missing, where the server gave none it has failed: `selector
    run --retry-failed` asks for those again. Answers are kept below the root and asked for once; the comparisons are
    written there too, a file for each criterion, as `selector fit-rater` reads them: the run says where.

    `per_minute` is a limit of questions for all workers together; `key_variable` names the environment variable that
    holds the key, on every worker.
    """

    sample = 4096
    resources = Resources(documents=64)

    endpoint: Endpoint
    model: str
    criteria: tuple[Criterion, ...] = ("educational_value",)
    opponents: int = 4
    answers: int = 1
    temperature: float = 0.0
    most_characters: int = 2000
    most_questions: int | None = field(default=None, metadata=APART)
    per_minute: float | None = field(default=None, metadata=APART)
    parallel: int = field(default=8, metadata=APART)
    retries: int = field(default=5, metadata=APART)
    timeout: float = field(default=120.0, metadata=APART)
    key_variable: str = field(default="OPENAI_API_KEY", metadata=APART)

    def __post_init__(self) -> None:
        if not self.criteria or self.opponents < 1 or self.answers < 1 or self.most_characters < 1:
            raise PolicyError("judge: criteria, opponents, answers and most_characters are at least one.")

    def scores(self, name: str) -> dict[str, Meaning]:
        return _scores(name, self.criteria)

    def fit(self, sample: Pool, seed: int) -> pa.Table:
        """The opponents: those documents whose ids, hashed with the seed, come first."""
        best: list[tuple[int, bytes, str]] = []
        for batch in sample.batches("doc_id", "text"):
            hashes = keyed.hashes(batch["doc_id"], seed, "opponents").tolist()
            best += zip(hashes, batch["doc_id"].to_pylist(), batch["text"].to_pylist(), strict=True)
            best = sorted(best)[: self.opponents]
        texts = [text[: self.most_characters] for _, _, text in best]
        return pa.table({"text": pa.array(texts, pa.string())})

    def cost(self, num_documents: int) -> str:
        num = 2 * self.opponents * len(self.criteria) * num_documents
        if self.most_questions is not None and num > self.most_questions:
            raise PolicyError(
                f"judge.most_questions is {self.most_questions:,}, and {num_documents:,} documents take up to {num:,}"
                " questions. Raise it, or lower opponents, or criteria, or judge a sample and learn from that."
            )
        tokens = num * (2 * self.most_characters + len(_SYSTEM) + 200) // _CHARACTERS_OF_A_TOKEN
        hours = f", in {num / self.per_minute / 60:.1f} hours or more" if self.per_minute else ""
        return (
            f"up to {num:,} questions to {self.model} ({num_documents:,} documents, {self.opponents} opponents,"
            f" 2 orders, {len(self.criteria)} criteria), of at most {tokens:,} tokens in and"
            f" {num * self.answers * 8:,} out{hours}; what was answered before is not asked again"
        )

    def rater(self, fitted: pa.Table) -> Rater:
        return _Judged(judge=self, opponents=tuple(fitted["text"].to_pylist()))


@dataclass(frozen=True, kw_only=True)
class _Judged(Rater):
    """Comparisons with these opponents."""

    resources = Resources(documents=64)

    judge: Judge = field(repr=False)
    opponents: tuple[str, ...]

    def scores(self, name: str) -> dict[str, Meaning]:
        return _scores(name, self.judge.criteria)

    def prepare(self) -> None:
        self._client.check()

    @functools.cached_property
    def _client(self) -> Client:
        judge = self.judge
        return Client(
            address=str(judge.endpoint), storage=judge.endpoint.storage, per_minute=judge.per_minute,
            parallel=judge.parallel, retries=judge.retries, timeout=judge.timeout, key_variable=judge.key_variable,
        )  # fmt: skip

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        num_criteria, num_opponents = len(self.judge.criteria), len(self.opponents)
        texts = self._shown(batch)
        chances, disagreement, has_failed = self._compared(texts, self._client.answers)
        columns: dict[str, pa.Array] = {}
        lost = np.asarray(has_failed.any(axis=(2, 3)))
        gaps = disagreement.reshape(len(texts), num_criteria * num_opponents)
        for k, name in enumerate(self.scores("score")):
            of_each = chances[:, k] if k < num_criteria else gaps
            failed = lost[:, k] if k < num_criteria else lost.sum(axis=1) > 0
            values = _means(of_each)
            state = np.where(failed, "failed", np.where(np.isnan(values), "missing", "ok"))
            columns[name] = pa.array(values, mask=state != "ok")
            columns[f"{name}.state"] = pa.array(state)
        return pa.record_batch(columns)

    def pairs(self, batch: pa.RecordBatch) -> pa.Table:
        """Each comparison that could be read, of a document with an opponent that is another text."""
        texts = self._shown(batch)
        chances, disagreement, _ = self._compared(texts, self._client.known)
        is_pair = ~np.isnan(chances)
        is_pair &= (np.array(texts, object)[:, None] != np.array(self.opponents, object))[:, None, :]
        document, criterion, opponent = (pa.array(places) for places in np.nonzero(is_pair))
        return pa.table(
            {
                "criterion": pa.array(self.judge.criteria, pa.string()).take(criterion),
                "first": pa.array(texts, pa.string()).take(document),
                "second": pa.array(self.opponents, pa.string()).take(opponent),
                "better": chances[is_pair],
                "disagreement": disagreement[is_pair],
            },
            schema=tables.PAIRS,
        )

    def _shown(self, batch: pa.RecordBatch) -> list[str]:
        """What the model is shown of each text."""
        return ["" if text is None else text[: self.judge.most_characters] for text in batch["text"].to_pylist()]

    def _compared(
        self, texts: Sequence[str], ask: Callable[[Sequence[Question]], list[Answers]]
    ) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
        """Of each text by each criterion with each opponent: the chance that it is the better one, how much the two
        orders differ, and in which of them no answer came."""
        questions = [
            self._question(criterion, *pair)
            for text in texts
            for criterion in self.judge.criteria
            for opponent in self.opponents
            for pair in ((text, opponent), (opponent, text))
        ]
        answers = ask(questions)
        shape = (len(texts), len(self.judge.criteria), len(self.opponents), 2)
        firsts = np.array([first_share(answer, self.judge.answers) for answer in answers], np.float64).reshape(shape)
        has_failed = np.array([isinstance(answer, Failure) for answer in answers], bool).reshape(shape)
        chances = (firsts[..., 0] + 1 - firsts[..., 1]) / 2
        return chances, np.abs(firsts[..., 0] - (1 - firsts[..., 1])), has_failed

    def _question(self, criterion: str, first: str, second: str) -> Question:
        user = f"{_CRITERIA[criterion]}\n\nExcerpt A:\n<<<\n{first}\n>>>\n\nExcerpt B:\n<<<\n{second}\n>>>\n\nA or B?"
        return Question(
            model=self.judge.model, system=_SYSTEM, user=user, num_answers=self.judge.answers,
            temperature=self.judge.temperature,
        )  # fmt: skip


def _scores(name: str, criteria: Sequence[str]) -> dict[str, Meaning]:
    meanings: dict[str, HigherIs] = {"required_expertise": "harder"}
    scores: dict[str, Meaning] = {f"{name}_{criterion}": meanings.get(criterion, "better") for criterion in criteria}
    return {**scores, f"{name}_disagreement": "harder"}


def first_share(answers: Answers, wanted: int) -> float:
    """The share of the answers for the text that is shown first; NaN where fewer than half of those that were wanted
    can be read."""
    if isinstance(answers, Failure):
        return float("nan")
    read = [letter for letter in map(_letter, answers) if letter is not None]
    return (
        sum(letter == "A" for letter in read) / len(read)
        if len(read) >= _LEAST_READ * wanted and read
        else float("nan")
    )


def _letter(answer: str) -> str | None:
    """A or B, where an answer names one of them and not the other."""
    letters = set(re.findall(r"\b[AB]\b", answer))
    return letters.pop() if len(letters) == 1 else None


def _means(values: Floats) -> Floats:
    """The mean of each row over what there is; NaN where that is less than half."""
    known = ~np.isnan(values)
    num = known.sum(axis=1)
    sums = np.where(known, values, 0).sum(axis=1)
    return np.divide(sums, num, out=np.full(len(values), np.nan), where=num * 2 >= max(values.shape[1], 1))
