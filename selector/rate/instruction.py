"""What an instruction asks for: how long it is, how many constraints it sets, how many steps it names.

Source: constraints and steps as the measure of an instruction's complexity come from the evolution prompts of WizardLM
(Xu et al. 2023, arXiv:2304.12244: "add constraints", "increase reasoning steps") and from instruction-following tests
(IFEval, Zhou et al. 2023, arXiv:2311.07911). The lists of cues are ours, in English.

Unit: words, and cues. Range: 0 or more; a short request has none of either. A high value means harder.

Measured (`python -m jobs.bench raters`): Spearman with GSM8K's steps: words 0.387, steps 0.139, constraints 0.058; with
CEFR levels constraints 0.060, steps -0.052. Beside the number of words the cues add nothing on these sets.
"""

from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from selector.rate import Meaning, Rater
from selector.rate._words import texts_of

_CONSTRAINT = (
    r"(?i)\b(?:must(?:n't)?|should(?:n't)?|shall|needs? to|ha(?:s|ve) to|at (?:least|most)|exactly|precisely|"
    r"(?:no )?(?:more|less|fewer) than|up to|within|between|only|without|except|unless|avoid|do(?:es)? not|don't|never|"
    r"always|make sure|ensure|limit(?:ed)? to|maximum|minimum|in the (?:style|form|format) of|(?:begin|start|end) with|"
    r"include|exclude)\b"
)
_STEP = (
    r"(?im)^[ \t]*(?:\(?\d{1,3}[.):]|[-*\u2022])[ \t]+|\bstep \d+|"
    r"\b(?:first(?:ly)?|second(?:ly)?|third(?:ly)?|then|next|after(?:wards| that)|finally|lastly)\b"
)


@dataclass(frozen=True, kw_only=True)
class Instruction(Rater):
    """How much an instruction asks for: words, constraints and steps.

    The scores are called `_words`, `_constraints` ("at least", "do not", "only") and `_steps` (items of a list,
    "first", "then"), each after the rater's name.

    `column` is the column of the corpus that holds the instruction; by default the whole text is one. A document where
    it is null has none of the scores.
    """

    column: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        return (f"corpus.{self.column}",) if self.column else ("text",)

    def scores(self, name: str) -> dict[str, Meaning]:
        return {f"{name}_words": "harder", f"{name}_constraints": "harder", f"{name}_steps": "harder"}

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        (column,) = self.needs
        texts = texts_of(batch, column)
        is_missing = batch[column].is_null()
        counts = {
            "score_words": texts.str.count_matches(r"\S+"),
            "score_constraints": texts.str.count_matches(_CONSTRAINT),
            "score_steps": texts.str.count_matches(_STEP),
        }
        nulls = is_missing.to_numpy(zero_copy_only=False)
        columns = {name: pa.array(count.to_numpy().astype("int64"), mask=nulls) for name, count in counts.items()}
        state = pl.Series(nulls).replace_strict({True: "missing", False: "ok"}, return_dtype=pl.String).to_arrow()
        return pa.record_batch({**columns, "state": state})
