"""Several raters in one pass: each document's texts are read, and sent to a worker, once for all of them.

Think of it as one rater with the scores of all. It is worth it where reading costs more than rating, as it does for
plain counts over storage that is far away; in return, a change of one rater's options rates all of them anew.

Unit: those of the raters. Range: those of the raters. What a high value means follows from each of them.
"""

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa

from selector import tables
from selector.errors import PolicyError
from selector.plugins.families import name_of
from selector.rate import Meaning, Rater


@dataclass(frozen=True, kw_only=True)
class Together(Rater):
    """The scores of several raters, each called as it would be alone.

    `names` are what the raters are called, in their order; by default the names of their kinds. Two of one kind need
    names. A `Fit`, such as `rarity`, stays in a line of its own.
    """

    raters: tuple[Rater, ...]
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.raters:
            raise PolicyError("together.raters names no rater. Write two or more: raters: [length, readability].")
        if self.names is not None and len(self.names) != len(self.raters):
            raise PolicyError(f"together.names has {len(self.names)} names for {len(self.raters)} raters: one each.")
        counts = Counter(score for given in self._scores for score in given)
        again = [score for score, count in counts.items() if count > 1]
        if again:
            raise PolicyError(
                f"together: two of its raters give the score {again[0]!r}. Say what each is called: names: [a, b]."
            )

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    @property
    def _scores(self) -> list[dict[str, Meaning]]:
        """Those of each rater, by their full names."""
        names = self.names or [name_of(rater) for rater in self.raters]
        return [rater.scores(name) for rater, name in zip(self.raters, names, strict=True)]

    def scores(self, name: str) -> dict[str, Meaning]:
        return {score: meaning for given in self._scores for score, meaning in given.items()}

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        columns: dict[str, pa.Array] = {}
        for rater, given in zip(self.raters, self._scores, strict=True):
            answer = rater.rate(batch)
            shorts = ["score"] if len(given) == 1 else [*rater.scores("score")]
            for short, full in zip(shorts, given, strict=True):
                columns[full] = answer[short if short in answer.schema.names else full]
                states = (tables.state_of(short), tables.state_of(full), "state")
                for state in [state for state in states if state in answer.schema.names][:1]:
                    columns[tables.state_of(full)] = answer[state]
        return pa.record_batch(columns)
