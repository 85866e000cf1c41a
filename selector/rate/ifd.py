"""How much an instruction helps a model to foresee its answer: instruction-following difficulty.

Source: Cherry LLM (Li et al. 2024, arXiv:2308.12032) and Superfiltering (arXiv:2402.00530): the perplexity of the
answer given the prompt, by that of the answer alone; examples at 1 or more are left out (the prompt does not help), and
of the others those with the highest are chosen. A GPT-2 of 124M ranks like a 7B model at a twentieth of the time.
Measured here: nothing against people, since no pretrained model can be loaded where the tests run.

Unit: a quotient of perplexities. Range: above 0. A high value means harder: the prompt helps little.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import Floats
from selector.models.causal import Window
from selector.rate import ModelPath
from selector.rate._model import Modelled, Precision, answer, ratio

_ANSWERERS = ("assistant", "gpt", "model", "bot")


@dataclass(frozen=True, kw_only=True)
class Ifd(Modelled):
    """The perplexity of the answer given the prompt, by that of the answer alone.

    Prompt and answer are columns of the corpus (`prompt`, which may be several, and `response`), or the turns of a chat
    (`messages`: the last answer, and all before it). They are tokenised apart, with `between` at the end of the prompt.
    The answer's first token has no prediction where nothing is before it, so it counts in neither (unless the tokenizer
    puts a token before every text). A prompt that is too long loses its beginning; an answer is cut so that half of a
    window is left to its prompt. `of: losses` divides losses instead of perplexities. A document without an answer of
    two tokens, or without a prompt, is not_applicable.
    """

    higher_is = "harder"

    model: ModelPath
    prompt: tuple[str, ...] = ()
    response: str | None = None
    messages: str | None = None
    between: str = "\n"
    of: Literal["perplexities", "losses"] = "perplexities"
    max_tokens: int | None = None
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.response is None) or bool(self.prompt) != (self.response is not None):
            raise PolicyError(
                "ifd: write which columns hold prompt and answer: {prompt: [instruction, input], response: output}, or"
                " {messages: conversations}."
            )

    @property
    def needs(self) -> tuple[str, ...]:
        columns = (*self.prompt, self.response) if self.messages is None else (self.messages,)
        return tuple(f"corpus.{column}" for column in columns)

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        pairs = self._from_columns(batch) if self.messages is None else self._from_chats(batch)
        model = self.models["model"]
        width = model.window(self.max_tokens)
        prompts = model.tokens([prompt + self.between if prompt.strip() else "" for prompt, _ in pairs])
        answers = model.tokens([response for _, response in pairs])
        begins = model.begins
        alone: list[Window] = []
        given: list[Window] = []
        num_counted = np.zeros(len(pairs), np.int64)
        for i, (prompt, response) in enumerate(zip(prompts, answers, strict=True)):
            response = response[: width // 2]
            first = 0 if begins else 1  # of the answer's tokens that have a prediction in both
            if not prompt or len(response) <= first:
                continue
            prompt = prompt[-(width - len(begins) - len(response)) :]
            alone.append(Window((*begins, *response), len(begins) + first))
            given.append(Window((*begins, *prompt, *response), len(begins) + len(prompt) + first))
            num_counted[i] = len(response) - first
        losses = model.losses([*alone, *given])
        whole: Floats = np.zeros((2, len(pairs)))
        whole[:, num_counted > 0] = losses.reshape(2, -1)
        without, with_prompt = (ratio(sums, num_counted) for sums in whole)
        if self.of == "losses":
            return answer(ratio(with_prompt, without))
        with np.errstate(over="ignore"):  # an infinite one has failed
            return answer(np.exp(with_prompt - without))

    def _from_columns(self, batch: pa.RecordBatch) -> list[tuple[str, str]]:
        *prompts, responses = ([_text(value) for value in batch[name].to_pylist()] for name in self.needs)
        joined = ("\n".join(part for part in parts if part) for parts in zip(*prompts, strict=True))
        return list(zip(joined, responses, strict=True))

    def _from_chats(self, batch: pa.RecordBatch) -> list[tuple[str, str]]:
        return [_last_answer(value) for value in batch[self.needs[0]].to_pylist()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _last_answer(chat: Any) -> tuple[str, str]:
    """What comes before the last answer of a chat, and that answer; nothing where it is no chat, or has no answer."""
    if isinstance(chat, str):
        try:
            chat = json.loads(chat)
        except ValueError:
            return "", ""
    if not isinstance(chat, list):
        return "", ""
    turns: list[tuple[str, str]] = []
    for message in cast(list[Any], chat):
        if isinstance(message, dict):
            fields = cast(dict[str, Any], message)
            turns.append(
                (_text(fields.get("role", fields.get("from"))), _text(fields.get("content", fields.get("value"))))
            )
    for i in reversed(range(len(turns))):
        if turns[i][0] in _ANSWERERS:
            return "\n".join(f"{role}: {content}" for role, content in turns[:i]), turns[i][1]
    return "", ""
