"""The concepts of documents, which of them build on which, and how deep each stands on others.

Think of a concept as a word on a list: one that the corpus gives for a document, or a phrase of a vocabulary that its
text has. Concepts are compared without regard to case and to blanks around them.
"""

import functools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse

from selector.exact import Ints
from selector.plugins.pool import Pool
from selector.rate import Meaning, Rater
from selector.rate._ngrams import lowered, runs

Bools = npt.NDArray[np.bool_]

_WORD = r"\p{L}[\p{L}\p{M}\p{N}]*"
_PHRASE_WORDS = 2


@dataclass(frozen=True, kw_only=True)
class Concepts:
    """The concepts of some documents: those of each one after another, each once, and the state of each document."""

    names: list[str]
    documents: Ints  # the number of the document of each name
    states: list[str]  # ok, missing (there is no list) or failed (it is no list of words)

    @property
    def counts(self) -> Ints:
        """How many concepts each document has."""
        return np.bincount(self.documents, minlength=len(self.states)).astype(np.int64)

    @classmethod
    def listed(cls, column: pa.Array) -> "Concepts":
        """Those that a column gives: a list of words, the JSON of one, or a word of its own."""
        values = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        return cls._of([_words(value) for value in values.to_pylist()])

    @classmethod
    def phrases(cls, texts: pa.Array, vocabulary: Collection[str]) -> "Concepts":
        """The words and pairs of words of each text that a vocabulary has."""
        words = lowered(texts, _WORD)
        names, documents = list[str](), list[Ints]()
        for count in range(1, _PHRASE_WORDS + 1):
            run = runs(words, count)
            is_known = np.array([phrase in vocabulary for phrase in run.spelt], np.bool_)
            places = np.flatnonzero(is_known[run.codes]) if len(run.codes) else np.empty(0, np.int64)
            pairs = np.unique(np.stack([run.texts[places], run.codes[places]]), axis=1)
            names += [run.spelt[code] for code in pairs[1].tolist()]
            documents.append(pairs[0])
        owners = np.concatenate(documents)
        order = np.argsort(owners, kind="stable")
        sorted_names = [names[i] for i in order.tolist()]
        return cls(names=sorted_names, documents=owners[order], states=["ok"] * len(words.counts))

    @classmethod
    def _of(cls, per_document: Sequence[list[str] | str]) -> "Concepts":
        lists = [words if isinstance(words, list) else [] for words in per_document]
        return cls(
            names=[name for words in lists for name in words],
            documents=np.repeat(np.arange(len(lists)), [len(words) for words in lists]).astype(np.int64),
            states=[words if isinstance(words, str) else "ok" for words in per_document],
        )


def folded(concept: str) -> str:
    """How a concept is compared."""
    return concept.strip().casefold()


def _words(value: Any) -> list[str] | str:
    """The concepts in a value, each once; or why there are none."""
    if value is None:
        return "missing"
    if isinstance(value, str):
        if not value.strip():
            return "missing"
        if not value.lstrip().startswith("["):
            return [folded(value)]
        try:
            value = json.loads(value)
        except ValueError:
            return "failed"
    if not isinstance(value, list):
        return [str(value)] if isinstance(value, int) and not isinstance(value, bool) else "failed"
    items = cast(list[Any], value)
    if not all(isinstance(item, str | int) and not isinstance(item, bool) for item in items):
        return "failed"
    return sorted({word for item in items if (word := folded(str(item)))})


# ---------------------------------------------------------------- of a corpus: which concepts it has, and together


def documents_with(pool: Pool, of: Callable[[pa.RecordBatch], Concepts], *columns: str) -> Counter[str]:
    """How many documents have each concept."""
    whole = Counter[str]()
    for counted in pool.map(functools.partial(_counted, of), *columns):
        whole.update(counted)
    return whole


def documents_with_both(
    pool: Pool, of: Callable[[pa.RecordBatch], Concepts], names: Sequence[str], *columns: str
) -> Any:
    """How many documents have each two of these concepts: a sparse matrix, in its diagonal those that have the one."""
    place = {name: i for i, name in enumerate(names)}
    together = scipy.sparse.csr_matrix((len(names), len(names)), dtype=np.int64)
    for counts in pool.map(functools.partial(_together_in, of, place), *columns):
        together = together + counts
    return together


def vocabulary_of(pool: Pool, least: int, most_share: float, most: int) -> list[str]:
    """The words and pairs of words that say most of what a text is about, sorted.

    Those that at least so many documents have and at most so large a share of them, and of these the ones with the
    largest n ln(N / n), of n documents out of N: a phrase that is common enough to be met and rare enough to mean
    something. A pair is made of such words, and where it is met as often as one of them, that one alone goes.
    """
    single = documents_with(pool, functools.partial(_runs, 1, None), "text")
    most_documents = most_share * pool.num_documents
    words = frozenset(word for word, count in single.items() if least <= count <= most_documents)
    pairs = documents_with(pool, functools.partial(_runs, 2, words), "text")
    counts = {word: single[word] for word in words}
    for pair, count in sorted(pairs.items()):
        if count >= least:
            counts[pair] = count
            for word in pair.split(" "):
                if counts.get(word) == count:
                    del counts[word]
    worth = {name: count * np.log(pool.num_documents / count) for name, count in counts.items()}
    return sorted(sorted(worth, key=lambda name: (-round(float(worth[name]), 6), name))[:most])


