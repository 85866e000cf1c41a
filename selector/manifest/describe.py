"""What is told of a manifest: of the whole, of one document, and the sentence that a reason becomes when it is shown.

A reason is stored as a template and its arguments, which many documents share: "cluster {cluster}: beyond {quota}" and
{"cluster":17,"quota":12}. Here it becomes "cluster 17: beyond 12". Nothing reads a sentence back.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.errors import NotFoundError, listed
from selector.exact import keyed
from selector.manifest.digest import labels
from selector.manifest.format import Stored
from selector.manifest.header import Header
from selector.manifest.measures import GroupMeasures, ScoreMeasures, window_of
from selector.manifest.unmet import left, unmet

_Array = npt.NDArray[Any]

DUPLICATE, NO_TOKENS, INCLUDED = (
    "the same text as another document",
    "no tokens: the tokenizer finds none in its text",
    "included by the policy",
)
QUARANTINED, WHERE, NO_SCORE = "quarantined in ", "where: ", "no score "
"""Reasons of ours, or their beginnings: by these `explain` knows which clause decided."""

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
    tenth of the order, None where no visit has one; `measures` of the order (`selector.manifest.measures`); `reasons`,
    how many rows were left out for each; the facts and the counts. Reads through all parts."""
    header = stored.header
    num_visits, borders = header.counts.visits, [(phase.name, phase.first_position) for phase in header.phases[1:]]
    of_scores = {name: ScoreMeasures(num_visits, borders) for name in ("difficulty", "quality")}
    of_groups = {name: GroupMeasures(num_visits) for name in ("source", "cluster")}
    sources: dict[str, dict[str, int]] = {}
    clusters: dict[int, dict[str, int]] = {}
    rated = np.zeros((10, 2))
    num_documents = 0
    columns = ["position", "visit", "source", "cluster", "num_tokens", "difficulty", "quality"]
    for part, table in zip(header.parts, stored.parts("parts", columns), strict=True):
        num_documents += int(np.count_nonzero(table["visit"].to_numpy() == 0))
        _tally(sources, *labels(table["source"]), table["num_tokens"].to_numpy())
        for name, measures in of_scores.items():
            measures.take_in(part.first_position, table[name].to_numpy().astype(np.float64))
        of_groups["source"].take_in(part.first_position, *labels(table["source"]))
        groups = table["cluster"].combine_chunks().dictionary_encode("encode")
        of_groups["cluster"].take_in(part.first_position, groups.dictionary.to_pylist(), groups.indices.to_numpy())
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
        "measures": {
            "window": window_of(num_visits),
            **{name: measures.to_json() for name, measures in of_scores.items()},
            "diversity": {name: measures.to_json() for name, measures in of_groups.items()},
        },
        "reasons": dict(header.counts.reasons),
        "facts": content["facts"],
        "counts": content["counts"],
    }


def undone(header: Header) -> Iterator[str]:
    """A line for each thing that the policy asked for and the manifest does not have: budget, rounds, visits; for
    sources that the corpus does not have; and where the best documents come when training learns little of them."""
    chosen, arranged = header.facts.select, header.facts.order
    if without := header.counts.without_source:
        yield f"source: {without:,} documents have none, and their file's name stands for it"
    for names in chosen.get("absent", []):
        yield _absent(**names)
    yield from hardly_scored(header.facts.scores or {})
    if "shortfall" in chosen:
        budget, spent, unit, reason = (chosen["shortfall"][name] for name in ("budget", "spent", "unit", "reason"))
        yield f"budget: {spent:,} of {budget:,} {unit} are spent, {budget - spent:,} are left: {reason}"
    if {"include", "shares"} & set(header.policy["select"]):
        yield from _limits_not_met(chosen)
    if "fallback" in chosen:
        yield f"rounds: {chosen['fallback']}"
    yield from _of_feedback(rows_not_read(chosen))
    yield from _of_positives(chosen.get("positives", {}))
    if "waiting" in chosen:
        yield f"waiting: {chosen['waiting']}. What is decided so far is here; the same command goes on."
    yield from (left(reason, count) for reason, count in arranged.get("left", {}).items())
    yield from unmet(arranged)
    if header.facts.training is not None and "best" in header.facts.training:
        yield from best_where_little_counts(header.facts.training["best"]["counts"], header.policy["training"])


LEAST_SCORED = 0.05  # of the documents: with fewer, the score is likely to be a mistake

