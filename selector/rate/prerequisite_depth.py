"""How deep a document stands on what must be known before it: the depth of its concepts in a graph of prerequisites.

Source: prerequisite graphs as curricula are from education (for example Talukdar and Cohen 2012, "Crowdsourced
Comprehension"; PSI-KT, Zhou et al. 2024, ICLR, infers one from learners). Estimated from a corpus: a is a prerequisite
of b if documents on b mostly have a and documents on a mostly do not have b; that asymmetry of P(a|b) and P(b|a) is
subsumption (Sanderson and Croft 1999, SIGIR). Margin and limit are ours. For training language models we know of no
comparison with a random order.

Unit: concepts, along the longest chain. Range: 0 or more. A high value: much has to be known before.

Measured, with keyphrases: Spearman's correlation with the levels of CEFR-SP is -0.09 (number of words: 0.38), with the
steps of GSM8K 0.07 (words: 0.39), and no better with 5,000 keyphrases: on such short texts it says nothing. Lists of
concepts were not at hand.
"""

import functools
from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa

from selector.errors import PolicyError
from selector.rate import Columns, Fit, Meaning, Pool, Rater, TablePath
from selector.rate._concepts import (
    Concepts,
    Deepest,
    deepest,
    depths,
    documents_with,
    documents_with_both,
    folded,
    prerequisites,
    vocabulary_of,
)

_MOST_SHARE = 0.2  # of the documents have a keyphrase
_MOST_LISTED = 20_000  # concepts, of which those that most documents have


@dataclass(frozen=True, kw_only=True)
class PrerequisiteDepth(Fit):
    """The depth of the document's deepest concept: how many others build up to it, one on another; and its name.

    Concepts are those that the column `by` lists (`corpus.concepts`: a list of words, or a word); without it they are
    `keyphrases`: the words and pairs of words of the corpus that are met in at least `least_documents` documents, in at
    most a fifth of them, and say most. The table `graph` has a row for each pair of which one (`before`) is needed for
    the other (`after`); without it a is needed for b if at least the share `least` of the documents with b have a, and
    by at least `margin` more than the other way round. Concepts that need each other in a circle count as one. A
    concept that no pair names has depth 0; a document without concepts is not_applicable, one without a list missing.
    The label `<name>_concept` is the deepest concept (the first by name): a column for the order `prerequisites`.
    """

    sample = 16_384

    by: str | None = None
    graph: Annotated[TablePath, Columns(before="string", after="string")] | None = None
    keyphrases: int = 1000
    least_documents: int = 5
    margin: float = 0.3
    least: float = 0.6

    def __post_init__(self) -> None:
        if self.keyphrases < 1 or self.least_documents < 1:
            raise PolicyError(
                f"prerequisite_depth: keyphrases={self.keyphrases} and least_documents={self.least_documents} are 1 or "
                "more. Write e.g. keyphrases: 1000, least_documents: 5."
            )
        if not (0 < self.margin <= 1 and 0 <= self.least <= 1):
            raise PolicyError(
                f"prerequisite_depth: margin={self.margin:g} is above 0 and at most 1, and least={self.least:g} from 0 "
                "to 1. Write e.g. margin: 0.3, least: 0.6."
            )

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by or "text",)

    def scores(self, name: str) -> dict[str, Meaning]:
        return deepest(name)

    def fit(self, sample: Pool, seed: int) -> pa.Table:
        if self.graph not in (None, ""):
            assert self.graph is not None
            table = self.graph.table.drop_null()
            named = [(folded(a), folded(b)) for a, b in zip(*(table[n].to_pylist() for n in _PAIR), strict=True)]
            names = sorted({name for pair in named for name in pair})
            place = {name: i for i, name in enumerate(names)}
            pairs = [(place[before], place[after]) for before, after in named]
        else:
            (column,) = self.needs
            if self.by is None:
                names = vocabulary_of(sample, self.least_documents, _MOST_SHARE, self.keyphrases)
                of = functools.partial(_phrases, frozenset(names))
            else:
                of = functools.partial(_listed, self.by)
                counts = documents_with(sample, of, column)
                common = sorted((-count, name) for name, count in counts.items() if count >= self.least_documents)
                names = sorted(name for _, name in common[:_MOST_LISTED])
            pairs = prerequisites(documents_with_both(sample, of, names, column), self.margin, self.least)
        depth = depths(len(names), pairs)
        return pa.table({"concept": pa.array(names, pa.string()), "depth": depth})

    def rater(self, fitted: pa.Table) -> Rater:
        return Deepest(by=self.by, table=fitted)


_PAIR = ("before", "after")


def _phrases(vocabulary: frozenset[str], batch: pa.RecordBatch) -> Concepts:
    return Concepts.phrases(batch["text"], vocabulary)


def _listed(by: str, batch: pa.RecordBatch) -> Concepts:
    return Concepts.listed(batch[by])
