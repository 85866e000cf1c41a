"""What becomes of a document before any selector sees it: an ordered list of clauses, each of which may leave some out.

The first clause that a document meets decides, and says why. Duplicates had theirs in dedup; what no clause leaves out
is the pool.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.corpus.columns import Column
from selector.corpus.joined import PLACE, state_columns
from selector.engine.canonical import fingerprint
from selector.engine.part import Task
from selector.engine.slices import joined
from selector.engine.store import Seal, Store
from selector.manifest import describe
from selector.plugins.catalogue import KNOWN
from selector.policy.where import Rule
from selector.select import Reason
from selector.steps.gather import PartReader
from selector.steps.listed import EXCLUDED

Bools = npt.NDArray[np.bool_]

SIZE = replace(KNOWN["num_tokens"], name="tokens of it")

KEPT, LEFT_OUT, MARKED, QUARANTINED = (
    tables.OUTCOMES.index(word) for word in ("kept", "left_out", "marked", "quarantined")
)


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why documents cannot be chosen: what becomes of them, an index into `tables.OUTCOMES`, and the reason."""

    outcome: int
    reason: Reason


DUPLICATE = Cause(outcome=tables.OUTCOMES.index("duplicate"), reason=describe.DUPLICATE)
EMPTY = Cause(outcome=LEFT_OUT, reason=describe.NO_TOKENS)
CLASH = Cause(outcome=QUARANTINED, reason="quarantined in dedup: its key is another document's")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The documents of consecutive parts that go on, and which of them cannot be chosen: `code` is an index into
    `causes`, -1 for none."""

    live: pa.Table
    borders: Sequence[int]  # where each part's documents begin, and where they end
    code: npt.NDArray[np.int32]
    causes: Sequence[Cause]

    @property
    def is_eligible(self) -> Bools:
        return self.code < 0


@dataclass(frozen=True, kw_only=True)
class Eligibility:
    """Says the verdict on documents."""

    reader: PartReader
    raters: tuple[str, ...]  # the steps whose quarantine counts
    used: tuple[Column, ...]  # scores without which a document cannot be chosen, under their long names
    rule: Rule | None
    missing: Literal["drop", "last", "impute"]
    means: Mapping[str, pa.Array] = field(default_factory=dict[str, pa.Array])  # of used scores, if imputed: one each
    excluding: tuple[str, ...] = ()  # manifests whose documents are not chosen again

    @property
    def columns(self) -> tuple[Column, ...]:
        """What it must know of a document."""
        return (SIZE, *self.used, *(self.rule.columns if self.rule else ()), *([EXCLUDED] if self.excluding else []))

    def identity(self) -> dict[str, Any]:
        """What decides a verdict, beside the documents."""
        return {
            "rule": self.rule.text if self.rule else None,
            "used": [column.name for column in self.used],
            "missing": self.missing,
            "means": {name: _spelt(mean) for name, mean in self.means.items()},
            **({"excluding": self.excluding} if self.excluding else {}),
        }

    def verdict(self, store: Store, tasks: Sequence[Task], columns: Sequence[Column] = ()) -> Verdict:
        """The verdict on consecutive parts; their documents come with these columns, under names of ours, as whoever
        chooses sees them: the mean of a used score where there is none, if that is the policy."""
        own = [PLACE, SIZE, *self.used, *state_columns(self.used), *([EXCLUDED] if self.excluding else [])]
        read = [*own, *self._rule_columns(), *columns]
        reader = self.reader.opened(store, tasks[0], read)
        parts = [reader.read(store, task, read) for task in tasks]
        borders = [0, *itertools.accumulate(part.num_rows for part in parts)]
        documents = joined(parts)
        code = np.full(documents.num_rows, -1, np.int32)
        causes: list[Cause] = []
        live = Live(eligibility=self, store=store, tasks=tasks, borders=borders, documents=documents)
        for clause in CLAUSES:
            for which, cause in clause(live):
                code[which & (code < 0)] = len(causes)
                causes.append(cause)
        for column in columns:
            if column.meaning is not None and column.column in self.means:
                at = documents.schema.get_field_index(column.name)
                values = documents.column(at).fill_null(self.means[column.column][0])
                documents = documents.set_column(at, documents.schema.field(at), values)
        return Verdict(live=documents, borders=borders, code=code, causes=causes)

    def _rule_columns(self) -> list[Column]:
        """What the rule reads, under names that no column of ours has."""
        return [replace(column, name=f"rule {i}") for i, column in enumerate(self.rule.columns if self.rule else ())]

    def passed(self, documents: pa.Table) -> Bools:
        """Which documents the rule lets pass."""
        assert self.rule is not None, "there is a rule"
        names = [column.name for column in self.rule.columns]
        return self.rule.test(documents.select([column.name for column in self._rule_columns()]).rename_columns(names))


@dataclass(frozen=True, kw_only=True)
class Live:
    """The documents of consecutive parts that go on, and where more is known of them."""

    eligibility: Eligibility
    store: Store
    tasks: Sequence[Task]
    borders: Sequence[int]  # where each part's documents begin, and where they end
    documents: pa.Table


Clause = Callable[[Live], Iterator[tuple[Bools, Cause]]]


def quarantined(live: Live) -> Iterator[tuple[Bools, Cause]]:
    """What a step lost."""
    places = live.documents["place"].to_numpy()
    for step in live.eligibility.raters:
        for task, (first, end) in zip(live.tasks, itertools.pairwise(live.borders), strict=True):
            seal = live.store.sealed(task.inputs[step])
            if seal.tables["quarantine"].num_rows:
                lost = live.store.table(seal, "quarantine", ["place", "step", "reason"])
                groups = lost.group_by(["step", "reason"], use_threads=False).aggregate([("place", "list")])
                for group in groups.to_pylist():
                    why = f"{describe.QUARANTINED}{group['step']}: {group['reason']}"
                    which = np.zeros(len(places), np.bool_)
                    which[first:end] = np.isin(places[first:end], group["place_list"])
                    yield which, Cause(outcome=QUARANTINED, reason=why)


def excluded(live: Live) -> Iterator[tuple[Bools, Cause]]:
    """What another manifest has."""
    manifests = live.eligibility.excluding
    if manifests:
        numbers = live.documents[EXCLUDED.name].fill_null(-1).to_numpy()
        for number, manifest in enumerate(manifests):
            reason = ("excluded: it is in the manifest {manifest}", {"manifest": manifest})
            yield numbers == number, Cause(outcome=MARKED, reason=reason)


def ruled_out(live: Live) -> Iterator[tuple[Bools, Cause]]:
    """What the rule does not let pass."""
    rule = live.eligibility.rule
    if rule is not None:
        yield ~live.eligibility.passed(live.documents), Cause(outcome=LEFT_OUT, reason=f"{describe.WHERE}{rule.text}")


def without_tokens(live: Live) -> Iterator[tuple[Bools, Cause]]:
    """What has nothing to train on, so that no budget would bound how many of them are taken."""
    yield live.documents[SIZE.name].to_numpy() == 0, EMPTY


def without_score(live: Live) -> Iterator[tuple[Bools, Cause]]:
    """What lacks a score that is used, where such documents are dropped."""
    for score in live.eligibility.used if live.eligibility.missing == "drop" else ():
        absent = live.documents[score.name].is_null().to_numpy()
        if absent.any():
            states = tables.whole(live.documents[tables.state_of(score.name)])
            codes = states.indices.to_numpy(zero_copy_only=False)  # NaN where a table lost the document
            for index, state in enumerate(states.dictionary.to_pylist()):
                yield (
                    absent & (codes == index),
                    Cause(outcome=LEFT_OUT, reason=f"{describe.NO_SCORE}'{score.column}': {state}"),
                )


CLAUSES: Sequence[Clause] = (quarantined, excluded, ruled_out, without_tokens, without_score)
"""In the order in which a document meets them."""


def _spelt(mean: pa.Array) -> str:
    """A mean as text, also one of moments or dates that Python does not hold."""
    return str((mean.cast(pa.string()) if pa.types.is_temporal(mean.type) else mean)[0])


def lost_from(store: Store, parts: Sequence[Seal]) -> list[Any]:
    """Which rows a step lost of some parts, and why in one word: what of a quarantine decides a verdict. What more it
    tells may differ by the options of an executor."""
    lost: list[Any] = []
    for number, seal in enumerate(parts):
        if seal.tables["quarantine"].num_rows:
            table = store.table(seal, "quarantine", ["place", "step", "reason"])
            lost.append([number, fingerprint(list(table.to_pydict().values()))])
    return lost
