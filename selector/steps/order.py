"""Order: every visit in its place."""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from selector.engine.canonical import canonical_json, fingerprint
from selector.engine.step import APART, Done, Tables, Whole
from selector.engine.store import Seal, Store
from selector.errors import SelectorError
from selector.exact import UInt64, keyed
from selector.exact.rates import Training
from selector.order import Order, Positions, arranged
from selector.order._around import is_arranged_by_shards
from selector.plugins import attached
from selector.plugins.families import name_of
from selector.plugins.options import plugins_in
from selector.plugins.pool import Pool
from selector.steps import attach, ranges, select
from selector.steps.chosen import Chosen, ChosenShard

SHARDS = pa.schema([("key", pa.string()), ("visits", pa.int64())])
FACTS = pa.schema([("json", pa.string()), ("beginnings", pa.list_(pa.string()))])


@dataclass(frozen=True, kw_only=True)
class OrderStep(Whole):
    """`shards`, a row for each shard: `key` is that of the `positions` of its chosen documents (`ranges.POSITIONS`),
    and of those that are `left` (`tables.LEFT`); and `facts`."""

    name: str = field(default="order", metadata=APART)
    version = 5

    order: Order = field(metadata=APART)
    label: str = field(metadata=APART)
    order_identity: Mapping[str, Any]
    seed: int
    chosen: Chosen = field(metadata=APART)
    attach: str | None = field(metadata=APART)
    training: Training | None = field(metadata=APART)

    def inputs(self, done: Done) -> Any:
        training: list[Any] = []
        if self.training is not None and self._reads_training:
            training = [asdict(self.training)]
        elif self.training is not None and self._reads_batch:
            training = [self.training.global_batch_size]
        return [done["select"].fingerprint, self.chosen.identities(done), *training]

    @property
    def _reads_training(self) -> bool:
        return any(getattr(inner, "reads_training", False) for inner in plugins_in(self.order))

    @property
    def _reads_batch(self) -> bool:
        return any(getattr(inner, "reads_batch", False) for inner in plugins_in(self.order))

    def rows_out(self, seal: Seal, store: Store) -> int:
        return sum(store.table(seal, "shards", ["visits"])["visits"].to_pylist())

    def shares(self, done: Done) -> list[str]:
        return [shard["key"] for shard in shards_of(done)]

    def compute(self, done: Done) -> Tables:
        order = attached.attach(self.order, attach.loaded(done, self.attach))
        own, num_rounds, beginnings = self.fingerprint(done), select.num_rounds(done), list[str]()
        if num_rounds is None:
            keys, facts = self._arranged(done, own, order, None)
        else:
            keys, facts, beginnings = self._round_after_round(done, own, order, num_rounds)
        rows = [{"key": key, "visits": _num_visits(done.store, key)} for key in keys]
        yield "shards", pa.Table.from_pylist(rows, schema=SHARDS)
        yield "facts", pa.table([[canonical_json(facts).decode()], [beginnings]], schema=FACTS)

    def _arranged(self, done: Done, own: str, order: Order, number: int | None) -> tuple[list[str], dict[str, Any]]:
        """The keys of what each shard's rows are in the order, and the facts; of the documents of a round, or of all.
        What is stored is stored under `own`."""
        pool, shards = self.chosen.pool(done, own, number), self.chosen.shards(done, number)
        if self._reads_training or self._reads_batch:
            pool = replace(pool, training=self.training)
        if is_arranged_by_shards(order):
            answer = ranges.arranged(done, own, self.label, order, pool, shards, self.seed)
            return answer.keys, {"facts": answer.facts, "phases": {k: dict(v) for k, v in answer.phases.items()}}
        _check_can_be_held(self.label, order, pool.num_documents)
        ids = keyed.words(pool.table("doc_id")["doc_id"])
        positions = arranged(self.label, order, pool, ids, self.seed)
        keys = [_stored(done.store, own, shard, *cut) for shard, cut in zip(shards, _cut(pool, positions), strict=True)]
        return keys, {"facts": dict(positions.facts), "phases": {k: dict(v) for k, v in positions.phases.items()}}

    def _round_after_round(
        self, done: Done, own: str, order: Order, num_rounds: int
    ) -> tuple[list[str], dict[str, Any], list[str]]:
        """The same, where every round is arranged by itself: so an order begins as it did when a round was the last.
        And for each round a hash of all visits up to its end."""
        if self._reads_training:
            raise SelectorError(
                f"order.using: {self.label} reads how the whole order will be trained on, and select.using decides in "
                "rounds that are trained on before the next one is known. Write another order."
            )
        answers = [self._arranged(done, fingerprint([own, n]), order, n) for n in range(num_rounds)]
        sizes = [sum(_num_visits(done.store, key) for key in keys) for keys, _ in answers]
        firsts = np.cumsum([0, *sizes]).tolist()
        put = functools.partial(_put_after_each_other, done.store, own, firsts)
        items = list(zip(self.chosen.shards(done), zip(*(keys for keys, _ in answers), strict=True), strict=True))
        facts = {f"round {n + 1}": one["facts"] for n, (_, one) in enumerate(answers) if one["facts"]}
        phases = {
            _in_round(n, name): of_phase
            for n, (_, one) in enumerate(answers)
            for name, of_phase in one["phases"].items()
        }
        keys, sums = zip(*done.map(put, items), strict=True)
        hashes = np.cumsum(np.sum(sums, axis=0), axis=0)
        return list(keys), {"facts": facts, "phases": phases}, [row.tobytes().hex() for row in hashes]


