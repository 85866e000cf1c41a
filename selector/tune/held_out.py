"""Held-out documents: drawn by a hash of the doc_id, and none of them like a document that an arm may choose.

A document is held out if the number that its doc_id draws is below a share; a rule keeps every arm from choosing it.
What has a near-duplicate among the other documents is not evaluated on: part of its text could have been trained on.
Near is told by runs of 32 letters and digits: how many of its sampled runs another document has too.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from selector import tables
from selector.corpus.columns import Column
from selector.engine.canonical import fingerprint
from selector.engine.executor import Executor
from selector.engine.part import Task
from selector.engine.runner import Progress
from selector.engine.step import Done
from selector.engine.store import Seal, Store
from selector.errors import CorpusError, PolicyError
from selector.exact import Floats, UInt64, keyed
from selector.plugins.catalogue import KNOWN
from selector.policy import Policy
from selector.policy.resolve import resolve
from selector.policy.where import Rule
from selector.steps.gather import Gather
from selector.tune.chosen import reading
from selector.tune.objectives import HeldOut
from selector.tune.study import HeldOutSection

pc: Any = pyarrow.compute  # whose functions are made when it is imported

VERSION = 2
"""Raised where the same options hold out other documents."""

WIDTH = 32
"""Letters and digits of a run of text that two documents share."""
_ONE_OF = 8  # runs is looked at
_OWN_COLUMNS = ("num_tokens", "doc_draw", "source", "doc_id", "text")
_AT_ONCE = 1 << 22  # bytes of text


def of(base: Policy, options: HeldOutSection, root: str, executor: Executor, progress: Progress) -> HeldOut:
    """The held-out documents of the corpus of a policy: stored in the root, or else drawn and stored."""
    held = _read(base, options, root, executor, progress)
    assert held is not None, "what is missing is done"
    if not held.documents.num_rows:
        raise CorpusError(
            f"held_out: none of the documents in {', '.join(base.corpus.paths)} can be evaluated on"
            f"{' by that rule' if options.where else ''}, or all of them have near-duplicates. Raise held_out.share,"
            " or alike."
        )
    return held


def stored(base: Policy, options: HeldOutSection, root: str, executor: Executor) -> HeldOut | None:
    """The same if they are stored; nothing is written."""
    return _read(base, options, root, executor, None)


def _read(
    base: Policy, options: HeldOutSection, root: str, executor: Executor, progress: Progress | None
) -> HeldOut | None:
    data = base.model_dump(mode="json", by_alias=True, exclude_none=True)
    rule_of = {"where": options.where} if options.where is not None else {}
    data["select"] = {"budget": {"documents": 1}, "using": "random", **rule_of}
    data = {name: value for name, value in data.items() if name not in ("order", "manifest", "training")}
    try:
        resolved = resolve(Policy.of({**data, "rate": data.get("rate", []) if options.where else []}))
    except (PolicyError, CorpusError) as error:
        if not str(error).startswith("select.where: "):
            raise
        raise type(error)(f"held_out.{str(error).removeprefix('select.')}") from error
    rule = resolved.rule
    columns = [*(KNOWN[name] for name in _OWN_COLUMNS), *(_renamed(rule) if rule else ())]
    with reading(resolved, columns, root, executor, progress) as finished:
        if finished is None:
            return None
        done, gather = finished
        key = f"held_out/{fingerprint([VERSION, gather.identities(done), options.model_dump(mode='json'), WIDTH])}"
        seal = done.store.find(key) if done.store.is_sound(key) else None
        if seal is None and progress is None:
            return None
        if seal is None:
            done.store.discard(key)
        seal = seal or _stored(done, gather, rule, options, key)
        return _opened(done.store, seal)


def opened(store: Store, key: str) -> HeldOut:
    """The held-out documents that are stored under a key."""
    seal = store.find(key)
    assert seal is not None, "it was stored before anything is measured"
    return _opened(store, seal)


def _opened(store: Store, seal: Seal) -> HeldOut:
    return HeldOut(
        documents=store.table(seal, "held_out"), fingerprint=seal.tables["held_out"].sha256[:32], key=seal.key,
        left=store.table(seal, "left"),
    )  # fmt: skip


def _stored(done: Done, gather: Gather, rule: Rule | None, options: HeldOutSection, key: str) -> Seal:
    tasks = gather.tasks(done)
    drawing = _Drawn(store=done.store, gather=gather, rule=rule, options=options)
    drawn = pa.concat_tables([tables.HELD_OUT.empty_table(), *done.map(drawing, tasks)])
    drawn = _most_of_each(drawn, options.most)
    runs = [sampled_runs([text])[0] for text in drawn["text"].to_pylist()]
    alike = _Alike(store=done.store, gather=gather, share=options.share, runs=_Runs.of(runs))
    shared, others = functools.reduce(_more_alike, done.map(alike, tasks), _none_alike(drawn.num_rows))
    is_left = pa.array(shared >= options.alike)
    columns = [
        drawn["doc_id"],
        drawn["domain"],
        pa.array(shared),
        keyed.ids(others.view(">u8").reshape(-1, 2).astype(np.uint64)),
    ]
    left = pa.Table.from_arrays(columns, schema=tables.HELD_OUT_LEFT).filter(is_left)
    return done.store.seal(key, [("held_out", drawn.filter(pc.invert(is_left))), ("left", left)])


def _renamed(rule: Rule) -> list[Column]:
    return [replace(column, name=f"rule {i}") for i, column in enumerate(rule.columns)]


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """Finds the documents of a part that are drawn, with their texts."""

    store: Store
    gather: Gather
    rule: Rule | None
    options: HeldOutSection

    def __call__(self, task: Task) -> pa.Table:
        few = [column for column in self.gather.columns if column.name != "text"]
        documents = self.gather.reader.read(self.store, task, few)
        which = (documents["doc_draw"].to_numpy() < self.options.share) & (documents["num_tokens"].to_numpy() > 0)
        if self.rule is not None:
            columns = [column.name for column in _renamed(self.rule)]
            read = documents.select(columns).rename_columns([column.name for column in self.rule.columns])
            which &= self.rule.test(read)
        if not which.any():
            return tables.HELD_OUT.empty_table()
        texts = self.gather.reader.read(self.store, task, [KNOWN["text"]])["text"].filter(pa.array(which))
        documents = documents.filter(pa.array(which))
        texts = texts.cast(pa.string())
        sizes = [len(text.encode()) for text in texts.to_pylist()]
        columns = [documents["doc_id"], documents["source"].cast(pa.string()), pa.array(sizes, pa.int64()), texts]
        return _most_of_each(pa.table(columns, schema=tables.HELD_OUT), self.options.most)


def _most_of_each(drawn: pa.Table, most: int) -> pa.Table:
    """So many documents of each domain: those that drew the lowest numbers; sorted by doc_id."""
    drawn = drawn.combine_chunks()
    numbers = keyed.uniforms(drawn["doc_id"], 0, "doc_draw")
    words = keyed.words(drawn["doc_id"])
    names, code = np.unique(np.array(drawn["domain"].to_pylist(), object), return_inverse=True)
    order = np.lexsort((words[:, 1], words[:, 0], numbers, code))
    begins = np.searchsorted(code[order], np.arange(len(names)))
    rank = np.arange(len(order)) - begins[code[order]] if len(order) else np.empty(0, np.int64)
    taken = order[rank < most]
    return drawn.take(pa.array(taken[np.lexsort((words[taken, 1], words[taken, 0]))]))


@dataclass(frozen=True, kw_only=True)
class _Runs:
    """The sampled runs of held-out documents, sorted, and whose they are."""

    hashes: UInt64
    owner: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]  # of each held-out document

    @classmethod
    def of(cls, runs: Sequence[UInt64]) -> "_Runs":
        different = [np.unique(one) for one in runs]
        hashes = np.concatenate([np.empty(0, np.uint64), *different])
        owner = np.repeat(np.arange(len(different)), [len(one) for one in different])
        order = np.argsort(hashes, kind="stable")
        return cls(hashes=hashes[order], owner=owner[order], counts=np.array([len(one) for one in different], np.int64))


_Likeness = tuple[Floats, npt.NDArray[np.bytes_]]
"""Of each held-out document the largest share of it that another document has, and the id of that one."""


def _none_alike(num_documents: int) -> _Likeness:
    return np.zeros(num_documents), np.zeros(num_documents, "S16")


def _more_alike(one: _Likeness, other: _Likeness) -> _Likeness:
    """The larger share of each; of two equal ones that of the lower id."""
    is_more = (other[0] > one[0]) | ((other[0] == one[0]) & (other[1] < one[1]))
    return np.where(is_more, other[0], one[0]), np.where(is_more, other[1], one[1])


@dataclass(frozen=True, kw_only=True)
class _Alike:
    """Says how much of each held-out document some other document of a part has: the largest share, and whose."""

    store: Store
    gather: Gather
    share: float
    runs: _Runs

    def __call__(self, task: Task) -> _Likeness:
        documents = self.gather.reader.read(self.store, task, [KNOWN["doc_draw"], KNOWN["doc_id"], KNOWN["text"]])
        documents = documents.filter(pa.array(documents["doc_draw"].to_numpy() >= self.share))
        most, start = _none_alike(len(self.runs.counts)), 0
        if not documents.num_rows or not len(self.runs.hashes):
            return most
        for texts in _portions(documents["text"]):
            ids = keyed.sortable(documents["doc_id"][start : start + len(texts)])
            start += len(texts)
            hashes, document = sampled_runs(texts)
            first = np.searchsorted(self.runs.hashes, hashes, side="left")
            count = np.searchsorted(self.runs.hashes, hashes, side="right") - first
            if not count.any():
                continue
            # one row for each pair of a run here and a held-out document that has it
            at = np.repeat(first - np.concatenate([[0], np.cumsum(count)[:-1]]), count) + np.arange(count.sum())
            rows = np.column_stack([np.repeat(document, count), self.runs.owner[at], at])
            pairs = np.unique(rows, axis=0)  # each run once for a document
            both, num_shared = np.unique(pairs[:, :2], axis=0, return_counts=True)
            owner, shares, others = both[:, 1], num_shared / self.runs.counts[both[:, 1]], ids[both[:, 0]]
            order = np.lexsort((others, -shares, owner))
            owners, begins = np.unique(owner[order], return_index=True)
            here = _none_alike(len(self.runs.counts))
            here[0][owners], here[1][owners] = shares[order[begins]], others[order[begins]]
            most = _more_alike(most, here)
        return most


def _portions(texts: pa.ChunkedArray) -> Iterator[list[str]]:
    """The texts, some megabytes at a time."""
    portion: list[str] = []
    size = 0
    for text in texts.to_pylist():
        portion.append(text)
        size += len(text)
        if size >= _AT_ONCE:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[ord("A") : ord("Z") + 1] += 32
_IS_LETTER = np.zeros(256, np.bool_)
_IS_LETTER[ord("0") : ord("9") + 1] = _IS_LETTER[ord("a") : ord("z") + 1] = True
_IS_LETTER[128:] = True


def sampled_runs(texts: Sequence[str]) -> tuple[UInt64, npt.NDArray[np.int64]]:
    """Hashes of about one in eight of the runs of letters and digits in texts, and of which text each is.

    A run has 32 bytes; case, spaces and signs do not count. A text with fewer has itself as its only run. Which runs
    are sampled follows from their own hashes, so that the same text has the same sample everywhere.
    """
    data = [text.encode("utf-8", "surrogatepass") for text in texts]
    read = _LOWER[np.frombuffer(b"".join(data), np.uint8)]
    is_letter = _IS_LETTER[read]
    of_letter = np.repeat(np.arange(len(data)), [len(one) for one in data])[is_letter]
    counts = np.bincount(of_letter, minlength=len(data))
    sizes = np.maximum(counts, WIDTH)  # short ones are filled up with zeros
    filled_before = np.cumsum(sizes - counts) - (sizes - counts)
    whole = np.zeros(sizes.sum(), np.uint64)
    whole[np.arange(len(of_letter)) + filled_before[of_letter]] = read[is_letter]
    owner = np.repeat(np.arange(len(data)), sizes)
    hashes, width = whole * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1), 1
    while width < WIDTH:  # of two runs of half the width each
        hashes = (hashes[:-width] * np.uint64(0xD6E8FEB86659FD93)) ^ (hashes[width:] + np.uint64(width))
        hashes ^= hashes >> np.uint64(29)
        width *= 2
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(31)
    inside = owner[: len(hashes)] == owner[len(whole) - len(hashes) :]
    is_short = counts < WIDTH + _ONE_OF * 4  # of which all runs are looked at
    which = inside & ((hashes % np.uint64(_ONE_OF) == 0) | is_short[owner[: len(hashes)]])
    return hashes[which], owner[: len(hashes)][which]
