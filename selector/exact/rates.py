"""How much each step of training counts in the end: AdamW's averaging coefficients, of learning rate and weight decay.

Think of the weights as a mean of all updates that forgets. A step with the learning rate r and the weight decay d puts
its update in with the share a = r * d, and keeps the share 1 - a of what was there. So an early update counts less the
more was learned after it, and a late one less the further the rate has fallen by then.

Sources: arXiv 2509.25380 (TREC) goes by these coefficients to say where good data belongs; 2511.18903 reports that the
gain of ascending quality is lost where the rate decays to nothing, and comes back with a moderate decay and the mean of
the last checkpoints. The form of the coefficients follows from AdamW; TREC's factor for the share of training that is
over is not here, since we have not seen its exact form. Everything is made of operations that IEEE 754 rounds in one
way only, one after another, so an order may go by it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from selector.exact.functions import sin
from selector.exact.sortkeys import Floats, Ints

Decay = Literal["constant", "linear", "cosine", "wsd"]


def coefficients(alphas: Floats, after: Sequence[int] = ()) -> Floats:
    """The share of each step's update in the weights at the end: c_i = a_i * prod_{j > i} (1 - a_j).

    `alphas` are learning rate times weight decay, step by step, from 0 to 1. With `after`, of the mean of the
    checkpoints that are taken after these steps, counted from 0: an update later than a checkpoint is not in it.
    """
    return alphas * kept(alphas, after)


def kept(alphas: Floats, after: Sequence[int] = ()) -> Floats:
    """The share of each step's update that is not forgotten at the end, or on average at these checkpoints."""
    steps = sorted({*after}) or [len(alphas) - 1]
    answer, carried, end = np.zeros(len(alphas)), 0.0, len(alphas)
    for index in range(len(steps) if len(alphas) else 0)[::-1]:
        step = steps[index]
        assert 0 <= step < end, "checkpoints are taken after steps of the training"
        if step + 1 < len(alphas):
            carried *= 1 - float(alphas[step + 1])
        begin = steps[index - 1] + 1 if index else 0
        factors = 1 - alphas[step:begin:-1]
        factors = np.concatenate([[carried + 1 / len(steps)], factors])
        answer[begin : step + 1] = np.cumprod(factors)[::-1]  # one after another, and down to 0 where it is too small
        carried, end = float(answer[begin]), step
    return answer


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate of every step, and AdamW's weight decay.

    The share `warmup` of the steps rises to `peak` in equal steps. Then the rate stays there (constant), or falls to
    the share `final` of the peak: in a line (linear), as half a wave (cosine), or in a line over the last share
    `falling` of all steps, and not before (wsd). The first step of a fall still has the peak, and the step after the
    last one would have `final`.
    """

    peak: float
    decay: Decay
    warmup: float = 0.0
    final: float = 0.0
    falling: float = 0.1
    weight_decay: float = 0.1

    def rates(self, num_steps: int) -> Floats:
        """The learning rate of each of so many steps."""
        step = np.arange(num_steps)
        rising = _share_of(self.warmup, num_steps)
        falling = {"constant": 0, "wsd": _share_of(self.falling, num_steps)}.get(self.decay, num_steps)
        falling = min(falling, num_steps - rising)
        time = np.maximum(step - (num_steps - falling), 0) / max(falling, 1)
        rates = self.peak * (1 - (1 - self.final) * (_half_wave(time) if self.decay == "cosine" else time))
        rates[:rising] = self.peak * (step[:rising] + 1) / max(rising, 1)
        return rates


@dataclass(frozen=True, kw_only=True)
class Training:
    """How an order is trained on: in batches, with a schedule, and with the mean of how many checkpoints at the end."""

    global_batch_size: int
    schedule: Schedule
    checkpoints: int = 1
    every: int = 1  # steps from one checkpoint to the next

    def num_steps(self, num_visits: int) -> int:
        """How many steps so many visits are; the last one may be short."""
        return -(-num_visits // self.global_batch_size)

    def checkpoint_steps(self, num_visits: int) -> list[int]:
        """After how many steps a checkpoint is taken for the mean: the last after all of them, first to last."""
        steps = self.num_steps(num_visits)
        return sorted(range(steps, max(steps - self.checkpoints * self.every, 0), -self.every))

    def counts(self, num_visits: int) -> Floats:
        """How much a visit counts in the weights at the end, for each step: 1 is the average of all visits.

        This is rate times what is kept of it, so it is there without weight decay too. A step counts what its update
        counts; how large the update is, nobody knows before.
        """
        steps, sizes = self.num_steps(num_visits), self._sizes(num_visits)
        rates = self.schedule.rates(steps)
        after = [step - 1 for step in self.checkpoint_steps(num_visits)]
        weights = rates * kept(rates * self.schedule.weight_decay, after)
        return weights / sizes * (num_visits / _total(weights))

    def whole_counts(self, num_visits: int) -> Ints:
        """The same in whole numbers, for each visit, of which the greatest is 2^30: their sums are exact."""
        counts = self.counts(num_visits)
        return np.repeat(np.rint(counts / counts.max(initial=0.0) * 2**30).astype(np.int64), self._sizes(num_visits))

    def mean_counts(self, num_visits: int, num_ranges: int = 10) -> list[float | None]:
        """How much a visit counts in each of so many equal ranges of the order; None where a range has no visit."""
        size, counts = self.global_batch_size, self.counts(num_visits)
        before = np.concatenate([[0.0], np.cumsum(counts * self._sizes(num_visits))])
        edges = -(-np.arange(num_ranges + 1) * num_visits // num_ranges)
        step = edges // size
        sums = before[step] + np.append(counts, 0.0)[step] * (edges - step * size)
        sums[-1] = before[-1]
        widths, totals = np.diff(edges).tolist(), np.diff(sums).tolist()
        return [total / width if width else None for width, total in zip(widths, totals, strict=True)]

    def _sizes(self, num_visits: int) -> Ints:
        """The visits of each step."""
        sizes = np.full(self.num_steps(num_visits), self.global_batch_size)
        sizes[-1:] -= len(sizes) * self.global_batch_size - num_visits
        return sizes


def _share_of(share: float, number: int) -> int:
    return round(Fraction(str(share)) * number)


def _half_wave(time: Floats) -> Floats:
    """(1 - cos(pi * time)) / 2 for times from 0 to 1: from 0 to 1, slowly at both ends."""
    sines = sin(np.minimum(time, 1 - time) * (math.pi / 2))
    return np.where(time <= 0.5, sines * sines, 1 - sines * sines)


def _total(numbers: Floats) -> float:
    """The sum, added one after another."""
    return float(np.cumsum(numbers)[-1]) if len(numbers) else 1.0