def _check_can_be_held(label: str, order: Order, num_rows: int) -> None:
    """Raises SelectorError where an order that must be arranged in one piece has more rows than it may hold."""
    holding = [one for one in plugins_in(order) if isinstance(one, Order) and not is_arranged_by_shards(one)]
    least = min(holding, key=lambda one: one.most_held)
    if num_rows > least.most_held:
        raise SelectorError(
            f"order.using: {label} must hold all visits at once ({name_of(least)} does), and {num_rows:,} chosen "
            f"documents are more than the {least.most_held:,} that it may hold. Choose fewer (select.budget), or write "
            "an order that is arranged shard by shard: most are, and those around another one wherever that is."
        )


def shards_of(done: Done) -> list[dict[str, Any]]:
    """A row of `SHARDS` for each shard."""
    return done.once("order: shards", lambda: done.table("order", "shards").to_pylist())


def facts_of(done: Done) -> dict[str, Any]:
    """What the order said of itself as a whole: `facts`, and `phases` by name."""
    return json.loads(done.table("order", "facts")["json"][0].as_py())


def beginnings(done: Done) -> list[str]:
    """For each round that is trained on before the next one is decided, a hash of all visits up to its end."""
    return done.table("order", "facts")["beginnings"][0].as_py()


def _cut(pool: Pool, positions: Positions) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The visits and what is left, for each shard, with its own rows."""
    visits = positions.visits.append_column("position", pa.array(np.arange(positions.visits.num_rows)))
    visits, left = (_by_row(table) for table in (visits, positions.left))
    first = 0
    for batch in pool.batches("doc_id"):
        end = first + batch.num_rows
        yield _of_rows(visits, first, end).sort_by("position"), _of_rows(left, first, end)
        first = end


def _by_row(table: pa.Table) -> pa.Table:
    return table.take(pa.array(np.argsort(table["document"].to_numpy(), kind="stable"))).combine_chunks()


def _of_rows(table: pa.Table, first: int, end: int) -> pa.Table:
    """The rows about some rows of the pool, which are counted from the first of them; the table is sorted by them."""
    rows = table["document"].to_numpy()
    at = table.schema.get_field_index("document")
    start, stop = np.searchsorted(rows, [first, end]).tolist()
    return table.slice(start, stop - start).set_column(at, "row", pa.array(rows[start:stop] - first))


def _stored(store: Store, own: str, shard: ChosenShard, visits: pa.Table, left: pa.Table) -> str:
    """The key of a shard's positions, once they are stored."""
    positions = visits.select(ranges.POSITIONS.names).cast(ranges.POSITIONS)
    left = left.rename_columns(["document", *left.schema.names[1:]])
    key = f"order.shards/{fingerprint([own, shard.number])}"
    return store.seal(key, [("positions", positions), ("left", left)], form="arrow").key


