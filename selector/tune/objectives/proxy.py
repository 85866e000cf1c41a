"""How well small language models that are trained on the manifest, in its order, foretell held-out text."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa

from selector.consume.dataset import ManifestDataset
from selector.engine import alive
from selector.errors import PolicyError, SelectorError
from selector.exact.rates import Decay, Schedule
from selector.models import decoder
from selector.models.decoder import Decoder, Stream
from selector.plugins import attached
from selector.plugins.options import ArtefactPath, Columns
from selector.tune.objectives import Better, Objective, Trial, answer

_AT_ONCE = 1024  # visits of a batch that is read
_FLOOR = "15M"


@dataclass(frozen=True, kw_only=True)
class Proxy(Objective):
    """Bits per byte of held-out documents, by decoder-only models of bytes that are trained on the manifest.

    Each of `sizes` (0.3M, 1.3M, 5M, 15M, 60M, 150M parameters) is a scale, and each of `learning_rates` by each of
    `schedules` (constant, linear, cosine, wsd) a setting: a winner has to win at all of them. A model sees the manifest
    once, in its order, repeated visits and `loss_weight` included, as rows of `context` bytes, `rows_per_step` of them
    in a step. The rate rises over the share `warmup` of the steps and falls to the share `final`; the model is the mean
    of the last `averaged` checkpoints, which lie a hundredth of the steps apart. Of a held-out document the first
    `evaluated` bytes count. The seed of the study draws the weights. A manifest of more than `most_bytes` is refused.

    `answers`, a table of `prompt` and `answer`, gives the metric `answers`: bits per byte of an answer after its
    prompt, the mean over the rows. Likelihoods tell policies apart where the accuracy of such models does not
    (DataDecide, arXiv 2504.11393). Where no size reaches 15M parameters, ranks show that the protocol works, and not
    which policy is better: rank correlations with large models are .73 at 1 M and above .89 from 15 M (Olmix). One
    learning rate for all arms turns ranks around (arXiv 2512.24503), which is why there are two.
    """

    libraries: ClassVar[tuple[str, ...]] = decoder.LIBRARIES
    is_apart: ClassVar[bool] = True

    # Of these, scale and setting of a trial say which one it has: its evidence holds whatever others there are.
    sizes: tuple[str, ...] = field(default=("0.3M", "1.3M", "5M"), metadata={"apart": True})
    learning_rates: tuple[float, ...] = field(default=(0.003, 0.001), metadata={"apart": True})
    schedules: tuple[Decay, ...] = field(default=("cosine",), metadata={"apart": True})
    context: int = 256
    rows_per_step: int = 2
    warmup: float = 0.05
    final: float = 0.1
    weight_decay: float = 0.1
    averaged: int = 3
    evaluated: int = 2048
    most_bytes: int = 1 << 32
    answers: Annotated[ArtefactPath, Columns(prompt="string", answer="string")] | None = None

    def __post_init__(self) -> None:
        known = list(decoder.SIZES)
        for size in self.sizes:
            if size not in known:
                raise PolicyError(f"proxy.sizes: there is no size {size!r}. Write some of {', '.join(known)}.")
        if not self.sizes or sorted({*self.sizes}, key=known.index) != list(self.sizes):
            raise PolicyError(f"proxy.sizes={list(self.sizes)} are not different sizes that rise. Write [0.3M, 1.3M].")
        for name in ("learning_rates", "schedules"):
            if not getattr(self, name) or len({*getattr(self, name)}) < len(getattr(self, name)):
                raise PolicyError(f"proxy.{name} is empty or names one twice. Write each once.")
        if not all(0 < rate < 1 for rate in self.learning_rates):
            raise PolicyError(f"proxy.learning_rates={list(self.learning_rates)} are not between 0 and 1.")
        for name, least in (("context", 8), ("rows_per_step", 1), ("averaged", 1), ("evaluated", 1), ("most_bytes", 1)):
            if getattr(self, name) < least:
                raise PolicyError(f"proxy.{name}={getattr(self, name)} is less than {least}.")
        for name in ("warmup", "final", "weight_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise PolicyError(f"proxy.{name}={getattr(self, name):g} is not from 0 to 1.")
        answers = getattr(self.answers, "table", None)
        if answers is not None and (not answers.num_rows or not all(answers["answer"].to_pylist())):
            raise PolicyError(f"proxy.answers: {self.answers} is not there, has no rows, or one without an answer.")

    @property
    def metrics(self) -> Mapping[str, Better]:
        return {"bits_per_byte": "lower", **({"answers": "lower"} if self.answers else {})}

    @property
    def scales(self) -> tuple[str, ...]:
        return self.sizes

    @property
    def settings(self) -> tuple[str, ...]:
        return tuple(self._by_setting)

    @property
    def _by_setting(self) -> dict[str, tuple[float, Decay]]:
        return {
            f"{rate} {schedule}": (rate, schedule)
            for rate, schedule in itertools.product(self.learning_rates, self.schedules)
        }

    @property
    def below_floor(self) -> str | None:
        if list(decoder.SIZES).index(self.sizes[-1]) >= list(decoder.SIZES).index(_FLOOR):
            return None
        return (
            f"The largest proxy has {self.sizes[-1]} parameters. Below about {_FLOOR} ranks show that the protocol"
            " works, and not which policy is better."
        )

    def contents(self) -> Mapping[str, str]:
        return attached.checksums(self, "objective.proxy")

    def tokens(self, scale: str, num_tokens: int) -> int:
        return num_tokens

    def measure(self, trial: Trial) -> pa.Table:
        rate, schedule = self._by_setting[trial.setting]
        model = Decoder(
            size=trial.scale, context=self.context, rows_per_step=self.rows_per_step, averaged=self.averaged,
            seed=trial.seed,
            schedule=Schedule(
                peak=rate, decay=schedule, warmup=self.warmup, final=self.final, weight_decay=self.weight_decay
            ),
        ).trained(self._stream(trial))  # fmt: skip
        documents = trial.held_out.documents
        texts = [text.encode()[: self.evaluated] for text in documents["text"].to_pylist()]
        sizes = np.array([len(text) for text in texts], np.float64)
        measured = [answer("bits_per_byte", model.bits(texts) / sizes, documents=documents, weights=pa.array(sizes))]
        if self.answers:
            table = self.answers.table
            answers = [text.encode() for text in table["answer"].to_pylist()]
            bits = model.bits(answers, [(text or "").encode() for text in table["prompt"].to_pylist()])
            measured.append(answer("answers", float((bits / [len(one) for one in answers]).mean())))
        return pa.concat_tables(measured)

    def _stream(self, trial: Trial) -> Stream:
        """All visits in their order. Raises SelectorError where they are too large together."""
        texts, weights, size = list[bytes](), list[np.ndarray[tuple[int], np.dtype[np.float32]]](), 0
        for batch in ManifestDataset(trial.manifest, global_batch_size=_AT_ONCE, rank=0, world_size=1):
            alive.sign()
            count = int((batch["position"] >= 0).sum())
            new = [text.encode() for text in batch["text"][:count]]
            texts += new
            weights.append(batch["loss_weight"].numpy()[:count])
            size += sum(map(len, new))
            if size > self.most_bytes:
                raise SelectorError(
                    f"The manifest of the arm {trial.arm} has more than {self.most_bytes:,} bytes of text. Write"
                    " smaller budgets, or raise proxy.most_bytes."
                )
        return Stream.of(texts, np.concatenate([np.empty(0, np.float32), *weights]).astype(np.float64), self.context)
