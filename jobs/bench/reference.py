"""The same manifest by other means: whole columns in NumPy, sorted and added up, in one process.

It shares nothing with the project but the draws and the arithmetic of `selector.exact` (hashes, keys, shares,
probabilities), and what a reader of a manifest has: its Parquet tables. So where a shard, a map or a histogram loses a
document, the two differ. It knows the selectors and orders that are spelt out below. Of any other selector or order,
and of a choice within limits, it says what that makes of all documents at once, in memory.
"""

import functools
import hashlib
import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from jobs.bench import drawn
from jobs.bench.drawn import DIMENSION, MEANINGS, SOURCES, Corpus, scores
from selector import exact, tables
from selector.errors import UsageError
from selector.exact import inclusion, keyed
from selector.exact.draws import Lottery, Moments
from selector.exact.spend import Budget
from selector.exact.vectors import vector_column
from selector.manifest.describe import INCLUDED
from selector.order import Pool
from selector.plugins import attached
from selector.plugins.options import TABLE_KINDS, ScoreName, TextsPath, columns_of, named, options_of
from selector.policy import Policy
from selector.steps.constraints import Limits, constrained
from selector.steps.neighbours import nearest_of_cluster

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
pc: Any = pyarrow.compute  # whose functions are made when it is imported
Plugin = TypeVar("Plugin")

SELECTORS, ORDERS = ("kmeans_quality", "random", "top"), ("by_score", "interleaved", "shuffled")

