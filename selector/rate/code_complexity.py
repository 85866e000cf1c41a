"""How complex a program is: the decisions in it, how deep its blocks lie in each other, what it defines and calls.

Source: McCabe 1976, "A complexity measure" (cyclomatic complexity: one more than the decisions; loops, conditions,
cases, handlers of exceptions and every `and` and `or` are decisions). The counts of branches, definitions and calls are
those of a syntax tree, by tree-sitter (`pip install "selector[code]"`), which reads also what is broken or cut off.

Unit: counts; of `_nesting` blocks. Range: `_cyclomatic` 1 or more, the others 0 or more. A high value means harder. All
grow with the length of the file: beside `length`, only what they add counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector.exact import Ints
from selector.rate import Meaning, Rater
from selector.rate._code import LIBRARIES, Language, depth, parser_of
from selector.rate._words import texts_of

_SCORES = ("cyclomatic", "nesting", "branches", "definitions", "calls")


@dataclass(frozen=True, kw_only=True)
class CodeComplexity(Rater):
    """Counts in a program's syntax tree: decisions, depth, branches, definitions and calls.

    Each score has its name after the rater's: `_cyclomatic` (decisions and one), `_nesting` (the deepest block),
    `_branches`, `_definitions`, `_calls`. `language` is what the text is read as. A text more than half of which is no
    program of it has none of the scores, nor has one that is nested thousands deep.
    """

    libraries = LIBRARIES

    language: Language = "python"

    def scores(self, name: str) -> dict[str, Meaning]:
        return {f"{name}_{score}": "harder" for score in _SCORES}

    def prepare(self) -> None:
        assert parser_of(self.language, "code_complexity") is not None

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        parser = parser_of(self.language, "code_complexity")
        counts = np.array([_counts(parser.spans(text)) for text in texts_of(batch)], np.int64)
        counts = counts.reshape(-1, len(_SCORES) + 1)
        is_other = counts[:, -1] == 1
        columns = {f"score_{name}": pa.array(counts[:, i], mask=is_other) for i, name in enumerate(_SCORES)}
        return pa.record_batch(columns)


def _counts(spans: Mapping[str, Ints] | None) -> tuple[int, ...]:
    """The scores of one program, and 1 where it is none."""
    if spans is None:
        return (0,) * len(_SCORES) + (1,)
    branches, logical, definitions, calls = (
        len(spans[name]) for name in ("branches", "logical", "definitions", "calls")
    )
    return 1 + branches + logical, depth(spans["blocks"]), branches, definitions, calls, 0