_WITHOUT = {
    "missing": "what the rater reads has nothing of them: compare its keys, or its columns, with the corpus",
    "failed": "what the rater reads of them cannot be rated, such as a number that is not finite",
    "not_applicable": "the rater has nothing to say of such documents",
}


def hardly_scored(scores: Mapping[str, Any]) -> Iterator[str]:
    """A line for each score that no document has, or almost none."""
    for name, of in scores.items():
        if of["documents"] and of["scored"] < LEAST_SCORED * of["documents"]:
            states = "; ".join(f"{count:,} {state}: {_WITHOUT[state]}" for state, count in of["without"].items())
            num_scored = f"{of['scored']:,}" if of["scored"] else "none"
            yield f"score {name}: {num_scored} of {of['documents']:,} documents have it ({states})"


_LITTLE = 0.5  # of what an average visit counts; ours


def best_where_little_counts(counts: float, training: Mapping[str, Any]) -> Iterator[str]:
    """A line where the best tenth of the visits counts little in the weights at the end."""
    if counts >= _LITTLE:
        return
    cures = ["write order.using: where_it_counts around this order"]
    if training["schedule"]["decay"] != "constant":
        cures = ["let the rate fall less (training.schedule.final: 0.5) and average checkpoints", *cures]
    yield (
        f"training: the best tenth by quality counts {counts:.2g} times what an average visit counts in the weights at"
        " the end. Published orders of ascending quality lose their gain where the rate falls to nothing (arXiv"
        f" 2511.18903); {', or '.join(cures)}"
    )


def _absent(option: str, column: str, names: Sequence[str], nearest: Mapping[str, str], known: Sequence[str]) -> str:
    """What is said of names that an option has and no document."""
    line = f"{option}: no document that may be chosen has the {column} {listed(names)}"
    if nearest:
        meant = listed([f"{near!r} for {name!r}" if len(names) > 1 else repr(near) for name, near in nearest.items()])
        return f"{line}. Did you mean {meant}?"
    return f"{line}. There is: {listed(known)}" if known else line


