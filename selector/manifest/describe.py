"""What is told of a manifest: of the whole, of one document, and the sentence that a reason becomes when it is shown.

A reason is stored as a template and its arguments, which many documents share: "cluster {cluster}: beyond {quota}" and
{"cluster":17,"quota":12}. Here it becomes "cluster 17: beyond 12". Nothing reads a sentence back.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.errors import NotFoundError
from selector.exact import keyed
from selector.manifest.digest import labels
from selector.manifest.format import Stored
from selector.manifest.header import Header

_Array = npt.NDArray[Any]

_BRACES = re.compile(r"\{(\w+)\}")


def sentence(template: str, arguments: str | None, row: Mapping[str, Any] | None = None) -> str:
    """The reason as a person reads it: what stands in braces is replaced by its argument, or by the row's value.

    `arguments` is a JSON object, or None where the template is a sentence as it stands. Braces that neither the
    arguments nor the row have a value for stay as they are.
    """
    if arguments is None:
        return template
    values: dict[str, Any] = {**(row or {}), **json.loads(arguments)}
    return _BRACES.sub(
        lambda brace: _word(values[brace[1]]) if values.get(brace[1]) is not None else brace[0], template
    )


def heading(template: str, shared: Mapping[str, str] = MappingProxyType({})) -> str:
    """A template without what differs from document to document: "cluster: beyond quota (tokens)", "not drawn".

    `shared` are the arguments that do not differ. A clause after the first of which two differ goes whole.
    """
    first, *rest = re.split(r"(?=[:,] )", template)
    clauses = [first, *(clause for clause in rest if _num_open(clause, shared) < 2)]
    filled = re.sub(
        r"\s*\(?\{(\w+)\}\)?", lambda brace: brace[0] if brace[1] in shared else "", "".join(clauses)
    ).strip()
    return _BRACES.sub(lambda brace: shared.get(brace[1], brace[0]), filled)


def _num_open(clause: str, shared: Mapping[str, str]) -> int:
    """How many of a clause's braces, but for those in parentheses, have another value in every document."""
    return sum(name not in shared for name in _BRACES.findall(re.sub(r"\(.*?\)", "", clause)))


