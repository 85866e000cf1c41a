"""The texts of visits, read from the corpus where it lies.

Each text is hashed again and compared with the doc_id in the manifest, so a corpus that changed under a
manifest is noticed at the first document that is not the one that was chosen. (With a key column the id is
that of the key: then a changed key is noticed, a changed text is not unless the file's size changed.)
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from selector import tables
from selector.consume.columns import Column, as_array, ids
from selector.corpus import fields, render
from selector.corpus.rows import Rows
from selector.errors import CorpusError
from selector.exact import keyed
from selector.manifest import Manifest

TEXT_COLUMNS = ("file", "row", *tables.BYTES, "doc_id")
"""The columns of `tables.MANIFEST` that say where a text is and how to know it."""


class Texts:
    """The texts of one manifest's documents, as its policy renders them. Safe to fork and to pickle."""

    def __init__(self, manifest: Manifest) -> None:
        self._files = manifest.files
        self._text: str = manifest.info["policy"]["corpus"]["text"]
        self._key: str | None = manifest.info["policy"]["corpus"]["key"]
        key = [] if self._key is None else [fields.column_of(self._key)]
        self._columns = list(dict.fromkeys([*render.file_columns(self._text), *key]))
        self._rows = Rows(self._files)

    def read(self, visits: pa.Table) -> list[str]:
        """The text of each visit, in order. Raises CorpusError, naming file and row, if it is not the one chosen."""
        return self.read_columns({name: as_array(visits[name]) for name in TEXT_COLUMNS})

    def read_columns(self, visits: Mapping[str, Column]) -> list[str]:
        """The same of visits as `Columns` gives them, with `TEXT_COLUMNS`."""
        files, numbers, offsets, lengths, doc_ids = (visits[name] for name in TEXT_COLUMNS)
        assert isinstance(files, np.ndarray) and isinstance(numbers, np.ndarray)
        rows = self._rows.read(files, numbers, self._columns, offsets, lengths)
        return [
            self._text_of(row, doc_id, file, number)
            for row, doc_id, file, number in zip(rows, ids(doc_ids), files.tolist(), numbers.tolist(), strict=True)
        ]

    def _text_of(self, row: dict[str, Any], doc_id: bytes, file: int, number: int) -> str:
        try:
            text = render.render(row, self._text)
        except render.NoText as error:
            raise self._changed(file, number, f"it has no text now ({error})") from error
        key = text if self._key is None else str(fields.find(row, self._key))
        key_id = keyed.digest(key.encode())
        if key_id != doc_id:
            raise self._changed(file, number, f"its doc_id is {key_id.hex()}, and {doc_id.hex()} was chosen")
        return text

    def _changed(self, file: int, number: int, difference: str) -> CorpusError:
        return CorpusError(
            f"Row {number} of {self._files['uri'][file].as_py()} is not the document that the manifest names: "
            f"{difference}. Put the file back as it was, or run the policy again on the corpus as it is."
        )
