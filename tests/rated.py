"""What a rater says of texts, as a run would store it."""

from typing import Any

import pyarrow as pa

from selector import plugins, tables
from selector.plugins import Pool
from selector.rate import Fit, Rater
from selector.rate._answer import ratings_table
from selector.rate._fitted import learned, rater_of


def scores_of(
    name: str, options: dict[str, Any] | None = None, fitted_on: Any = None, **columns: Any
) -> dict[str, list[Any]]:
    """Every score and state of a rater, by its name; a fit learns from these documents, or from other texts or
    columns."""
    plugin = plugins.make("raters", name, options or {}, f"rate.{name}", Rater, Fit)
    batch = batch_of(**columns)
    declared = plugin if isinstance(plugin, Fit) else None
    if isinstance(plugin, Fit):
        given = {"text": fitted_on} if isinstance(fitted_on, list) else fitted_on
        sample = batch if given is None else batch_of(**given)
        rater = rater_of(name, plugin, learned(name, plugin, Pool.of(pa.Table.from_batches([sample]), 2), 0))
    else:
        assert isinstance(plugin, Rater)
        rater = plugin
    rater.prepare()
    return ratings_table(rater, name, batch, declared).to_pydict()


def batch_of(**columns: Any) -> pa.RecordBatch:
    """Documents with these columns; that of the corpus's own is `corpus_x`."""
    arrays = {key.replace("corpus_", "corpus."): value for key, value in columns.items()}
    num_rows = len(next(iter(arrays.values())))
    ids = pa.array([i.to_bytes(16, "big") for i in range(num_rows)], tables.DOC_ID)
    return pa.record_batch({"doc_id": ids, **arrays})
