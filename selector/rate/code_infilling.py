"""How hard it is for a model to fill in the parts of a program: its branches, definitions and calls.

Source: curricula of code completion that look for patterns which are hard to complete, by a syntax tree (Sagtani et al.
2024, arXiv:2412.16589, "Improving FIM code completions via context & curriculum based learning"); fill-in-the-middle is
that of Bavarian et al. 2022, arXiv:2207.14255. Some parts of a program are taken out, one at a time, and the model is
given what is before and after: prefix, suffix, middle. Measured here: nothing against people, since no pretrained model
can be loaded where the tests run.

Unit: nats a token. Range: 0 or more. A high value means harder: the part does not follow from the rest.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import Ints
from selector.models.causal import Window
from selector.rate import ModelPath
from selector.rate._code import LIBRARIES as CODE
from selector.rate._code import Language, parser_of
from selector.rate._model import Modelled, Precision, answer, ratio, texts_of

_FEWEST_WINDOW = 16  # tokens


@dataclass(frozen=True, kw_only=True)
class CodeInfilling(Modelled):
    """The mean loss of a program's parts, each given what stands before and after it.

    `parts` says which nodes of the syntax tree are taken out, and `most` how many of a text: if there are more, some at
    even distances. `marks` are the model's own tokens before prefix, suffix and middle; other models write
    `<fim_prefix>` and so on. A part is cut to half of a window, and what is around it to the rest, near the part first.
    A text that is no program of the language, or that has no such part, has no score.
    """

    higher_is = "harder"
    libraries = (*Modelled.libraries, *CODE)

    model: ModelPath
    language: Language = "python"
    parts: tuple[Literal["branches", "definitions", "calls"], ...] = ("branches", "definitions", "calls")
    most: int = 8
    marks: tuple[str, str, str] = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
    max_tokens: int | None = None
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if self.most < 1 or not self.parts:
            raise PolicyError(f"code_infilling takes {self.most} of the parts {list(self.parts)}: name one at least.")
        if self.max_tokens is not None and self.max_tokens < _FEWEST_WINDOW:
            raise PolicyError(
                f"code_infilling.max_tokens is {self.max_tokens}: below {_FEWEST_WINDOW} a part has nothing around it."
            )

    def check(self) -> None:
        super().check()
        assert parser_of(self.language, "code_infilling") is not None
        vocabulary = self.models["model"].vocabulary
        missing = [mark for mark in self.marks if mark not in vocabulary]
        if missing:
            raise PolicyError(
                f"code_infilling.marks: the model has no token {missing[0]!r}. Write its tokens before prefix, suffix"
                " and middle, or take a model that was trained to fill in."
            )

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        parser, pieces, owners = parser_of(self.language, "code_infilling"), list[tuple[str, str, str]](), list[int]()
        for i, text in enumerate(texts_of(batch)):
            spans = parser.spans(text)
            code = text.encode()
            for first, end in [] if spans is None else _chosen([spans[part] for part in self.parts], self.most):
                cut = (code[:first], code[first:end], code[end:])
                before, part, after = (piece.decode("utf-8", "replace") for piece in cut)
                pieces.append((before, part, after))
                owners.append(i)
        windows, kept = self._windows(pieces, owners)
        sums, counted = np.zeros(batch.num_rows), np.zeros(batch.num_rows, np.int64)
        np.add.at(sums, kept, self.models["model"].losses(windows))
        np.add.at(counted, kept, np.array([len(window.tokens) - window.first for window in windows], np.int64))
        return answer(ratio(sums, counted))

    def _windows(self, pieces: list[tuple[str, str, str]], owners: list[int]) -> tuple[list[Window], Ints]:
        """A window for each part that has a token, and the text of each window."""
        model = self.models["model"]
        begins, width = model.begins, model.window(self.max_tokens)
        prefix, suffix, middle = (model.vocabulary[mark] for mark in self.marks)
        windows, kept = list[Window](), list[int]()
        tokens = [model.tokens([piece[k] for piece in pieces]) for k in range(3)]
        for owner, before, part, after in zip(owners, *tokens, strict=True):
            part = part[: width // 2]
            if not part:
                continue
            room = width - len(begins) - 3 - len(part)
            num_after = min(len(after), max(room // 2, room - len(before)))
            before = before[max(0, len(before) - (room - num_after)) :]
            around = (*begins, prefix, *before, suffix, *after[:num_after], middle)
            windows.append(Window((*around, *part), len(around)))
            kept.append(owner)
        return windows, np.array(kept, np.int64)


def _chosen(spans: list[Ints], most: int) -> list[tuple[int, int]]:
    """At most so many of the spans, at even distances among all in the order in which they stand."""
    whole = np.unique(np.concatenate(spans), axis=0)
    places = np.unique(np.linspace(0, len(whole) - 1, min(most, len(whole))).round().astype(np.int64))
    return [(int(first), int(end)) for first, end in whole[places]]
