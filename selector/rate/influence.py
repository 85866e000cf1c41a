"""How much a step on the document would lower the loss on examples of what is wanted: influence by gradients.

Source: LESS (Xia et al. 2024, arXiv:2402.04333). Influence of z on z' is the sum over checkpoints of the learning rate
(they sum to 1) times the cosine between the step that Adam would take on z and the gradient of z', both projected by
random signs to 8,192 numbers; the mean over the examples of a subtask, and the largest over subtasks. Reported: 5 % of
270,000 instructions so chosen do as well as all on MMLU, TydiQA and BBH, at 6 hours of warm-up and 48 of gradients on
one A100. Successors report defects of the ranking at scale (RDS+, arXiv:2503.01807, beats it).

Unit: a cosine. Range: -1 to 1. A high value: training on it helps with the examples. Measured on planted truth only: of
texts of two made-up languages all of the target's have the larger influence by gradients, and by Adam's steps on
average (0.18 beside 0.14, a model of 5,000 parameters: the moments are most of a step; tests/rate/test_influence.py).
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import Floats, Ints
from selector.models.causal import LIBRARIES, Causal
from selector.models.gradients import Checkpoint
from selector.rate import Columns, Meaning, ModelPath, Rater, Resources, TablePath
from selector.rate._influence import influences, weights_of

_MOST_DIMENSION = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Influence(Rater):
    """How well the step that training would take on the document agrees with what the `target` needs (LESS).

    `checkpoints` are folders of causal language models, saved while one model trained on some of the corpus, and
    `rates` the mean learning rate up to each. With `adam.safetensors` in a folder (`selector.models.gradients.
    save_moments`) the step is Adam's, without it the gradient itself. The target is a table with `text` and `subtask`;
    the score is the mean over a subtask's examples, the largest over subtasks, and `<name>_subtask` says of which.
    `parameters`, a regular expression, says which of the model's count: all, or those of its last layers, or adapters.
    With `prompt` and `response`, columns of the corpus, only the response's tokens count, as in tuning; prompts are
    joined by line ends, and the target has a column `prompt` beside `text`, which is the response then. A text is cut
    at `max_tokens` (left out, as many as the model reads, at most 2,048); one of fewer than two tokens is
    not_applicable. A worker holds all checkpoints, on its GPU where it has one, and a document costs a pass backward at
    each of them and `dimension` signs for every parameter: a few million parameters on a CPU, more on a GPU.
    """

    libraries = LIBRARIES
    resources = Resources(gpus=1, documents=512)

    checkpoints: tuple[ModelPath, ...]
    rates: tuple[float, ...]
    target: Annotated[TablePath, Columns(text="string", subtask="string")]
    prompt: tuple[str, ...] = ()
    response: str | None = None
    parameters: str = ""
    dimension: int = 8192
    max_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.rates) != len(self.checkpoints) or not self.rates:
            raise PolicyError(
                f"influence: there are {len(self.checkpoints)} checkpoints and {len(self.rates)} rates. Write the mean "
                "learning rate of each checkpoint, e.g. rates: [2e-5, 1e-5]."
            )
        if not all(0 < rate < np.inf for rate in self.rates):
            raise PolicyError(f"influence.rates={list(self.rates)}: a learning rate is above 0 and finite.")
        if not 1 <= self.dimension <= _MOST_DIMENSION or (self.max_tokens is not None and self.max_tokens < 2):
            raise PolicyError(
                f"influence: dimension={self.dimension} is not from 1 to {_MOST_DIMENSION:,}, or max_tokens="
                f"{self.max_tokens} is below 2. Write e.g. dimension: 8192, max_tokens: 512."
            )
        if bool(self.prompt) != (self.response is not None):
            raise PolicyError(
                "influence: write both columns or neither: {prompt: [instruction, input], response: output}."
            )
        try:
            re.compile(self.parameters)
        except re.error as error:
            raise PolicyError(
                f"influence.parameters: {self.parameters!r} is no regular expression: {error}. Write e.g. 'lm_head'."
            ) from error

    @property
    def needs(self) -> tuple[str, ...]:
        return ("text",) if self.response is None else tuple(f"corpus.{name}" for name in (*self.prompt, self.response))

    @property
    def table_columns(self) -> Mapping[str, Columns]:
        """The columns that the target must have."""
        beside = {} if self.response is None else {"prompt": "string"}
        return {"target": Columns(text="string", subtask="string", **beside)}

    def scores(self, name: str) -> dict[str, Meaning]:
        return {name: "closer", f"{name}_subtask": "label"}

    def check(self) -> None:
        for checkpoint in self._models:
            checkpoint.model.check()
            checkpoint.model.window(self.max_tokens)

    def prepare(self) -> None:
        super().prepare()
        assert self._wanted is not None

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts, prompts = self._parts(batch)
        tasks, task_names, features = self._wanted
        cosines, has_one = np.zeros((len(texts), len(tasks))), np.zeros(len(texts), np.bool_)
        for weight, model, wanted in zip(weights_of(self.rates), self._models, features, strict=True):
            first = 0
            for exists, unit in model.updates(model.windows(texts, prompts)):
                for i, vector in enumerate(unit, first):
                    cosines[i] += weight * (wanted @ vector)  # one by one: beside others it might round differently
                has_one[first : first + len(exists)] = exists
                first += len(exists)
        by_task = influences(cosines, tasks)
        is_finite = np.asarray(np.isfinite(by_task).all(axis=1), np.bool_)
        by_task = np.where(is_finite[:, None], by_task, 0)
        best = by_task.argmax(axis=1) if len(texts) else np.empty(0, np.int64)
        score = by_task[np.arange(len(texts)), best]
        states = np.where(has_one, np.where(is_finite, "ok", "failed"), "not_applicable")
        mask = states != "ok"
        state_column = pa.array(states, pa.string())
        return pa.record_batch(
            {
                "score": pa.array(score, mask=mask),
                "score_subtask": pa.array(task_names, pa.string()).take(pa.array(best, mask=mask)),
                "score.state": state_column,
                "score_subtask.state": state_column,
            }
        )

    def _parts(self, batch: pa.RecordBatch) -> tuple[list[str], list[str] | None]:
        """The texts whose tokens count, and what comes before each, if anything does."""
        columns = [[one if isinstance(one, str) else "" for one in batch[name].to_pylist()] for name in self.needs]
        if self.response is None:
            return columns[0], None
        before = ["\n".join(part for part in parts if part) for parts in zip(*columns[:-1], strict=True)]
        return columns[-1], [f"{one}\n" for one in before]

    @functools.cached_property
    def _models(self) -> tuple[Checkpoint, ...]:
        return tuple(
            Checkpoint(
                model=Causal(
                    folder=str(path), device=path.device, planned=path.planned,
                    where=path.where or "influence.checkpoints",
                ),
                max_tokens=self.max_tokens, parameters=self.parameters, dimension=self.dimension, seed=self.seed,
            )
            for path in self.checkpoints
        )  # fmt: skip

    @functools.cached_property
    def _wanted(self) -> tuple[Ints, list[str], list[Floats]]:
        """The examples' subtasks, the names of these, and at each checkpoint the examples' features."""
        table = self.target.table.drop_null()
        names, tasks = np.unique(np.array(table["subtask"].to_pylist(), np.str_), return_inverse=True)
        features, used = list[Floats](), np.empty(0, np.bool_)
        for model in self._models:
            prompts = None if self.response is None else [f"{one}\n" for one in table["prompt"].to_pylist()]
            pairs = list(model.gradients(model.windows(table["text"].to_pylist(), prompts)))
            exists = np.concatenate([np.empty(0, np.bool_), *(exists for exists, _ in pairs)])
            if not exists.any():
                raise PolicyError("influence.target: no text of the table has two tokens or more.")
            features.append(np.concatenate([unit for _, unit in pairs])[exists])
            used = exists  # the same at every checkpoint that cuts texts into the same tokens
        kept, task = np.unique(tasks[used], return_inverse=True)
        return task, names[kept].tolist(), features
