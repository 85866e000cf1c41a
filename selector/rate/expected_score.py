"""The mark that a language model would give a text, as the mean over all marks it may say next.

Source: DEITA (Liu et al. 2024, arXiv:2312.15685): scorers of complexity and of quality say a digit from 1 to 6, and the
score is the sum of k times the probability of k among the six. (Their code says 3.0 where a digit has no token of its
own; that is refused here.) They report an MT-Bench of 7.22 from 6,000 chosen examples, beside 5.89 of 10,000 random
ones. Measured here: nothing against people, since no pretrained model can be loaded where the tests run.

Unit: the marks. Range: from the least to the greatest of them; the middle where the model does not know. A high value
means what `higher_is` says.
"""

import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.rate import Meaning, ModelPath
from selector.rate._model import Modelled, Precision, answer, check_number, texts_of

_TEXT = "{text}"


@dataclass(frozen=True, kw_only=True)
class ExpectedScore(Modelled):
    """The expected mark after a question about the text: the sum of each mark times its probability among all marks.

    `question` is what the model was trained to answer, with {text} where the document goes; the mark is the next token.
    A text that does not fit loses its end. The marks are `least` to `most`, each a token of its own. An empty text is
    not_applicable.
    """

    model: ModelPath
    question: str
    higher_is: Meaning = "better"
    least: int = 1
    most: int = 6
    max_tokens: int | None = None
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        check_number("expected_score", self.higher_is)
        if self.question.count(_TEXT) != 1:
            raise PolicyError(f"expected_score.question: write {_TEXT} once, where the document goes.")
        if not 0 <= self.least < self.most <= 9:
            raise PolicyError("expected_score: least and most are digits, the first below the second.")

    def check(self) -> None:
        super().check()
        assert self._marks
        if self._room < 1:
            raise PolicyError("expected_score: the question leaves no room for a text. Raise max_tokens.")

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        model, texts = self.models["model"], texts_of(batch)
        before, after = self._around
        room = self._room
        questions = [[*model.begins, *before, *tokens[:room], *after] for tokens in model.tokens(texts)]
        logits = model.next_words(questions, self._marks)
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        expected = chances @ np.arange(self.least, self.most + 1) / chances.sum(axis=1)
        is_nothing = np.array([not text.strip() for text in texts], bool)
        return answer(np.where(is_nothing, np.nan, expected))

    @functools.cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """The tokens of the question before and after the text."""
        before, after = self.models["model"].tokens(self.question.split(_TEXT))
        return before, after

    @property
    def _room(self) -> int:
        """How many tokens of a text there is room for."""
        model = self.models["model"]
        return model.window(self.max_tokens) - len(model.begins) - sum(map(len, self._around))

    @functools.cached_property
    def _marks(self) -> tuple[int, ...]:
        model = self.models["model"]
        marks = tuple(model.token_of(str(mark)) for mark in range(self.least, self.most + 1))
        if len(set(marks)) < len(marks):
            raise PolicyError(f"expected_score: the tokenizer of {self.model} has one token for several marks.")
        return marks
