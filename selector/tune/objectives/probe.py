"""How well a small n-gram model of bytes that is counted on the selection foretells held-out text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector.consume.text import Texts
from selector.engine import alive
from selector.errors import PolicyError, SelectorError
from selector.exact import Floats, UInt64
from selector.manifest import Manifest
from selector.tune.objectives import Better, Objective, Trial, answer

_AT_ONCE = 4096  # visits whose texts are read
_LONGEST = 7  # bytes of a context: with the next byte they are one number of 64 bits


@dataclass(frozen=True, kw_only=True)
class Probe(Objective):
    """Bits per byte of held-out documents, by a model that counts which byte follows the last few bytes.

    The model has contexts of up to `orders` bytes, 7 at most, the smallest first: each of them is a scale. Longer
    contexts are interpolated with shorter ones (Witten and Bell 1991, as in PPM's method C). A visit counts once, and
    so does each further visit of the same document: repetition makes the model surer without teaching it anything. It
    knows nothing of the order of the manifest, of loss weights, or of learning rates. A selection of more than
    `most_bytes` bytes is refused.

    Evidence: bits per byte of compressors go with what language models of all sizes reach (arXiv 2404.09937); for the
    choice of data by n-gram models see DSIR (arXiv 2302.03169). What it sees is spelling, words and short phrases: an
    arm that is better in reasoning alone looks equal to `random` here.
    """

    is_apart: ClassVar[bool] = True

    orders: tuple[int, ...] = (6,)
    most_bytes: int = 1 << 28

    metric: ClassVar[str] = "bits_per_byte"

    def __post_init__(self) -> None:
        if not self.orders or list(self.orders) != sorted({*self.orders}) or not 0 <= self.orders[0] <= _LONGEST:
            raise PolicyError(
                f"probe.orders={list(self.orders)} is no list of lengths that rise. Write e.g. [4, 6]; each is at most"
                f" {_LONGEST}."
            )
        if self.orders[-1] > _LONGEST:
            raise PolicyError(f"probe.orders: {self.orders[-1]} is more than {_LONGEST} bytes. Write {_LONGEST}.")

    @property
    def metrics(self) -> Mapping[str, Better]:
        return {self.metric: "lower"}

    @property
    def scales(self) -> tuple[str, ...]:
        return tuple(f"order {order}" for order in self.orders) if len(self.orders) > 1 else ("",)

    @property
    def below_floor(self) -> str:
        return (
            "Ranks by n-grams show that the protocol works, and which selection foretells held-out text; not which one"
            " makes the better language model (proxies are trusted from about 15 M parameters: Olmix, 2026)."
        )

    def tokens(self, scale: str, num_tokens: int) -> int:
        return num_tokens

    def measure(self, trial: Trial) -> pa.Table:
        order = int(trial.scale.removeprefix("order ")) if trial.scale else self.orders[0]
        documents = trial.held_out.documents
        trained = padded(texts_of(trial.manifest, self.most_bytes), order)
        held_out = padded([text.encode() for text in documents["text"].to_pylist()], order)
        bits = bits_of(trained, held_out, order)
        ends = np.cumsum(documents["num_bytes"].to_numpy())
        sums = np.add.reduceat(bits, np.concatenate([[0], ends[:-1]]))
        return answer(self.metric, sums / documents["num_bytes"].to_numpy(), documents=documents)


def texts_of(manifest: Manifest, most_bytes: int) -> list[bytes]:
    """The text of every visit, in order. Raises SelectorError where they are larger together."""
    texts, size, read = list[bytes](), 0, Texts(manifest)
    for start in range(0, len(manifest), _AT_ONCE):
        alive.sign()
        visits = manifest.rows(start, min(start + _AT_ONCE, len(manifest)))
        texts += [text.encode() for text in read.read(visits)]
        size += sum(map(len, texts[start:]))
        if size > most_bytes:
            raise SelectorError(
                f"The selection has more than {most_bytes:,} bytes of text. Write smaller budgets, or raise"
                " probe.most_bytes."
            )
    return texts


def padded(texts: Sequence[bytes], order: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """All texts as one array, before each of them as many zeros as a context has, and the places of their bytes."""
    whole = np.frombuffer(b"".join(bytes(order) + text for text in texts), np.uint8)
    is_text = np.ones(len(whole), np.bool_)
    starts = np.cumsum([0, *(len(text) + order for text in texts[:-1])], dtype=np.int64) if texts else np.empty(0, int)
    for shift in range(order):
        is_text[starts + shift] = False
    return whole, np.flatnonzero(is_text)


def bits_of(
    trained: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]],
    held_out: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]],
    order: int,
) -> Floats:
    """What each held-out byte costs in bits, by counts of what was trained on."""
    chance = np.full(len(held_out[1]), 1 / 256)
    for length in range(order + 1):
        alive.sign()
        keys, counts = np.unique(_keys(*trained, length), return_counts=True)
        if not len(keys):
            break
        contexts, first = np.unique(keys >> np.uint64(8), return_index=True)
        totals = np.add.reduceat(counts, first)
        kinds = np.diff(np.append(first, len(keys)))
        wanted, back = np.unique(_keys(*held_out, length), return_inverse=True)
        context = _find(contexts, wanted >> np.uint64(8))
        pair = _find(keys, wanted)
        count = np.where(pair >= 0, counts[pair], 0)[back]
        total, kind = (np.where(context >= 0, of[context], 0)[back] for of in (totals, kinds))
        known = total > 0
        mixed = (count + kind * chance) / np.maximum(total + kind, 1)
        chance = np.where(known, mixed, chance)
    return -np.log2(chance)


def _keys(whole: npt.NDArray[np.uint8], places: npt.NDArray[np.int64], length: int) -> UInt64:
    """The byte at each place and as many before it, as one number: the byte itself is the lowest."""
    keys = np.zeros(len(places), np.uint64)
    for back in range(length, -1, -1):
        keys = (keys << np.uint64(8)) | whole[places - back]
    return keys


def _find(among: UInt64, wanted: UInt64) -> npt.NDArray[np.int64]:
    """The place of each number among sorted ones; -1 where it is not there."""
    at = np.minimum(np.searchsorted(among, wanted), len(among) - 1)
    return np.where(among[at] == wanted, at, -1)
