"""How many different skills a document asks for at once.

Source: Skill-Mix (Yu et al. 2023, arXiv:2310.17567), which measures models by how many skills they combine in one text,
and Instruct-SkillMix (Kaur et al. 2024, arXiv:2408.14774), which makes training data of pairs of skills. That a
document that combines more is harder is our reading.

Unit: skills. Range: 0 or more. A high value means harder. Not measured here: no corpus with lists of skills was at
hand.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.rate import Rater
from selector.rate._concepts import Concepts


@dataclass(frozen=True, kw_only=True)
class Skills(Rater):
    """How many different skills are listed for the document in the column `by`.

    The column is one of the corpus (`corpus.skills`) with a list of words, or a word alone, which counts as one; upper
    and lower case and blanks around a word make no difference. An empty list is 0 skills, no list is missing, and
    anything else has failed.
    """

    higher_is = "harder"

    by: str = "corpus.skills"

    def __post_init__(self) -> None:
        if not self.by.strip():
            raise PolicyError("skills.by: the name of the column is blank. Write e.g. corpus.skills.")

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by,)

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        concepts = Concepts.listed(batch[self.by])
        has_none = np.array([state != "ok" for state in concepts.states], np.bool_)
        states = pa.array(concepts.states, pa.string())
        return pa.record_batch({"score": pa.array(concepts.counts, mask=has_none), "state": states})
