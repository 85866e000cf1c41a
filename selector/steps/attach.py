"""Attach: the tables that a plug-in's options name, stored so that every worker has the same.

Texts get their vectors here, by the corpus's own model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from selector import tables
from selector.engine.step import APART, Done, Tables, Whole
from selector.engine.store import Seal, Store
from selector.exact.vectors import vector_column
from selector.manifest import Manifest
from selector.models.encoder import Encoder
from selector.plugins import attached
from selector.plugins.options import ManifestPath, Option, TextsPath


@dataclass(frozen=True, kw_only=True)
class Attach(Whole):
    """One table for each option of a plug-in that names one, by the option's path."""

    reads: tuple[str, ...] = field(default=(), metadata=APART)

    path: str  # of the plug-in in the policy
    options: tuple[Option, ...] = field(metadata=APART)
    contents: Mapping[str, str]  # what each of them holds
    encoder: Encoder | None

    def identity(self) -> dict[str, Any]:
        columns = {option.path: dict(option.columns.types) for option in self.options}
        encoder = self.encoder.identity() if self.encoder is not None else None
        return {"step": "attach", "version": self.version, "columns": columns, "encoder": encoder}

    def rows_in(self, done: Done) -> int:
        return 0

    def inputs(self, done: Done) -> Any:
        return dict(self.contents)

    def rows_out(self, seal: Seal, store: Store) -> int:
        return sum(blob.num_rows for blob in seal.tables.values())

    def compute(self, done: Done) -> Tables:
        for option in self.options:
            if option.kind is ManifestPath:
                yield option.path, self._visits(option)
                continue
            table = attached.load(option, self.path, self.contents.get(option.path))
            if option.kind is TextsPath:
                vectors = self.vectors(table["text"].to_pylist())
                kind = tables.embeddings(vectors.shape[1]).field("embedding")  # as documents have it
                table = table.append_column(kind, vector_column(vectors))
            yield option.path, table

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        """What the corpus's own model says of some texts, (n, dimension)."""
        assert self.encoder is not None, "texts are embedded by the corpus's model"
        return self.encoder.encode(texts).astype(np.float16).reshape(-1, self.encoder.dimension)

    def _visits(self, option: Option) -> pa.Table:
        """The documents of a manifest, a row per visit."""
        if option.value is None or not self.contents.get(option.path):
            return attached.empty(option)
        manifest = Manifest.open(str(option.value))
        rows = manifest.rows(0, len(manifest)).select(["doc_id", "position"])
        return rows.cast(pa.schema([("doc_id", tables.DOC_ID), ("position", pa.int64())]))


def loaded(done: Done, name: str | None) -> dict[str, pa.Table]:
    """The tables that a step of these stored, by the options' paths; none without a step."""
    return read(done.store, done[name].seal.key) if name is not None else {}


def read(store: Store, key: str) -> dict[str, pa.Table]:
    """The same, from the step's answer. Raises DamagedError."""
    seal = store.sealed(key)
    return {name: store.table(seal, name) for name in seal.tables}
