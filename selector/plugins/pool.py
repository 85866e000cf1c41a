"""The documents a selector chooses from, or an order arranges: columns by name, batch by batch.

Think of a pool as a table too large to hold. Its batches always come in corpus order, and reading them
again gives the same batches again, so an exact method can pass over the pool as often as it needs in
memory that does not grow with it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Columns: doc_id, source, num_bytes, num_tokens, cluster, distance, embedding, and every score by its name.

    An order's pool has round and inclusion_probability too. `side` has the tables that the plug-in's options
    name. A score is float32; it is null only where the policy says `missing: last`, and a null sorts last. What
    a large score means is its field's `higher_is`.
    """

    schema: pa.Schema
    num_documents: int
    load: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
    side: Mapping[str, pa.Table] = field(default_factory=dict)

    @classmethod
    def of(cls, data: pa.Table, batch_rows: int = 65_536) -> "Pool":
        """A pool over a table in memory."""

        def load(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
            chosen = data.select(list(columns)).combine_chunks()
            for start in range(0, data.num_rows, batch_rows):
                yield from chosen.slice(start, batch_rows).to_batches()

        return cls(schema=data.schema, num_documents=data.num_rows, load=load)

    def batches(self, *columns: str) -> Iterator[pa.RecordBatch]:
        """The pool's batches with these columns, in corpus order."""
        return self.load(columns)

    def table(self, *columns: str) -> pa.Table:
        """These columns whole. For orders, and for selectors that cannot work batch by batch."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        return pa.Table.from_batches(list(self.batches(*columns)), schema=schema).unify_dictionaries().combine_chunks()

    def higher_is(self, score: str) -> str:
        """What a large value of this score means: harder, better, rarer or closer."""
        return (self.schema.field(score).metadata or {})[b"higher_is"].decode()
