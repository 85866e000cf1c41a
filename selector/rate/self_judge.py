"""How far a model is from a reference answer, by its own mark of what it answered and by how alike the two answers are.

Source: self-evaluation by a model is known to be too kind, and to be put right by how alike its answer is to a
reference ("semantic similarity recalibration"); no formula of that was found published, so THIS ONE IS OURS: with the
mark m that the model gives its own answer, 0 to 10, and the cosine s of the embeddings of its answer and the reference,
0 where it is negative, difficulty is 1 - (m / 10) * s. A model that is sure of an answer unlike the reference finds the
document as hard as one that is not sure of an answer like it. Not measured: no such model can be asked where the tests
run.

Unit: a share. Range: 0 to 1. A high value means harder: for this model.
"""

import functools
import re
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from selector.engine.step import APART
from selector.errors import PolicyError
from selector.models.causal import LIBRARIES
from selector.models.encoder import Encoder
from selector.models.judge import Answers, Client, Failure, Question
from selector.rate import Endpoint, Meaning, ModelPath, Rater, Resources

_MARK = (
    "Mark the answer below to the task below, from 0 (wrong or useless) to 10 (right and complete). Reply with the"
    " number and nothing else.\n\nTask:\n<<<\n{task}\n>>>\n\nAnswer:\n<<<\n{answer}\n>>>\n\nMark:"
)
_MOST = 10
_SIMILARITY = ModelPath("all-MiniLM-L6-v2")


@dataclass(frozen=True, kw_only=True)
class SelfJudge(Rater):
    """1 less the product of a model's mark of its own answer and how alike that is to the reference answer.

    The model at the endpoint answers the column `prompt`, then marks its answer without seeing the reference, which is
    the column `response`; `similarity` is the embedding model that compares the two. `<name>_mark` and
    `<name>_similarity` are given beside the score. Two questions a document; they are kept, limited and asked again as
    those of `judge`. Where there is no prompt or no reference it is not_applicable, where the mark cannot be read
    missing, where the server gave no answer failed.
    """

    libraries = (*LIBRARIES, "sentence-transformers")
    is_exact = False
    resources = Resources(documents=64)

    endpoint: Endpoint
    model: str
    prompt: str
    response: str
    similarity: ModelPath = _SIMILARITY
    most_tokens: int = 512
    per_minute: float | None = field(default=None, metadata=APART)
    parallel: int = field(default=8, metadata=APART)
    retries: int = field(default=5, metadata=APART)
    timeout: float = field(default=120.0, metadata=APART)
    key_variable: str = field(default="OPENAI_API_KEY", metadata=APART)

    def __post_init__(self) -> None:
        if self.most_tokens < 1:
            raise PolicyError("self_judge.most_tokens is at least 1.")

    @property
    def needs(self) -> tuple[str, ...]:
        return (f"corpus.{self.prompt}", f"corpus.{self.response}")

    def scores(self, name: str) -> dict[str, Meaning]:
        return {name: "harder", f"{name}_mark": "better", f"{name}_similarity": "closer"}

    def prepare(self) -> None:
        self._encoder.load()
        self._client.check()

    @functools.cached_property
    def _client(self) -> Client:
        return Client(
            address=str(self.endpoint), storage=self.endpoint.storage, per_minute=self.per_minute,
            parallel=self.parallel, retries=self.retries, timeout=self.timeout, key_variable=self.key_variable,
        )  # fmt: skip

    @functools.cached_property
    def _encoder(self) -> Encoder:
        return Encoder.of(str(self.similarity), device="cpu", precision="float32")

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        prompts, references = (
            [value if isinstance(value, str) else "" for value in batch[need].to_pylist()] for need in self.needs
        )
        is_given = np.array([bool(a.strip() and b.strip()) for a, b in zip(prompts, references, strict=True)], bool)
        places = np.flatnonzero(is_given).tolist()
        answers = self._client.answers(
            [Question(model=self.model, user=prompts[i], most_tokens=self.most_tokens) for i in places]
        )
        own = {i: answer[0] for i, answer in zip(places, answers, strict=True) if not isinstance(answer, Failure)}
        marked = self._client.answers(
            [Question(model=self.model, user=_MARK.format(task=prompts[i], answer=answer)) for i, answer in own.items()]
        )
        marks, alike = np.full(len(prompts), np.nan), np.full(len(prompts), np.nan)
        states = np.where(is_given, "failed", "not_applicable").astype(object)
        for i, answer in zip(own, marked, strict=True):
            mark = _mark(answer)
            states[i] = "failed" if isinstance(answer, Failure) else "missing" if mark is None else "ok"
            marks[i] = np.nan if mark is None else mark
        ours, theirs = (self._encoder.encode(texts) for texts in (list(own.values()), [references[i] for i in own]))
        alike[list(own)] = np.clip((ours.astype(np.float64) * theirs).sum(axis=1), 0, 1)
        is_missing = states != "ok"
        columns = {"score": 1 - marks / _MOST * alike, "score_mark": marks, "score_similarity": alike}
        arrays = {name: pa.array(values, mask=is_missing) for name, values in columns.items()}
        return pa.record_batch({**arrays, "state": pa.array(states.tolist(), pa.string())})


def _mark(answer: Answers) -> float | None:
    """The first number of an answer, if it is a mark."""
    if isinstance(answer, Failure):
        return None
    number = re.search(r"\d+(?:\.\d+)?", answer[0])
    return float(number[0]) if number is not None and float(number[0]) <= _MOST else None