def rows_not_read(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What the facts of a choice say of feedback that no round asked for: numbers of rows; empty if there are none."""
    names = ("unknown", "of_other_rounds", "other_rounds")
    return {name: number for name in names if (number := chosen.get("feedback", {}).get(name))}


def _of_feedback(feedback: Mapping[str, Any]) -> Iterator[str]:
    """A line for rows of feedback that no round asked for."""
    if number := feedback.get("unknown"):
        yield f"feedback: {_rows_are(number)} about documents that the round did not choose, and not read"
    if number := feedback.get("of_other_rounds"):
        rounds = ", ".join(str(one) for one in feedback["other_rounds"])
        yield f"feedback: {_rows_are(number)} of rounds that nothing waits for ({rounds}), and not read"


def _of_positives(positives: Mapping[str, int]) -> Iterator[str]:
    """A line for what is said to answer queries, and says nothing here."""
    if number := positives.get("of_other_queries"):
        yield f"positives: {_rows_are(number)} of a query that is not among the queries, and not read"
    if number := positives.get("of_other_documents"):
        documents = "1 document" if number == 1 else f"{number:,} documents"
        yield f"positives: {documents} may not be chosen or are not in the corpus, so what is like them is not left out"


def _rows_are(number: int) -> str:
    return "1 row is" if number == 1 else f"{number:,} rows are"


def _limits_not_met(chosen: Mapping[str, Any]) -> Iterator[str]:
    """A line for each limit that is not met and will not be: later rounds may meet what this one leaves open."""
    limits = chosen["limits"]
    if "included" in limits:
        listed, kept = limits["included"]["listed"], limits["included"]["documents"]
        if kept < listed:
            yield f"include: {listed - kept:,} of {listed:,} documents may not be chosen, or are not in the corpus"
    if "waiting" in chosen or "shares" not in limits:
        return
    shares = limits["shares"]
    unknown = {name for one in chosen.get("absent", []) if one["option"] == "select.shares" for name in one["names"]}
    for name, group in shares["groups"].items():
        spent, least = group["spent"], group["least"]
        if spent < least and name not in unknown:  # of what no document has there is a line already
            group_name = f"{shares['by']} {name}"
            yield f"shares: {group_name} has {spent:,} of at least {least:,} {shares['unit']}: there is no more for it"


def explain(stored: Stored, doc_id: bytes, visits: pa.Table) -> dict[str, Any]:
    """What became of a document, whose visits are these rows of the manifest, and why. Raises NotFoundError."""
    decided = list(_decisions(stored, doc_id, visits))
    if not decided:
        raise NotFoundError(f"There is no document {doc_id.hex()} in the corpus of this manifest.")
    uris = stored.table("files")["uri"]
    decision, *copies = sorted(decided, key=lambda row: (row["outcome"] != "kept", row["outcome"] == "duplicate"))
    group = _Group()
    if decision["rank"] is not None:
        decision["rank"] += 1
    elif decision["value"] is not None:
        group = _group(stored, doc_id, decision["arguments"], decision["value"])
        decision["rank"] = group.rank
    decided_by = _decided_by(decision)
    unvisited = of_document(stored.table("unvisited"), doc_id)["reason"]
    return {
        **decision,
        "of": group.documents,
        "decided_by": decided_by,
        "would_change": _would_change(decision, decided_by, group),
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


@dataclass(frozen=True, kw_only=True)
class _Group:
    """A document among those of its group, by their values: None where there is none."""

    rank: int | None = None  # counted from 1
    documents: int | None = None
    num_kept: int = 0
    last_kept: float | None = None  # the least value of those that are kept
    first_left: float | None = None  # the largest of those that are not


def _group(stored: Stored, doc_id: bytes, arguments: str | None, value: float) -> _Group:
    """The place of a value among those of the decisions with the same arguments. Reads all decisions."""
    before, of, num_kept, last, first = 0, 0, 0, np.inf, -np.inf
    wanted = keyed.words(pa.array([doc_id], tables.DOC_ID))[0]
    for table in stored.parts("decisions", ["doc_id", "outcome", "arguments", "value"]):
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
        outcomes, codes = labels(table["outcome"])
        kept = np.array([outcome == "kept" for outcome in outcomes], np.bool_)[codes]
        num_kept += int(kept.sum())
        last, first = min(last, values[kept].min(initial=np.inf)), max(first, values[~kept].max(initial=-np.inf))
    bounds = [float(bound) if np.isfinite(bound) else None for bound in (last, first)]
    return _Group(rank=before + 1, documents=of, num_kept=num_kept, last_kept=bounds[0], first_left=bounds[1])


def _decided_by(decision: Mapping[str, Any]) -> str:
    """Which step decided, or which key of the policy."""
    outcome, reason = decision["outcome"], decision["reason"]
    if outcome == "duplicate":
        return "dedup"
    if outcome == "quarantined":
        return reason.partition(":")[0].removeprefix(QUARANTINED)
    if outcome == "marked":
        return "select.exclude"
    if outcome == "left_out" and decision["arguments"] is None:
        for beginning, key in ((WHERE, "select.where"), (NO_TOKENS, "ingest"), (NO_SCORE, "select.missing")):
            if reason.startswith(beginning):
                return key
    return "select.include" if outcome == "kept" and reason == INCLUDED else "select.using"


def _would_change(decision: Mapping[str, Any], decided_by: str, group: _Group) -> str:
    """What would lead to another verdict."""
    others = {
        "dedup": "a corpus without the document that it repeats",
        "ingest": "a text in which the tokenizer finds something",
        "select.exclude": "select.exclude without that manifest",
        "select.where": "a rule that lets it pass",
        "select.missing": "a rater that gives it this score, or select.missing: last or impute",
        "select.include": "select.include without it: the selector would then decide",
    }
    if decision["outcome"] == "quarantined":
        return "a row that can be read, and a step that does not lose it"
    if decided_by in others:
        return others[decided_by]
    is_kept, chance = decision["outcome"] == "kept", decision["inclusion_probability"]
    ways: list[str] = []
    if not is_kept and decision["other"] is not None:
        ways.append("another verdict on the document that decided its lot")
    elif group.rank is not None and is_kept and group.first_left is not None:
        ways.append(f"a value below {group.first_left:.6g}")
    elif group.rank is not None and not is_kept and group.last_kept is not None:
        ways.append(f"a value above {group.last_kept:.6g}")
    if group.rank is not None and (group.rank <= group.num_kept) == is_kept:
        paid = f"pays for {'fewer than ' if is_kept else ''}{group.rank:,} of its group, and not for {group.num_kept:,}"
        ways.append(f"a budget that {paid}")
    elif not ways or decision["rank"] is not None:
        ways.append(f"a {'smaller' if is_kept else 'larger'} budget")
    if chance is None or 0 < chance < 1:  # where nothing was left to chance, it is 0 or 1
        ways.append("another seed")
    return ", or ".join(ways)


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