def _put_after_each_other(
    store: Store, own: str, firsts: Sequence[int], item: tuple[ChosenShard, tuple[str, ...]]
) -> tuple[str, UInt64]:
    """The key of a shard's positions, once they are stored: those of every round, of which the first is at `firsts`.
    And for each round the sum of the hashes of its visits, (rounds, 2)."""
    shard, keys = item
    documents = shard.read(store, ["round", "doc_id"])
    rounds, sums = documents["round"].to_numpy(), np.zeros((len(keys), 2), np.uint64)
    positions, left = [ranges.POSITIONS.empty_table()], list[pa.Table]()
    for number, (key, first) in enumerate(zip(keys, firsts, strict=False)):
        rows = np.flatnonzero(rounds == number)
        of_round, not_visited = store.read(key, "positions"), store.read(key, "left")
        phases = of_round["phase"].combine_chunks()
        words = [_in_round(number, name) for name in phases.dictionary.to_pylist()]
        columns: dict[str, Any] = {
            "row": rows[of_round["row"].to_numpy()],
            "position": of_round["position"].to_numpy() + first,
            "visit": of_round["visit"],
            "phase": pa.DictionaryArray.from_arrays(phases.indices, pa.array(words, pa.string())),
            "loss_weight": of_round["loss_weight"],
        }
        placed = pa.table([columns[name] for name in ranges.POSITIONS.names], schema=ranges.POSITIONS)
        sums[number] = _hashes(documents["doc_id"].take(placed["row"].combine_chunks()), placed).sum(axis=0)
        positions.append(placed)
        at = not_visited.schema.get_field_index("document")
        of_shard = pa.array(rows[not_visited["document"].to_numpy()])
        left.append(not_visited.set_column(at, not_visited.schema.field(at), of_shard))
    key = f"order.shards/{fingerprint([own, shard.number])}"
    tables = [pa.concat_tables(some).unify_dictionaries().combine_chunks() for some in (positions, left)]
    return store.seal(key, list(zip(("positions", "left"), tables, strict=True)), form="arrow").key, sums


def _hashes(ids: pa.Array, positions: pa.Table) -> UInt64:
    """Two hashes of each visit, (n, 2): of all that the digest of an order covers."""
    phases = positions["phase"].combine_chunks()
    words = [int.from_bytes(keyed.digest(name.encode())[:8]) for name in phases.dictionary.to_pylist()]
    more = [
        positions["position"].to_numpy().astype(np.uint64),
        positions["visit"].to_numpy().astype(np.uint64),
        np.array([*words, 0], np.uint64)[phases.indices.to_numpy()],
        positions["loss_weight"].to_numpy().view(np.uint32).astype(np.uint64),
    ]
    hashes = np.empty((len(ids), 2), np.uint64)
    for seed in range(2):
        hashed = keyed.hashes(ids, seed, "beginning of an order")
        for number in more:
            hashed = keyed.hashes(keyed.ids(np.column_stack([hashed, number])), seed, "beginning of an order")
        hashes[:, seed] = hashed
    return hashes


def _in_round(number: int, phase: str) -> str:
    """What a phase is called in a round. The one phase of an order without phases is that of its round."""
    return f"round {number + 1}" if phase == "main" else f"round {number + 1}/{phase}"


def _num_visits(store: Store, key: str) -> int:
    return store.sealed(key).tables["positions"].num_rows