_LEAF_ROWS, _INCLUDED = 65_536, "included"
_COMPARISON = re.compile(r"\s*(\w+)\s*(>=|<=|<>|!=|=|>|<)\s*(?:'([^']*)'|(-?[0-9.]+))\s*")
_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge, "<=": operator.le, "<>": operator.ne, "!=": operator.ne, "=": operator.eq, ">": operator.gt,
    "<": operator.lt,
}  # fmt: skip
_ROW = np.dtype([
    ("position", "<i8"), ("doc_id", ">u8", 2), ("visit", "<u2"), ("length", "<u2"), ("phase", "S4"), ("weight", "<f4"),
])  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What becomes of every document, in corpus order, and the order of those that are kept."""

    ids: UInt64  # (documents, 2)
    outcome: npt.NDArray[np.object_]
    reason: npt.NDArray[np.object_]  # as sentences
    probability: Floats  # NaN where no selector was asked, or where it says none
    order: UInt64  # (visits, 2): the ids, first to last
    order_digest: str | None  # None where the order is not spelt out here


def answer(corpus: Corpus, policy: Policy) -> Answer:
    """What a policy makes of a drawn corpus. Raises UsageError where this page does not know how."""
    check_known(policy)
    numbers = np.arange(corpus.num_documents)
    ids = corpus.ids(numbers)
    columns: dict[str, npt.NDArray[Any]] = {
        "num_tokens": corpus.num_tokens(ids).astype(np.int64),
        "cluster": corpus.clusters(ids).astype(np.int64),
        "source": np.array(SOURCES, object)[corpus.sources(numbers)],
        **{score: scores(ids, score) for score in MEANINGS},
    }
    outcome, reason = np.full(len(ids), None, object), np.full(len(ids), None, object)

    def leave(which: Bools, became: str, why: str) -> None:
        which = which & (outcome == None)  # noqa: E711
        outcome[which], reason[which] = became, why

    leave(_repeats(ids), "duplicate", "the same text as another document")
    for manifest in policy.select.exclude:
        visited = pq.read_table(Path(manifest) / "manifest/parts", columns=["doc_id"])["doc_id"]
        leave(_are_among(ids, visited), "marked", f"excluded: it is in the manifest {manifest}")
    if policy.select.where is not None:
        rule = policy.select.where
        leave(~_passes(rule, columns), "left_out", f"where: {rule}")
    leave(columns["num_tokens"] == 0, "left_out", "no tokens: the tokenizer finds none in its text")
    order = policy.order.using
    of_order = named(policy.plugins.order, ScoreName)
    for score in sorted({*named(policy.plugins.selector, ScoreName), *of_order}):
        if policy.select.missing == "drop":
            leave(np.isnan(columns[score]), "left_out", f"no score '{score}': missing")

    pool = np.flatnonzero(outcome == None)  # noqa: E711
    of_pool = {name: values[pool] for name, values in columns.items()}
    included = np.zeros(len(pool), np.bool_)
    for option in policy.select.include:
        included |= _are_among(ids[pool], _listed(option))
    visits, chance = np.ones(len(pool), np.int64), np.ones(len(pool))
    if is_spelt_out(policy):  # what is included is paid for first, and the rest is a choice of its own
        budget = _budget(policy, of_pool["num_tokens"])
        budget = replace(budget, amount=budget.amount - int(_costs(budget, of_pool)[included].sum()))
        reason[pool[included]] = INCLUDED
        rest = ~included
        of_rest = {name: values[rest] for name, values in of_pool.items()}
        visits[rest], reason[pool[rest]], chance[rest] = _select(policy, budget, ids[pool][rest], of_rest)
    else:
        visits, reason[pool], chance = _select_at_once(corpus, policy, ids[pool], of_pool, included)
    outcome[pool] = np.where(visits > 0, "kept", "left_out")
    probability = np.full(len(ids), np.nan)
    probability[pool] = chance

    chosen = np.repeat(pool, visits)
    of_chosen = {name: values[chosen] for name, values in columns.items()}
    is_one_visit_each = bool((visits <= 1).all())
    arrange = _arrange if order.name in ORDERS and is_one_visit_each else functools.partial(_arrange_at_once, corpus)
    visited = ids[chosen][arrange(policy, ids[chosen], of_chosen)]
    digest = _digest(visited) if arrange is _arrange else None
    return Answer(ids=ids, outcome=outcome, reason=reason, probability=probability, order=visited, order_digest=digest)


def differences(corpus: Corpus, policy: Policy, run: Path) -> list[str]:
    """A sentence for everything in which a run's manifest is not the reference's; none if they agree."""
    wanted, problems = answer(corpus, policy), list[str]()
    decisions = pq.read_table(run / "decisions").unify_dictionaries().combine_chunks()
    order = pq.read_table(run / "manifest/parts", columns=["doc_id"])
    header = json.loads((run / "manifest/manifest.json").read_text("utf-8"))
    if decisions.num_rows != len(wanted.ids):
        return [f"{decisions.num_rows:,} documents have an outcome, and {len(wanted.ids):,} were drawn"]

    def compare(kind: str, ours: npt.NDArray[Any], right: npt.NDArray[Any]) -> None:
        unlike = np.flatnonzero(ours != right)
        if len(unlike):
            first = int(unlike[0])
            problems.append(
                f"{len(unlike):,} documents have another {kind}; the first is number {first}: {ours[first]!r} in the "
                f"manifest, {right[first]!r} in the reference"
            )

    for word in (0, 1):
        compare("id", keyed.words(decisions["doc_id"])[:, word], wanted.ids[:, word])
    compare("outcome", _labels(decisions["outcome"]), wanted.outcome)
    compare("reason", _sentences(decisions["reason"], decisions["arguments"]), wanted.reason)
    ours = decisions["inclusion_probability"].to_numpy().astype(np.float64)
    off = np.abs(np.nan_to_num(ours, nan=-1) - np.nan_to_num(wanted.probability, nan=-1))
    if off.max() > 1e-5:
        problems.append(f"an inclusion probability is off by {off.max():.2g}, that of document number {off.argmax()}")
    if not np.array_equal(keyed.words(order["doc_id"]), wanted.order):
        problems.append(f"the order of {order.num_rows:,} visits is another; the reference makes {len(wanted.order):,}")
    if wanted.order_digest is not None and header["order_digest"] != wanted.order_digest:
        problems.append(f"the order digest is {header['order_digest']}, and the reference's {wanted.order_digest}")
    return problems


def check_known(policy: Policy) -> None:
    """The reference can answer for this policy. Raises UsageError."""
    missing, known = policy.select.missing, ("drop", "last")
    if missing not in known:
        raise UsageError(
            f"--missing {missing}: --check knows {', '.join(known)}. Give one of them, or leave out --check."
        )
    _comparisons(policy.select.where)


def is_spelt_out(policy: Policy) -> bool:
    """Whether the choice is one that is spelt out here."""
    select = policy.select
    return select.using.name in SELECTORS and not select.shares and select.visits is None


def _budget(policy: Policy, num_tokens: npt.NDArray[Any]) -> Budget:
    """What may be chosen from documents of these lengths."""
    wanted, unit = policy.select.budget, "documents" if policy.select.budget.documents is not None else "tokens"
    amount = wanted.documents or wanted.tokens or int(Fraction(str(wanted.fraction)) * int(num_tokens.sum()))
    return Budget(amount=amount, unit=unit, overshoot=wanted.overshoot)


def _costs(budget: Budget, columns: Mapping[str, npt.NDArray[Any]]) -> Ints:
    return columns["num_tokens"] if budget.unit == "tokens" else np.ones(len(columns["num_tokens"]), np.int64)


def _listed(path: str) -> pa.ChunkedArray:
    """The ids of a table of documents, as 32 hex digits a line."""
    rows = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    return pa.chunked_array([pa.array([bytes.fromhex(row["doc_id"]) for row in rows], tables.DOC_ID)])


def _are_among(ids: UInt64, others: pa.ChunkedArray) -> Bools:
    """Which documents are among others."""
    ours, theirs = (words.astype(">u8").view("S16").reshape(-1) for words in (ids, keyed.words(others)))
    return np.isin(ours, theirs)


def _repeats(ids: UInt64) -> Bools:
    """Which documents have the id of an earlier one."""
    order = np.lexsort((np.arange(len(ids)), ids[:, 1], ids[:, 0]))
    is_repeat = np.zeros(len(ids), np.bool_)
    is_repeat[order[1:]] = (ids[order[1:]] == ids[order[:-1]]).all(axis=1)
    return is_repeat


def _comparisons(rule: str | None) -> list[tuple[str, str, str | float]]:
    """A rule as comparisons that all must hold."""
    ours = [_COMPARISON.fullmatch(part) for part in re.split(r"\bAND\b", rule)] if rule is not None else []
    if not all(ours):
        raise UsageError(
            f"--where {rule!r}: --check knows comparisons with a number or a word, joined by AND. Give such a rule, or "
            "leave out --check."
        )
    return [(m[1], m[2], float(m[4]) if m[3] is None else m[3]) for m in ours if m is not None]


def _passes(rule: str, columns: Mapping[str, npt.NDArray[Any]]) -> Bools:
    passes = np.ones(len(columns["num_tokens"]), np.bool_)
    for name, sign, value in _comparisons(rule):
        values = columns[name]
        if values.dtype == np.float32:
            passes &= ~np.isnan(values) & _COMPARE[sign](values, np.float32(value))
        else:
            passes &= _COMPARE[sign](values, value).astype(np.bool_)
    return passes


def _select(
    policy: Policy, budget: Budget, ids: UInt64, columns: Mapping[str, npt.NDArray[Any]]
) -> tuple[Ints, npt.NDArray[np.object_], Floats]:
    """How often each document of the pool is visited, the reason, and the inclusion probability."""
    options, name, unit, amount = policy.select.using.options, policy.select.using.name, budget.unit, budget.amount
    sizes = _costs(budget, columns)
    values = _column(columns[options["score"]]) if "score" in options else None
    lottery: Lottery | None = None
    clusters, group = np.array([0]), np.zeros(len(ids), np.int64)
    if values is None:
        keys = keyed.hashes(keyed.ids(ids), policy.seed, "random")
    elif name == "top":
        keys = exact.descending(values)
    else:
        clusters, group = np.unique(columns["cluster"], return_inverse=True)
        lottery = Lottery.of(Moments.of(exact.floats(values)), options.get("temperature", 2.0))
        uniforms = keyed.uniforms(keyed.ids(ids), policy.seed, "kmeans_quality")
        keys = lottery.keys(exact.floats(values), uniforms) if lottery.noise else exact.descending(values)
    totals = _sums(group, sizes, len(clusters))
    quotas = exact.apportion(amount, totals, totals)
    within, beyond = _spend(group, keys, ids, sizes, quotas, budget.overshoot)
    kept = within | beyond
    spent = _sums(group[kept], sizes[kept], len(clusters))

    if name == "kmeans_quality":
        sentences: list[list[str]] = []
        for cluster, quota in zip(clusters.tolist(), quotas.tolist(), strict=True):
            within_it, beyond_it = (
                f"cluster {cluster}: {word} quota {quota} ({unit})" for word in ("within", "beyond")
            )
            sentences.append([within_it, f"{beyond_it}, paid by what other quotas left", beyond_it])
    elif name == "top":
        best = f"among the best by {options['score']}, {spent[0]} {unit} in all"
        sentences = [[best, best, f"not {best}"]]
    else:
        drawn = f"drawn: {spent[0]} of {totals[0]} {unit} were"
        sentences = [[drawn, drawn, f"not {drawn}"]]
    reason = np.array(sentences, object)[group, np.where(within, 0, np.where(beyond, 1, 2))]

    chance = kept.astype(np.float64)
    if values is None or (lottery is not None and lottery.noise):
        stratum, log_weights = 2 * group, np.zeros(len(ids))
        if values is not None and lottery is not None:
            scored = exact.floats(values)
            stratum = stratum + np.isnan(scored)
            log_weights = lottery.log_weights(scored, _cuts(group, keys, within, len(clusters))[group])
        whole = inclusion.Drawn(group=stratum, log_weight=log_weights, sizes=sizes)
        spent_by_stratum = _sums(stratum[kept], sizes[kept], 2 * len(clusters))
        totals = _sums(stratum, sizes, 2 * len(clusters))
        is_counted = unit == "documents"
        chances = inclusion.inclusion(lambda work: [work(whole)], spent_by_stratum, totals, is_counted=is_counted)
        chance = chances(stratum, log_weights)
        if not is_counted:
            spent_by_stratum, totals = (sums.reshape(len(clusters), 2) for sums in (spent_by_stratum, totals))
            nowhere = np.zeros(len(clusters), np.bool_)
            error = inclusion.within(
                lambda work: [work(whole)], chances, spent_by_stratum, totals, quotas, nowhere, budget.overshoot
            )
            chance = np.full(len(ids), np.nan) if error is None else chance
    return kept.astype(np.int64), reason, chance


def _select_at_once(
    corpus: Corpus, policy: Policy, ids: UInt64, columns: Mapping[str, npt.NDArray[Any]], included: Bools
) -> tuple[Ints, npt.NDArray[np.object_], Floats]:
    """The same, as the selector itself says it of all documents, in one piece, within the limits of the choice."""
    pool = _pool(corpus, policy, policy.plugins.selector, ids, columns)
    names = pool.schema.names
    if policy.select.include:
        pool = pool.with_columns(pa.table({_INCLUDED: included}))
    budget = policy.select.budget.of(int(pool.table("num_tokens")["num_tokens"].to_numpy().astype(np.int64).sum()))
    selector = _attached(policy.plugins.selector, "--select")
    limits = Limits.of(policy.select, budget, _INCLUDED if policy.select.include else None)
    if limits is None:
        decisions = selector.select(pool, budget, policy.seed)
    else:
        decisions = constrained(policy.select.using.name, selector, pool, names, budget, policy.seed, limits).decisions
    read = dict.fromkeys((*decisions.columns, *decisions.known))
    verdict = pa.Table.from_batches([decisions.decide(one) for one in (decisions.pool or pool).batches(*read)])
    verdict = verdict.unify_dictionaries()
    visits = np.where(verdict["kept"].to_numpy(), verdict["visits"].to_numpy(), 0).astype(np.int64)
    chance = verdict["inclusion_probability"].to_numpy().astype(np.float64)
    return visits, _sentences(verdict["reason"], verdict["arguments"]), chance


def _attached(plugin: Plugin, path: str) -> Plugin:
    """The plug-in with the tables that its options name; texts have drawn vectors."""
    loaded: dict[str, pa.Table] = {}
    for option in options_of(plugin, *TABLE_KINDS):
        table = attached.load(option, path)
        if option.kind is TextsPath:
            vectors = vector_column(drawn.vectors_of_texts(table["text"].to_pylist()))
            table = table.append_column(tables.embeddings(DIMENSION).field("embedding"), vectors)
        loaded[option.path] = table
    return attached.attach(plugin, loaded)


def _pool(corpus: Corpus, policy: Policy, plugin: Any, ids: UInt64, columns: Mapping[str, npt.NDArray[Any]]) -> Pool:
    """All documents in one piece, with what a plug-in reads of them."""
    names, source = np.unique(columns["source"].astype(str), return_inverse=True)
    table: dict[str, Any] = {
        "doc_id": keyed.ids(ids),
        "num_tokens": pa.array(columns["num_tokens"].astype(np.uint32)),
        "source": pa.DictionaryArray.from_arrays(source.astype(np.int32), pa.array(names)),
        "cluster": pa.array(columns["cluster"].astype(np.int32)),
        "distance": pa.array(corpus.distances(ids)),
        "branches": drawn.no_branches(len(ids)),
        **{score: _column(columns[score]) for score in MEANINGS},
        "visits": pa.array(np.ones(len(ids), np.uint16)),
        "round": pa.array(np.zeros(len(ids), np.uint16)),
    }
    read = {*columns_of(plugin)}
    if read & {"embedding", "neighbours"}:
        table["embedding"] = vector_column(corpus.vectors(ids))
    if "neighbours" in read:
        near = _neighbours(corpus, policy.cluster.num_neighbours)
        rows = pc.index_in(table["doc_id"], near["doc_id"].combine_chunks())
        for name in ("neighbours", "neighbour_cosines"):
            table[name] = near[name].combine_chunks().take(rows)
    fields = [
        pa.field(name, column.type, metadata={"higher_is": MEANINGS[name]} if name in MEANINGS else None)
        for name, column in table.items()
    ]
    return Pool.of(pa.table(list(table.values()), schema=pa.schema(fields)), max(len(ids), 1))


def _neighbours(corpus: Corpus, count: int) -> pa.Table:
    """`tables.NEIGHBOURS` of all documents, also those that a rule leaves out."""
    ids = np.unique(corpus.ids(np.arange(corpus.num_documents)), axis=0)
    clusters = corpus.clusters(ids)
    groups: list[pa.RecordBatch] = []
    for cluster in np.unique(clusters):
        own = ids[clusters == cluster]
        group = {"doc_id": keyed.ids(own), "embedding": vector_column(corpus.vectors(own))}
        groups.append(nearest_of_cluster(count, pa.record_batch(group)))
    return pa.Table.from_batches(groups)


def _arrange(policy: Policy, ids: UInt64, columns: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.intp]:
    """Which of the chosen documents is seen first, which next, and so on."""
    name, options = policy.order.using.name, policy.order.using.options
    score = options.get("score")
    if score is None:
        keys = keyed.hashes(keyed.ids(ids), policy.seed, name)
    else:
        rises = options.get("direction", "curriculum") == "curriculum"
        keys = (exact.ascending if rises else exact.descending)(_column(columns[score]))
    order = _sorted(keys, ids)
    if name != "interleaved":
        return order
    group, rounds = columns[options.get("by", "source")][order], options.get("rounds", 3)
    pieces = [np.array_split(order[group == one], rounds) for one in np.unique(group)]
    return np.concatenate([of_group[number] for number in range(rounds) for of_group in pieces])


def _arrange_at_once(
    corpus: Corpus, policy: Policy, ids: UInt64, columns: Mapping[str, npt.NDArray[Any]]
) -> npt.NDArray[np.intp]:
    """The same, as the order itself says it of all visits, in one piece."""
    order = _attached(policy.plugins.order, "--order")
    pool = _pool(corpus, policy, order, ids, columns)
    return order.arrange(pool, policy.seed).visits["document"].to_numpy()


def _spend(group: Ints, keys: UInt64, ids: UInt64, sizes: Ints, quotas: Ints, overshoot: str) -> tuple[Bools, Bools]:
    """Which documents the quota of their group pays, and which what the quotas leave."""
    within, beyond = np.zeros((2, len(ids)), np.bool_)
    order = np.lexsort((ids[:, 1], ids[:, 0], keys, group))
    after = np.cumsum(sizes[order])
    before_group = np.concatenate([[0], np.cumsum(_sums(group, sizes, len(quotas)))])
    within[order] = after - before_group[group[order]] <= quotas[group[order]]
    left = int(quotas.sum() - sizes[within].sum())
    waiting = np.flatnonzero(~within)
    for place in waiting[_sorted(keys[waiting], ids[waiting])].tolist() if left else ():
        fits = sizes[place] <= left
        if fits or overshoot == "cross":
            beyond[place], left = True, left - int(sizes[place])
        if left <= 0 or (not fits and overshoot != "fill"):
            break
    return within, beyond


def _cuts(group: Ints, keys: UInt64, within: Bools, groups: int) -> UInt64:
    """The lowest key of each group that its quota did not pay; 0 if it paid for all."""
    cuts = np.full(groups, exact.LAST)
    np.minimum.at(cuts, group[~within], keys[~within])
    return np.where(_sums(group, ~within, groups) > 0, cuts, np.uint64(0))


def _digest(ids: UInt64) -> str:
    """The order digest of these visits, each the first of its document, of weight 1, in the phase main."""
    rows = np.zeros(len(ids), _ROW)
    rows["position"], rows["doc_id"], rows["length"], rows["phase"], rows["weight"] = (
        np.arange(len(ids)),
        ids,
        4,
        b"main",
        1,
    )
    leaves = [b"\0" + rows[start : start + _LEAF_ROWS].tobytes() for start in range(0, len(ids), _LEAF_ROWS)]
    nodes = [hashlib.blake2b(leaf, digest_size=32).digest() for leaf in leaves]
    while len(nodes) > 1:
        pairs = [nodes[at : at + 2] for at in range(0, len(nodes), 2)]
        nodes = [
            hashlib.blake2b(b"\1" + b"".join(pair), digest_size=32).digest() if len(pair) == 2 else pair[0]
            for pair in pairs
        ]
    return nodes[0].hex()


def _sorted(keys: UInt64, ids: UInt64) -> npt.NDArray[np.intp]:
    return np.lexsort((ids[:, 1], ids[:, 0], keys))


def _sums(group: Ints, sizes: npt.NDArray[Any], groups: int) -> Ints:
    """What the members of each group add up to; exact below 2**53."""
    return np.bincount(group, weights=sizes, minlength=groups).astype(np.int64)


def _column(values: npt.NDArray[np.float32]) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _labels(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    labels = column.combine_chunks()
    return np.array(labels.dictionary.to_pylist(), object)[labels.indices.to_numpy()]


def _sentences(templates: pa.ChunkedArray, arguments: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """The reasons with what stands in their braces."""
    texts, given = templates.combine_chunks(), arguments.combine_chunks()
    filled = [*given.dictionary.to_pylist(), "{}"]
    pairs = texts.indices.to_numpy().astype(np.int64) * len(filled)
    pairs += given.indices.fill_null(len(filled) - 1).to_numpy()
    used, codes = np.unique(pairs, return_inverse=True)
    words: list[str] = texts.dictionary.to_pylist()
    sentences = [
        _sentence(words[pair // len(filled)], json.loads(filled[pair % len(filled)])) for pair in used.tolist()
    ]
    return np.array(sentences, object)[codes]


def _sentence(template: str, given: Mapping[str, Any]) -> str:
    return re.sub(r"\{(\w+)\}", lambda brace: str(given.get(brace[1], brace[0])), template)
