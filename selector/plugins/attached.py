"""Tables from outside that a plug-in's options name: judgements, examples, what training reported.

Plug-ins do no I/O, so an option of type `Table` or `Texts` is a path for the user and a table for the
plug-in, in `Pool.side` under the option's name. Its content is part of the step's fingerprint.
"""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from selector.errors import PolicyError
from selector.plugins.options import Table, Texts, options_of


def checksums(plugin: Any) -> dict[str, str]:
    """sha256 of every file that the plug-in's options name. Raises PolicyError for one that cannot be read."""
    return {
        name: hashlib.sha256(_read(path)).hexdigest()
        for kind in (Table, Texts)
        for name, path in options_of(plugin, kind).items()
    }


def load(path: str) -> pa.Table:
    """The rows of a JSONL or Parquet file, whole: these are small. Raises PolicyError."""
    data = pa.BufferReader(_read(path))
    try:
        return pq.read_table(data) if path.endswith(".parquet") else pyarrow.json.read_json(data)
    except (pa.ArrowInvalid, OSError) as error:
        raise PolicyError(
            f"{path} is not a {'Parquet' if path.endswith('.parquet') else 'JSONL'} table: {error}."
        ) from error


def _read(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise PolicyError(
            f"The table {path!r} cannot be read: {error.strerror}. Give a JSONL or Parquet file."
        ) from error
