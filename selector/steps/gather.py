"""The parts' tables put side by side: the pool that may be chosen from, and what became of everything else.

Every part's tables follow the order of its corpus file, so nothing is joined across parts and nothing is
held beyond the part being read. A document meets, in this order: quarantine, its duplicate, the `where`
rule, a missing score, the selector.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from selector import tables
from selector.corpus.texts import align
from selector.engine.part import Part
from selector.engine.store import Seal, Store
from selector.plugins.pool import Pool
from selector.policy.where import Rule

_FATE_ROWS = 1 << 20
_KEPT, _LEFT_OUT, _DUPLICATE, _QUARANTINED = range(4)
assert tables.FATES == ("kept", "left_out", "duplicate", "quarantined")


@dataclass(frozen=True, kw_only=True)
class PartTables:
    """All that is stored about one part."""

    index: int
    part: Part
    documents: Seal  # every document
    live: str  # key of those that go on
    tables: Mapping[str, Seal]  # `embeddings`, `clusters`, and each rater's ratings by the rater's name


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A part's live documents, and why some of them cannot be chosen: `code` indexes `reasons`, -1 for none."""

    live: pa.Table
    code: npt.NDArray[np.int32]
    reasons: Sequence[str]

    @property
    def eligible(self) -> npt.NDArray[np.bool_]:
        return self.code < 0


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Everything known of every document, part by part."""

    store: Store
    parts: Sequence[PartTables]
    dimension: int
    duplicates: pa.Table
    clashes: pa.Table
    scores: Mapping[str, tuple[str, str]]  # score: (rater, higher_is)
    used: tuple[str, ...]  # scores without which a document cannot be chosen or placed
    rule: Rule | None
    missing: Literal["drop", "last", "impute"]

    @functools.cached_property
    def schema(self) -> pa.Schema:
        """The columns of the pool."""
        documents = [field for field in tables.DOCUMENTS if field.name != "text_id"]
        scores = [pa.field(name, pa.float32(), metadata={"higher_is": is_}) for name, (_, is_) in self.scores.items()]
        embedding = tables.embeddings(self.dimension).field("embedding")
        return pa.schema([*documents, *list(tables.CLUSTERS)[1:], embedding, *scores, pa.field("file", pa.uint32())])

    @functools.cached_property
    def lacking(self) -> tuple[str, ...]:
        """The used scores that some document lacks, and that so decide who may be chosen: no other one does."""
        if self.missing == "last":
            return ()

        def lacks(score: str, part: PartTables) -> bool:
            return self.store.table(part.tables[self.scores[score][0]], "ratings", [score])[score].null_count > 0

        return tuple(score for score in self.used if any(lacks(score, part) for part in self.parts))

    def pool(self) -> Pool:
        """The documents that may be chosen."""
        num_documents = sum(int(self._verdict(part).eligible.sum()) for part in self.parts)
        return Pool(schema=self.schema, num_documents=num_documents, load=self.batches)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The pool's batches with these columns, in corpus order."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        for part in self.parts:
            verdict = self._verdict(part, columns)
            if verdict.eligible.any():
                chosen = verdict.live.filter(pa.array(verdict.eligible)).select(list(columns))
                yield from chosen.cast(schema).combine_chunks().to_batches()

    def fates(self, decisions: Iterator[pa.RecordBatch]) -> Iterator[tuple[str, pa.Table]]:
        """What became of every document, in named tables (`tables.FATE`) of about a million rows."""
        held: list[pa.Table] = []
        count = num_rows = 0
        for part in self.parts:
            held.append(self._part_fates(part, decisions))
            num_rows += held[-1].num_rows
            if num_rows >= _FATE_ROWS:
                yield f"fates-{count:05}", pa.concat_tables(held).unify_dictionaries().combine_chunks()
                held, num_rows, count = [], 0, count + 1
        if held:
            yield f"fates-{count:05}", pa.concat_tables(held).unify_dictionaries().combine_chunks()

    def _part_fates(self, part: PartTables, decisions: Iterator[pa.RecordBatch]) -> pa.Table:
        documents = self.store.table(part.documents, "documents", ["doc_id", "row"])
        n = documents.num_rows
        rows = documents["row"].to_numpy()
        fate = np.full(n, -1, np.int32)
        code = np.full(n, -1, np.int32)
        reasons = ["the same text as another document", "quarantined in dedup: its key is another document's"]
        leader = np.full(n, -1, np.int64)
        probability = np.zeros(n, np.float32)
        rounds = np.zeros(n, np.uint16)

        lost = [table.filter(pc.field("part") == part.index) for table in (self.duplicates, self.clashes)]
        for which, (table, word) in enumerate(zip(lost, (_DUPLICATE, _QUARANTINED), strict=True)):
            at = np.searchsorted(rows, table["row"].to_numpy())
            fate[at], code[at] = word, which
            leader[at] = np.arange(len(at)) + (which and lost[0].num_rows)

        verdict = self._verdict(part)
        at = np.searchsorted(rows, verdict.live["row"].to_numpy())
        is_lost = np.array([reason.startswith("quarantined") for reason in verdict.reasons], np.bool_)
        out = ~verdict.eligible
        fate[at[out]] = np.where(is_lost[verdict.code[out]], _QUARANTINED, _LEFT_OUT) if out.any() else 0
        code[at[out]] = verdict.code[out] + len(reasons)
        reasons += verdict.reasons
        if verdict.eligible.any():
            decided = next(decisions)
            assert decided.schema.names == tables.DECISIONS.names and decided.num_rows == verdict.eligible.sum(), (
                "a selector must answer for every document of every batch"
            )
            at = at[verdict.eligible]
            why = decided.column("reason")
            fate[at] = np.where(decided.column("kept").to_numpy(zero_copy_only=False), _KEPT, _LEFT_OUT)
            code[at] = why.indices.to_numpy() + len(reasons)
            reasons += why.dictionary.to_pylist()
            probability[at] = decided.column("inclusion_probability").to_numpy()
            rounds[at] = decided.column("round").to_numpy()
        assert (fate >= 0).all() and (code >= 0).all(), "every document has a fate"
        leaders = pa.concat_arrays([table["duplicate_of"].combine_chunks() for table in lost])
        columns: list[Any] = [
            documents["doc_id"], np.full(n, part.part.file, np.uint32), documents["row"],
            pa.DictionaryArray.from_arrays(fate, pa.array(tables.FATES)),
            pa.DictionaryArray.from_arrays(code, pa.array(reasons)),
            leaders.take(pa.array(leader, mask=leader < 0)), probability, rounds,
        ]  # fmt: skip
        return pa.table(columns, schema=tables.FATE)

    def _verdict(self, part: PartTables, columns: Sequence[str] = ()) -> Verdict:
        """A part's live documents with these columns, and which of them cannot be chosen."""
        wanted = {*columns, *self.used, *(self.rule.columns if self.rule else ())}
        live = self.store.read(part.live, "documents")
        code = np.full(live.num_rows, -1, np.int32)
        reasons: list[str] = []

        def leave_out(which: npt.NDArray[np.bool_], reason: str) -> None:
            code[which & (code < 0)] = len(reasons)
            reasons.append(reason)

        for seal in part.tables.values():
            if seal.tables["quarantine"].num_rows:
                lost = self.store.table(seal, "quarantine", ["row", "step", "reason"]).group_by(["step", "reason"])
                for group in lost.aggregate([("row", "list")]).to_pylist():
                    here = np.isin(live["row"].to_numpy(), group["row_list"])
                    leave_out(here, f"quarantined in {group['step']}: {group['reason']}")
        live = self._with_columns(part, live, wanted)
        if self.rule is not None:
            leave_out(~self.rule.test(self._rule_table(part, live)), f"where: {self.rule.text}")
        for score in self.used:
            absent = live[score].is_null().to_numpy()
            if absent.any() and self.missing == "impute":
                at = live.schema.get_field_index(score)
                mean = pa.scalar(self._means[score], pa.float32())
                live = live.set_column(at, live.schema.field(at), live[score].fill_null(mean))
            elif absent.any() and self.missing == "drop":
                states = live[f"state of {score}"].combine_chunks()
                codes = states.indices.to_numpy(zero_copy_only=False)  # NaN where a table lost the document
                for index, state in enumerate(states.dictionary.to_pylist()):
                    leave_out(absent & (codes == index), f"no score {score!r}: {state}")
        return Verdict(live=live, code=code, reasons=reasons)

    def _with_columns(self, part: PartTables, live: pa.Table, wanted: set[str]) -> pa.Table:
        """The live documents with the wanted columns of every table; null where a table lost the document."""
        sources = dict.fromkeys(("embedding",), "embeddings") | dict.fromkeys(("cluster", "distance"), "clusters")
        sources |= {score: rater for score, (rater, _) in self.scores.items()}
        for source in dict.fromkeys(sources[name] for name in sorted(wanted) if name in sources):
            names = [name for name in wanted if sources.get(name) == source]
            is_rating = source not in ("embeddings", "clusters")
            table = self.store.table(
                part.tables[source],
                "ratings" if is_rating else source,
                ["doc_id", *names, *(["state"] if is_rating else [])],
            )
            rows = align(live["doc_id"], table)
            picked = table.take(pa.array(rows, mask=rows < 0))
            for name in names:
                live = live.append_column(name, picked[name])
                if is_rating:
                    live = live.append_column(f"state of {name}", picked["state"])
        if "file" in wanted:
            live = live.append_column("file", pa.array(np.full(live.num_rows, part.part.file, np.uint32)))
        return live

    def _rule_table(self, part: PartTables, live: pa.Table) -> pa.Table:
        assert self.rule is not None
        table = live.select(list(self.rule.columns))
        if self.rule.corpus_columns:
            extras = self.store.table(part.documents, "documents", ["row", *self.rule.corpus_columns])
            extras = extras.take(pa.array(np.searchsorted(extras["row"].to_numpy(), live["row"].to_numpy())))
            for name in self.rule.corpus_columns:
                table = table.append_column(name, extras[name])
        return table

    @functools.cached_property
    def _means(self) -> dict[str, float]:
        """The mean of every used score over the documents that have it."""
        means: dict[str, float] = {}
        for score in self.used:
            total, count = 0.0, 0
            for part in self.parts:
                ratings = self.store.table(part.tables[self.scores[score][0]], "ratings", [score])
                values = ratings[score].drop_null().to_numpy()
                total, count = total + float(values.sum(dtype=np.float64)), count + len(values)
            means[score] = total / count if count else 0.0
        return means
