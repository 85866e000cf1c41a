"""Tables from outside that a plug-in's options name: judgements, examples, what training reported.

A plug-in does no I/O: its option is a path for the user and a table for the plug-in. What the table holds is part of
the fingerprint, and is checked against the columns that the option declares before any work.
"""

import hashlib
import importlib.resources
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.json
import pyarrow.parquet as pq

from selector import tables
from selector.errors import CorpusError, PolicyError, did_you_mean, without_secrets
from selector.exact import keyed
from selector.plugins import allowed
from selector.plugins.options import (
    TABLE_KINDS,
    ArtefactPath,
    ManifestPath,
    Option,
    TablePath,
    TextsPath,
    options_of,
    replaced,
    written,
)
from selector.storage import local_path

P = TypeVar("P")
logger = logging.getLogger(__name__)
pc: Any = pyarrow.compute  # whose functions are made when it is imported

_KEY = "key"
"""The column that a table may have instead of `doc_id`: the values of the column that `corpus.key` names."""
PACKAGED = "packaged:"
"""Begins the path of a table that comes with this package."""
_TEXTS = "texts"  # the folder of those, beside this file

_NUM_DIGITS = 32  # of an id, as it is written
_VALUES = np.full(256, 255, np.uint8)  # of each digit, by its byte; 255: it is none
for _digits in (b"0123456789abcdef", b"0123456789ABCDEF"):
    _VALUES[list(_digits)] = range(16)

_ONE_THREAD = pyarrow.json.ReadOptions(use_threads=False)  # as in `engine.store.from_parquet`


def checksums(plugin: object, path: str) -> dict[str, str]:
    """What identifies the tables that the plug-in's options name, by the options' paths.

    Raises PolicyError, naming the plug-in by its `path` in the policy, for one that cannot be read or lacks a column.
    """
    by_path: dict[str, str] = {}
    for option in written(plugin, TablePath, TextsPath, ArtefactPath):
        data = _read(option, path)
        by_path[option.path] = _checksum(data)
        if data is not None:
            _check_rows(option, path, _table(option, path, data))
        else:
            logger.warning(
                "%s.%s: there is no file %r, so its table is empty until there is one. If it is to be there, look at "
                "its path (from %s).", path, option.path, str(option.value), os.getcwd(),
            )  # fmt: skip
    return by_path


def _check_rows(option: Option, path: str, rows: pa.Table) -> None:
    """The table has rows where the plug-in cannot do without, and one at most for each document that it is joined to.
    Raises PolicyError."""
    where = f"{path}.{option.path}: the table {str(option.value)!r}"
    key = None if option.columns.is_many else option.columns.key
    if key is None:
        if not rows.num_rows and not option.is_optional:
            raise PolicyError(f"{where} has no rows. Write one at least.")
        return
    if len(option.columns.types) == 1:  # a list of documents
        return
    counted = rows[key].drop_null().value_counts()
    is_again = counted.field("counts").to_numpy() > 1
    if is_again.any():
        first = counted.field("values").filter(pa.array(is_again))[0]
        named = first.as_py().hex()
        if _KEY in rows.schema.names:
            named = repr(rows[_KEY][rows[key].index(first).as_py()].as_py())
        raise PolicyError(f"{where} has several rows for one document, such as {named}. Keep one row for each.")


def load(option: Option, path: str, checksum: str | None = None) -> pa.Table:
    """The rows of the table that an option names, in the types that it declares; none where an optional one is
    absent. Raises CorpusError where it is no longer what has this checksum."""
    data = _read(option, path) if option.value is not None else None
    if checksum is not None and checksum != _checksum(data):
        raise CorpusError(f"{path}.{option.path}: {option.value} changed during the run. Run the same command again.")
    return empty(option) if data is None else _table(option, path, data)


def empty(option: Option) -> pa.Table:
    """A table with the option's columns and no rows."""
    return _schema(option).empty_table()


def attach(plugin: P, loaded: Mapping[str, pa.Table]) -> P:
    """The plug-in with the tables that its options name, by their paths; an absent optional one has no rows."""
    given: dict[str, Any] = {}
    for option in options_of(plugin, *TABLE_KINDS):
        value = option.value if option.value is not None else option.kind("")
        given[option.path] = value.attached(loaded[option.path] if option.path in loaded else empty(option))
    return replaced(plugin, given)


def opened(plugin: P, path: str) -> P:
    """The plug-in with the artefacts that its options name. Raises PolicyError, naming the plug-in by its `path`, for
    one that cannot be read."""
    options = written(plugin, ArtefactPath)
    for option in options:
        if not str(option.value).startswith(PACKAGED):
            allowed.check(f"{path}.{option.path}", str(option.value))
    given = {option.path: option.value.attached(load(option, path)) for option in options}
    return replaced(plugin, given)


def _schema(option: Option) -> pa.Schema:
    if option.kind is ManifestPath:
        return pa.schema([("doc_id", tables.DOC_ID), ("position", pa.int64())])
    declared = list(option.columns.schema)
    if option.kind is TextsPath and "text" not in option.columns.types:
        declared.insert(0, pa.field("text", pa.string()))
    return pa.schema(declared)


