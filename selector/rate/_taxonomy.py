"""How like the descriptions of a taxonomy a document is, by embeddings."""

import numpy as np
import pyarrow as pa

from selector.errors import PolicyError
from selector.exact import Floats
from selector.exact.vectors import vectors_of


def cosines(batch: pa.RecordBatch, taxonomy: pa.Table) -> Floats:
    """The cosine of each document with each description, (documents, descriptions). They are sums of products that do
    not round in 64 bits, so they do not depend on the batch."""
    documents = vectors_of(batch["embedding"]).astype(np.float64)
    described = vectors_of(taxonomy["embedding"].combine_chunks()).astype(np.float64)
    return documents @ described.T


def check(taxonomy: pa.Table, where: str) -> None:
    """Raises PolicyError where there is nothing to compare with."""
    if not taxonomy.num_rows:
        raise PolicyError(
            f"{where}: the taxonomy has no rows. Write one for each class: its text and what belongs to it."
        )