@dataclass(frozen=True, kw_only=True)
class Reasons:
    """How many rows have which reason. Those of parts of a table add up, in any order."""

    counts: Mapping[str, int] = field(default_factory=dict[str, int])  # by sentences, of reasons without arguments
    templates: Mapping[str, tuple[int, Mapping[str, str]]] = field(
        default_factory=dict[str, tuple[int, Mapping[str, str]]]
    )
    """By templates, of those with some: and the arguments that all the rows share, as words."""

    @classmethod
    def of(cls, reasons: pa.ChunkedArray, arguments: pa.ChunkedArray) -> "Reasons":
        """The reasons of rows; both columns are labels."""
        templates, codes = labels(reasons)
        given, given_codes = labels(arguments)
        pairs, counts = np.unique(codes.astype(np.int64) * len(given) + given_codes, return_counts=True)
        sentences, filled = dict[str, int](), list[tuple[str, tuple[int, Mapping[str, str]]]]()
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            template, arguments_json = templates[pair // len(given)], given[pair % len(given)]
            if arguments_json:
                values: dict[str, Any] = json.loads(arguments_json)
                words = {name: _word(value) for name, value in values.items() if value is not None}
                filled.append((template, (count, words)))
            else:
                sentences[template] = count
        return cls(counts=sentences, templates=_merged(filled))

    def __add__(self, other: "Reasons") -> "Reasons":
        counts = dict(Counter(self.counts) + Counter(other.counts))
        return Reasons(counts=counts, templates=_merged([*self.templates.items(), *other.templates.items()]))

    def by_heading(self) -> dict[str, int]:
        """Rows by the reason as a person reads it: a sentence, or what the rows with one template have in common."""
        by_heading = Counter(self.counts)
        for template, (count, shared) in self.templates.items():
            by_heading[heading(template, shared)] += count
        return dict(by_heading)


def _merged(
    pairs: Iterable[tuple[str, tuple[int, Mapping[str, str]]]],
) -> dict[str, tuple[int, Mapping[str, str]]]:
    """By template: rows, and the arguments that all of them share."""
    merged: dict[str, tuple[int, Mapping[str, str]]] = {}
    for template, (count, words) in pairs:
        before, shared = merged.get(template, (0, words))
        both = {name: word for name, word in shared.items() if words.get(name) == word}
        merged[template] = before + count, both
    return merged


def describe(stored: Stored) -> dict[str, Any]:
    """Documents, visits and tokens; phases; visits and tokens by source and by cluster; `difficulty`, its mean in each
    tenth of the order, None where no visit has one; `reasons`, how many rows were left out for each; the facts and the
    counts. Reads through all parts."""
    header = stored.header
    sources: dict[str, dict[str, int]] = {}
    clusters: dict[int, dict[str, int]] = {}
    rated = np.zeros((10, 2))
    num_documents = 0
    for table in stored.parts("parts", ["position", "visit", "source", "cluster", "num_tokens", "difficulty"]):
        num_documents += int(np.count_nonzero(table["visit"].to_numpy() == 0))
        _tally(sources, *labels(table["source"]), table["num_tokens"].to_numpy())
        clustered = table.filter(table["cluster"].is_valid())
        numbers, codes = np.unique(clustered["cluster"].to_numpy(), return_inverse=True)
        _tally(clusters, numbers.tolist(), codes, clustered["num_tokens"].to_numpy())
        table = table.filter(table["difficulty"].is_valid())
        tenth = table["position"].to_numpy() * 10 // header.counts.visits
        rated[:, 0] += np.bincount(tenth, minlength=10)
        rated[:, 1] += np.bincount(tenth, weights=table["difficulty"].to_numpy(), minlength=10)
    content = header.to_json()
    return {
        "digest": header.digest,
        "documents": num_documents,
        "visits": header.counts.visits,
        "tokens": header.counts.tokens,
        "phases": content["phases"],
        "sources": dict(sorted(sources.items())),
        "clusters": dict(sorted(clusters.items())),
        "difficulty": [total / count if count else None for count, total in rated.tolist()],
        "reasons": dict(header.counts.reasons),
        "facts": content["facts"],
        "counts": content["counts"],
    }


def undone(header: Header) -> Iterator[str]:
    """A line for each thing that the policy asked for and the manifest does not have: budget, rounds, visits; and for
    sources that the corpus does not have."""
    chosen, arranged = header.facts.select, header.facts.order
    if without := header.counts.without_source:
        yield f"source: {without:,} documents have none, and their file's name stands for it"
    if "shortfall" in chosen:
        budget, spent, unit, reason = (chosen["shortfall"][name] for name in ("budget", "spent", "unit", "reason"))
        yield f"budget: {spent:,} of {budget:,} {unit} are spent, {budget - spent:,} are left: {reason}"
    if {"include", "shares"} & set(header.policy["select"]):
        yield from _limits_not_met(chosen["limits"])
    if "waiting" in chosen:
        yield f"waiting: {chosen['waiting']}. What is decided so far is here; the same command goes on."
    for reason, count in arranged.get("left", {}).items():
        visits = "1 visit is" if count == 1 else f"{count:,} visits are"
        yield f"order: {visits} not made: {reason}"


def _limits_not_met(limits: Mapping[str, Any]) -> Iterator[str]:
    if "included" in limits:
        listed, kept = limits["included"]["listed"], limits["included"]["documents"]
        if kept < listed:
            yield f"include: {listed - kept:,} of {listed:,} documents may not be chosen, or are not in the corpus"
    shares = limits.get("shares", {"groups": {}})
    for name, group in shares["groups"].items():
        spent, least = group["spent"], group["least"]
        if spent < least:
            group_name = f"{shares['by']} {name}"
            yield f"shares: {group_name} has {spent:,} of at least {least:,} {shares['unit']}: there is no more for it"


def explain(stored: Stored, doc_id: bytes, visits: pa.Table) -> dict[str, Any]:
    """What became of a document, whose visits are these rows of the manifest, and why. Raises NotFoundError."""
    decided = list(_decisions(stored, doc_id, visits))
    if not decided:
        raise NotFoundError(f"There is no document {doc_id.hex()} in the corpus of this manifest.")
    uris = stored.table("files")["uri"]
    decision, *copies = sorted(decided, key=lambda row: (row["outcome"] != "kept", row["outcome"] == "duplicate"))
    decision["of"] = None
    if decision["rank"] is not None:
        decision["rank"] += 1
    elif decision["value"] is not None:
        decision["rank"], decision["of"] = _rank(stored, doc_id, decision["arguments"], decision["value"])
    unvisited = of_document(stored.table("unvisited"), doc_id)["reason"]
    return {
        **decision,
        "doc_id": doc_id.hex(),
        "reason": sentence(decision["reason"], decision["arguments"], decision),
        "arguments": json.loads(decision["arguments"] or "{}"),
        "other": decision["other"] and decision["other"].hex(),
        "uri": uris[decision["file"]].as_py(),
        "positions": visits["position"].to_pylist(),
        "unvisited": unvisited.to_pylist(),
        "copies": [{"uri": uris[row["file"]].as_py(), "row": row["row"], "outcome": row["outcome"]} for row in copies],
    }


def _decisions(stored: Stored, doc_id: bytes, visits: pa.Table) -> Iterator[dict[str, Any]]:
    """The decisions on the documents with this id: found by file and row where it can be one only, else by all ids."""
    header = stored.header
    wanted = range(len(header.decisions))
    if len(visits) and not header.counts.duplicate and not header.counts.quarantined:  # then no other row has this id
        place = visits["file"][0].as_py(), visits["row"][0].as_py()
        begins = [(part.first_file, part.first_row) if part.rows else None for part in header.decisions]
        wanted = [index for index, begin in enumerate(begins) if begin is not None and begin <= place][-1:]
    for index in wanted:
        if len(of_document(stored.part("decisions", index, ["doc_id"]), doc_id)):
            yield from of_document(stored.part("decisions", index), doc_id).to_pylist()


def _rank(stored: Stored, doc_id: bytes, arguments: str | None, value: float) -> tuple[int, int]:
    """The place of a value among those of the decisions with the same arguments, from 1 on, and how many those are."""
    before, of = 0, 0
    wanted = keyed.words(pa.array([doc_id], tables.DOC_ID))[0]
    for table in stored.parts("decisions", ["doc_id", "arguments", "value"]):
        names, codes = labels(table["arguments"])
        here = (
            np.array([name == (arguments or "") for name in names], np.bool_)[codes]
            & table["value"].is_valid().to_numpy()
        )
        table = table.filter(pa.array(here))
        values, ids = table["value"].to_numpy(), keyed.words(table["doc_id"])
        is_smaller = (ids[:, 0] < wanted[0]) | ((ids[:, 0] == wanted[0]) & (ids[:, 1] < wanted[1]))
        before += int(np.count_nonzero((values > value) | ((values == value) & is_smaller)))
        of += len(table)
    return before + 1, of


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}" if not value.is_integer() else str(int(value))
    return value.hex() if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False)


def of_document(table: pa.Table, doc_id: bytes) -> pa.Table:
    """The rows about a document; without Arrow's threads, as `engine.store.from_parquet`."""
    wanted = keyed.words(pa.array([doc_id], tables.DOC_ID))
    return table.filter(pa.array((keyed.words(table["doc_id"]) == wanted).all(axis=1)))


def _tally(account: dict[Any, dict[str, int]], names: list[Any], codes: _Array, tokens: _Array) -> None:
    """Adds the visits and tokens of each name to the account."""
    visits = np.bincount(codes, minlength=len(names)).tolist()
    sums = np.bincount(codes, weights=tokens, minlength=len(names)).tolist()
    for name, number, total in zip(names, visits, sums, strict=True):
        entry = account.setdefault(name, {"visits": 0, "tokens": 0})
        entry["visits"] += number
        entry["tokens"] += int(total)