def _table(option: Option, path: str, data: bytes) -> pa.Table:
    where = f"{path}.{option.path}: the table {str(option.value)!r}"
    is_parquet = str(option.value).lower().endswith(".parquet")
    try:
        reader = pa.BufferReader(data)
        if is_parquet:
            rows = pq.ParquetFile(reader).read(use_threads=False)
        else:
            rows = pyarrow.json.read_json(reader, _ONE_THREAD)
    except (pa.ArrowException, OSError) as error:
        if not data.strip():
            return empty(option)
        if not is_parquet and "changed from" in str(error):
            raise PolicyError(f"{where} has values of two types in one column: {error}. Write it in one.") from error
        raise PolicyError(f"{where} is not {'Parquet' if is_parquet else 'JSONL'}: {error}.") from error
    if option.columns.key is not None and option.columns.key not in rows.schema.names and _KEY in rows.schema.names:
        rows = rows.append_column(option.columns.key, _ids_of_keys(rows[_KEY], where))
    for field in _schema(option):
        if field.name not in rows.schema.names:
            hint = did_you_mean(field.name, rows.schema.names)
            if field.name == option.columns.key:
                hint += f" A column {_KEY!r} with the values of corpus.key will do, too."
            raise PolicyError(f"{where} has no column {field.name!r}. {hint}")
        at = rows.schema.get_field_index(field.name)
        try:
            values = _ids(rows[field.name]) if field.type == tables.DOC_ID else _cast(rows[field.name], field.type)
        except (pa.ArrowException, ValueError) as error:
            kind = "32 hex digits" if field.type == tables.DOC_ID else str(field.type)
            cure = " Write true or false, or 1 or 0." if pa.types.is_boolean(field.type) else ""
            raise PolicyError(f"{where} has a column {field.name!r} that is not {kind}: {error}.{cure}") from error
        rows = rows.set_column(at, field, values)
    return rows.combine_chunks()


def _cast(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Values in another type. Raises ValueError with the first number that is neither 0 nor 1, where true or false is
    asked for: Arrow takes any number but 0 for true."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    cast = values.cast(kind)
    if pa.types.is_boolean(kind) and (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        is_other = pc.not_equal(values, cast.cast(values.type))
        if pc.any(is_other).as_py():
            raise ValueError(repr(values.filter(is_other)[0].as_py()))
    return cast


def _ids(values: pa.ChunkedArray) -> pa.Array:
    """Ids as 16 bytes, from what they are written as: 32 hex digits, or bytes."""
    if values.type == tables.DOC_ID:
        return values.combine_chunks()
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        return values.combine_chunks().cast(tables.DOC_ID)
    return _from_hex(tables.whole(values.cast(pa.string())))


def _from_hex(written: pa.Array) -> pa.Array:
    """Ids of what are 32 hex digits each; null where nothing is written. Raises ValueError with the first that is not.

    Whole columns at once: a table that training writes has a row for every document of every round.
    """
    is_null = written.is_null().to_numpy(zero_copy_only=False)
    digits = written.fill_null("0" * _NUM_DIGITS).cast(pa.binary())
    is_id = pc.equal(pc.binary_length(digits), _NUM_DIGITS).to_numpy(zero_copy_only=False)
    if is_id.all():
        whole: Any = digits.cast(pa.binary(_NUM_DIGITS))
        data = whole.buffers()[1] or b""
        values = _VALUES[np.frombuffer(data, np.uint8, count=len(whole) * _NUM_DIGITS)].reshape(-1, _NUM_DIGITS)
        is_id = (values < 16).all(axis=1)
        if is_id.all():
            data = pa.py_buffer((values[:, ::2] << 4 | values[:, 1::2]).tobytes())
            ids = pa.Array.from_buffers(tables.DOC_ID, len(whole), [None, data])
            return ids.take(pa.array(np.arange(len(ids)), mask=is_null)) if is_null.any() else ids
    raise ValueError(repr(written[int(np.flatnonzero(~is_id)[0])].as_py()))


def _ids_of_keys(keys: pa.ChunkedArray, where: str) -> pa.Array:
    """The ids of the documents that have these keys, as ingest makes them of `corpus.key`."""
    if not (pa.types.is_string(keys.type) or pa.types.is_large_string(keys.type) or pa.types.is_integer(keys.type)):
        raise PolicyError(f"{where} has a column {_KEY!r} of {keys.type}. Write keys as text or whole numbers.")
    ids = [None if key is None else keyed.digest(str(key).encode()) for key in keys.to_pylist()]
    return pa.array(ids, tables.DOC_ID)


def _checksum(data: bytes | None) -> str:
    """The sha256 of a file's bytes; empty where an optional file is absent."""
    return "" if data is None else hashlib.sha256(data).hexdigest()


def _read(option: Option, path: str) -> bytes | None:
    """The bytes of the file; None where an optional one is not there."""
    if str(option.value).startswith(PACKAGED):
        return _packaged(str(option.value).removeprefix(PACKAGED), f"{path}.{option.path}")
    place = local_path(str(option.value))
    if place is None:
        raise PolicyError(
            f"{path}.{option.path}: {without_secrets(str(option.value))!r} is an address, and a table is a file that "
            "every node sees. Copy it, and give its path."
        )
    try:
        return Path(os.path.expanduser(place)).read_bytes()
    except FileNotFoundError as error:
        if option.is_optional:
            return None
        raise _unreadable(option, path, error) from error
    except OSError as error:
        raise _unreadable(option, path, error) from error


def _packaged(name: str, where: str) -> bytes:
    """The bytes of a table that comes with this package."""
    folder = importlib.resources.files("selector.plugins") / _TEXTS
    known = sorted(file.name.removesuffix(".jsonl") for file in folder.iterdir() if file.name.endswith(".jsonl"))
    if name not in known:
        raise PolicyError(f"{where}: there is no packaged table {name!r}. {did_you_mean(name, known)}")
    return (folder / f"{name}.jsonl").read_bytes()


def _unreadable(option: Option, path: str, error: OSError) -> PolicyError:
    return PolicyError(
        f"{path}.{option.path}: the table {str(option.value)!r} cannot be read: {error.strerror}. "
        "Give a JSONL or Parquet file."
    )
