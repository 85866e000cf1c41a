"""Manifests made of tables in memory, without the steps that would make them."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from selector import tables
from selector.engine.step import Done, Mapper
from selector.engine.store import Blob, Seal, Store
from selector.manifest import Manifest, Visits, commit
from selector.manifest.commit import PART_ROWS
from selector.storage import Storage


def given(value: Any) -> Any:
    """What `functools.partial` of it gives: the value itself."""
    return value


def laid_out(chosen: pa.Table, visits: pa.Table, part_rows: int = PART_ROWS) -> list[Visits]:
    """The visits part by part: `visits` (`tables.VISITS`) lists rows of `chosen`, which has the columns of
    `tables.MANIFEST` that belong to a document and the `arguments` of its reason."""
    names = [name for name in (*tables.MANIFEST.names, "arguments") if name in chosen.schema.names]
    chosen = chosen.select(names).unify_dictionaries().combine_chunks()
    parts: list[Visits] = []
    for first in range(0, visits.num_rows, part_rows):
        listed = visits.slice(first, part_rows).combine_chunks()
        rows = chosen.take(listed["document"])
        for name in ("visit", "phase", "loss_weight"):
            rows = rows.append_column(name, listed[name])
        tokens = int(rows["num_tokens"].to_numpy().sum(dtype=np.int64))
        parts.append(Visits(read=functools.partial(given, rows), rows=len(rows), tokens=tokens))
    return parts


def _sealed(storage: Storage, decisions: bytes) -> Seal:
    """The seal of an artefact whose table `decisions` has these bytes."""
    blob = Blob(sha256=hashlib.sha256(decisions).hexdigest(), num_bytes=len(decisions), num_rows=0)
    storage.ensure(blob.key, decisions)
    return Seal(key=f"decisions/{blob.sha256}", tables={"decisions": blob})


def committed_in(
    storage: Storage,
    chosen: pa.Table,
    visits: pa.Table,
    decisions: Sequence[bytes],
    part_rows: int = PART_ROWS,
    unvisited: Sequence[pa.Table] = (),
    mapper: Mapper = map,
    **options: Any,
) -> Manifest:
    """The manifest of `run`, committed by this process alone unless the mapper asks others."""
    told: Mapping[str, Any] = {"counts": {}, "lineage": {}, "models": {}, "versions": {}, **options}
    return commit(
        Done(Store(storage), mapper),
        "run",
        parts=laid_out(chosen, visits, part_rows),
        decisions=[_sealed(storage, data) for data in decisions],
        unvisited=[functools.partial(given, table) for table in unvisited],
        **told,
    )