def _runs(count: int, words: frozenset[str] | None, batch: pa.RecordBatch) -> Concepts:
    """The runs of so many words of each text, of these words only."""
    run = runs(lowered(batch["text"], _WORD), count)
    is_used = np.array([words is None or words.issuperset(one.split(" ")) for one in run.spelt], np.bool_)
    places = np.flatnonzero(is_used[run.codes]) if len(run.codes) else np.empty(0, np.int64)
    pairs = np.unique(np.stack([run.texts[places], run.codes[places]]), axis=1)
    names = [run.spelt[code] for code in pairs[1].tolist()]
    return Concepts(names=names, documents=pairs[0], states=["ok"] * batch.num_rows)


def _counted(of: Callable[[pa.RecordBatch], Concepts], batch: pa.RecordBatch) -> Counter[str]:
    return Counter(of(batch).names)


def _together_in(of: Callable[[pa.RecordBatch], Concepts], place: dict[str, int], batch: pa.RecordBatch) -> Any:
    concepts = of(batch)
    columns = np.array([place.get(name, -1) for name in concepts.names], np.int64)
    is_known = columns >= 0
    rows, columns = concepts.documents[is_known], columns[is_known]
    has = scipy.sparse.csr_matrix(
        (np.ones(len(rows), np.int64), (rows, columns)), (batch.num_rows, len(place)), dtype=np.int64
    )
    return (has.T @ has).tocsr()


# ---------------------------------------------------------------- which builds on which


def prerequisites(together: Any, margin: float, least: float) -> list[tuple[int, int]]:
    """The pairs (before, after): of the documents with the second concept at least the share `least` have the first
    too, and by at least `margin` more than the other way round."""
    alone = together.diagonal()
    pairs = together.tocoo()
    before, after, both = pairs.row, pairs.col, pairs.data
    share = both / np.maximum(alone[after], 1)
    back = both / np.maximum(alone[before], 1)
    is_edge = (before != after) & (share - back >= margin - 1e-12) & (share >= least - 1e-12)
    return sorted(zip(before[is_edge].tolist(), after[is_edge].tolist(), strict=True))


def depths(num_concepts: int, pairs: Iterable[tuple[int, int]]) -> Ints:
    """Of each concept, the longest chain of others that it stands on; those that build on each other in a circle count
    as one."""
    import scipy.sparse.csgraph

    edges = np.array(sorted(set(pairs)), np.int64).reshape(-1, 2)
    graph = scipy.sparse.csr_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), (num_concepts, num_concepts))
    num_circles, circle = scipy.sparse.csgraph.connected_components(graph, directed=True, connection="strong")
    arrows = np.unique(circle[edges], axis=0)
    arrows = arrows[arrows[:, 0] != arrows[:, 1]]
    waits_for = np.bincount(arrows[:, 1], minlength=num_circles)
    following: list[list[int]] = [[] for _ in range(num_circles)]
    for before, after in arrows.tolist():
        following[before].append(after)
    depth = np.zeros(num_circles, np.int64)
    ready = np.flatnonzero(waits_for == 0).tolist()
    while ready:
        before = ready.pop()
        for after in following[before]:
            depth[after] = max(depth[after], depth[before] + 1)
            waits_for[after] -= 1
            if not waits_for[after]:
                ready.append(after)
    return depth[circle]


# ---------------------------------------------------------------- of one document


@dataclass(frozen=True, kw_only=True)
class Deepest(Rater):
    """The depth of a document's deepest concept, and which that is."""

    by: str | None  # the column that lists concepts; None: those of the table that the text has
    table: pa.Table  # concept, depth

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.by or "text",)

    def scores(self, name: str) -> dict[str, Meaning]:
        return deepest(name)

    def prepare(self) -> None:
        super().prepare()
        assert self._depths is not None

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        depths = self._depths
        concepts = Concepts.listed(batch[self.by]) if self.by else Concepts.phrases(batch["text"], depths)
        depth = np.array([depths.get(name, 0) for name in concepts.names], np.int64)
        order = np.lexsort((np.array(concepts.names, np.str_), -depth, concepts.documents))
        owners = concepts.documents[order]
        first = order[np.r_[True, owners[1:] != owners[:-1]][: len(owners)]]
        places = np.zeros(batch.num_rows, np.int64)
        places[concepts.documents[first]] = first
        has_none = concepts.counts == 0
        states = [
            "not_applicable" if is_empty and state == "ok" else state
            for is_empty, state in zip(has_none.tolist(), concepts.states, strict=True)
        ]
        rows = pa.array(places, mask=has_none)
        names = pa.array(concepts.names, pa.string()).take(rows)
        return pa.record_batch(
            {
                "score": pa.array(depth, pa.int64()).take(rows),
                "score_concept": names,
                "score.state": states,
                "score_concept.state": states,
            }
        )

    @functools.cached_property
    def _depths(self) -> dict[str, int]:
        return dict(zip(self.table["concept"].to_pylist(), self.table["depth"].to_pylist(), strict=True))


def deepest(name: str) -> dict[str, Meaning]:
    """The scores that say how deep a document is."""
    return {name: "harder", f"{name}_concept": "label"}
