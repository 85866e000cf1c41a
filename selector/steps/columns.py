"""Columns: what documents hold in the columns of the corpus that a rule or a plug-in names, each in one type.

Ingest sets these values aside where it is told to in time; a policy that names another column later has the corpus
read again for it, and tokenises and embeds nothing anew.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from selector import tables
from selector.corpus import formats, values
from selector.corpus.joined import INGEST
from selector.corpus.values import ColumnType, FirstOfKind
from selector.engine.part import Task
from selector.engine.step import APART, Done, Fold, Tables
from selector.engine.store import Blob, Store
from selector.errors import CorpusError
from selector.plugins.catalogue import CORPUS, corpus_names
from selector.policy.preflight import unknown_column
from selector.policy.resolve import Resolved
from selector.rate import Rater
from selector.steps import survey
from selector.steps.survey import Survey

TYPES = pa.schema(
    [
        ("name", pa.string()),
        ("type", pa.string()),
        ("is_json", pa.bool_()),  # it holds objects and lists
        ("is_there", pa.bool_()),  # some document has it, if only with nulls
        ("disagree", pa.string()),  # where its values are of no one type: a sentence about the first two that disagree
    ]
)

_MOST_KNOWN = 1000  # names of columns that are told where one is not found


@dataclass(frozen=True, kw_only=True)
class Columns(Fold):
    """Per part and column a table of `place` and of values of each kind, and apart from them `types` and `known`; of
    the whole corpus, the type of every column."""

    name: str = field(default="columns", metadata=APART)
    version = 4
    output = "rows"
    folded = "types"
    reads: tuple[str, ...] = field(default=("survey", INGEST), metadata=APART)

    survey: Survey = field(metadata=APART)
    names: tuple[str, ...]
    max_document_bytes: int

    def rows_in(self, done: Done) -> int:
        return done[INGEST].rows_out

    def tasks(self, done: Done) -> Sequence[Task]:
        seals = done[INGEST].parts
        return [
            Task(key=self.key(part.rows, seal.key), part=part, inputs={INGEST: seal.key})
            for part, seal in zip(survey.parts(done, self.survey), seals, strict=True)
        ]

    def process(self, task: Task, store: Store) -> dict[str, pa.Table | Blob]:
        seal = store.sealed(task.inputs[INGEST])
        documents = store.table(seal, "documents", ["place"])
        wanted = [values.table_of(name) for name in self.names]
        set_aside: dict[str, Blob] = {}
        if task.only is None and all(name in seal.tables for name in wanted):  # by ingest
            kept = {name: store.table(seal, name) for name in ("types", "known", "lost")}
            for name in wanted:
                store.blob(seal, name)  # which is damage of ingest's, if it is any
                set_aside[name] = seal.tables[name]
        else:
            places = documents["place"].to_numpy().astype(np.int64)
            places = places[task.mask(places)]
            documents = pa.table({"place": pa.array(places, pa.uint32())})
            gathering = values.Gathering(self.names)
            for place, piece, read in formats.rows(task.part, (), self.max_document_bytes, places):
                if not isinstance(read.row, formats.Bad):
                    gathering.add(place, read.row, piece)
            kept = gathering.tables(task.part, places)
        lost = self._ours(kept.pop("lost"))
        own = {"rows": documents, **kept, "types": self._ours(kept["types"]), "quarantine": _quarantine(lost)}
        return {**own, **set_aside}

    def _ours(self, table: pa.Table) -> pa.Table:
        """What is said of the columns that are asked for."""
        return table.filter(pa.array([name in self.names for name in table["name"].to_pylist()], pa.bool_()))

    def fold(self, done: Done, parts: Iterator[Mapping[str, pa.Table]]) -> Tables:
        firsts: dict[str, list[FirstOfKind]] = {name: [] for name in self.names}
        present = set[str]()
        read = list(parts)
        for number, part in enumerate(read):
            for name, one in values.firsts_in(number, part["types"]):
                present.add(name)
                firsts[name] += [one] if one is not None else []
        column_types = {name: values.type_of(ones) for name, ones in firsts.items()}
        rows = [
            {
                "name": name,
                "type": values.spell(each.type),
                "is_json": each.is_json,
                "is_there": name in present,
                "disagree": self._disagreement(done, each),
            }
            for name, each in column_types.items()
        ]
        yield "types", pa.Table.from_pylist(rows, schema=TYPES)
        known: set[str] = set()
        for part in read if len(present) < len(self.names) else ():
            known |= set(part["known"]["name"].to_pylist()) if len(known) < _MOST_KNOWN else set()
        yield "known", pa.table([sorted(known)], schema=values.KNOWN)

    def _disagreement(self, done: Done, column_type: ColumnType) -> str | None:
        if column_type.disagree is None:
            return None
        parts = survey.parts(done, self.survey)
        places: list[str] = []
        for part, place, value in column_type.disagree:
            uri, row = parts[part].at(place)
            places.append(f"{value} in row {row} of {uri}")
        return " and ".join(places)


def _quarantine(lost: pa.Table) -> pa.Table:
    """The quarantine of documents with values that no type holds, each once."""
    once = {row["place"]: row["detail"] for row in reversed(lost.to_pylist())}
    rows = [
        {"doc_id": None, "place": place, "step": "columns", "reason": "no_type", "detail": detail[:500]}
        for place, detail in sorted(once.items())
    ]
    return tables.quarantine(rows)


def types(done: Done) -> dict[str, pa.DataType]:
    """The type of every column of the corpus that was asked for."""
    return dict(done.once("columns: types", lambda: read_types(done.store, done["columns"].seal.key)))


def read_types(store: Store, key: str) -> dict[str, pa.DataType]:
    """The same, from the step's answer."""
    return {row["name"]: values.unspell(row["type"]) for row in store.read(key, "types").to_pylist()}


def check(done: Done, resolved: Resolved) -> None:
    """Every column that the policy names is there and has one type, which its rule and its raters can use. Raises
    CorpusError or PolicyError."""
    rule = resolved.rule
    of_plugins = {name: path for path, columns in resolved.columns.items() for name in corpus_names(columns)}
    column_types = types(done)
    for row in done.table("columns", "types").to_pylist():
        name: str = row["name"]
        if not row["is_there"]:
            known = done.table("columns", "known")["name"].to_pylist()
            where = resolved.corpus_columns[name]
            raise unknown_column(name, where, "no document of the corpus", known, resolved.catalogue)
        if row["disagree"] is not None and name in of_plugins:
            raise CorpusError(
                f"{of_plugins[name]}: the column {name!r} of the corpus has no one type: {row['disagree']}. "
                "Write it in one type."
            )
        if row["disagree"] is not None and rule is not None and name in rule.uncast_columns:
            raise CorpusError(
                f"select.where: the column {name!r} of the corpus has no one type: {row['disagree']}. Write it in one "
                f"type, or let the rule cast it wherever it reads it: CAST({name} AS VARCHAR)."
            )
        if row["is_json"]:
            column_types[name] = values.JSON
    for path, rater in resolved.plugins.by_path().items():
        if isinstance(rater, Rater):
            names = corpus_names(resolved.columns[path])
            rater.check_types({f"{CORPUS}{name}": column_types[name] for name in names})
    if rule is not None:
        rule.check(column_types)
