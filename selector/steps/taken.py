"""Taken: the centroids of another run, under the name that they have there.

So a document that was assigned to them once, in this root, is not assigned again.
"""

from dataclasses import dataclass, field
from typing import Any

from selector.engine.step import APART, Done, Tables, Whole
from selector.engine.store import Seal, Store
from selector.policy.origin import Origin


@dataclass(frozen=True, kw_only=True)
class Taken(Whole):
    """`centroids` and their `evidence` as another run has them."""

    name: str = field(default="centroids", metadata=APART)
    reads: tuple[str, ...] = field(default=("embed",), metadata=APART)

    origin: Origin = field(metadata=APART)

    def fingerprint(self, done: Done) -> str:
        """That of the other run: it stands for all that decided them."""
        return self.origin.fingerprint

    def inputs(self, done: Done) -> Any:
        return [self.origin.fingerprint]

    def rows_out(self, seal: Seal, store: Store) -> int:
        return seal.tables["centroids"].num_rows

    def compute(self, done: Done) -> Tables:
        other = Store.open(self.origin.root)
        seal = other.sealed(self.origin.key)
        for name in seal.tables:
            yield name, other.table(seal, name)
