"""Files of every format, written and read: what the tests of the corpus share."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selector import tables
from selector.corpus import formats
from selector.corpus.rows import Rows
from selector.engine.part import Part, Piece, Task

Documents = list[dict[str, Any]]
SOME = [{"text": f"déjà {number}\n", "n": number} for number in range(11)]


def lines_of(documents: Documents) -> bytes:
    return b"".join(json.dumps(document, ensure_ascii=False).encode() + b"\n" for document in documents)


def table_of(documents: Documents) -> pa.Table:
    return pa.Table.from_pylist(documents, pa.schema([("text", pa.string()), ("n", pa.int64())]))


def write_parquet(path: Path, documents: Documents, rows_in_group: int = 1000) -> None:
    pq.write_table(table_of(documents), path, row_group_size=rows_in_group)


def write_arrow(path: Path, documents: Documents, rows_in_group: int = 1000, packed: str | None = None) -> None:
    options = pa.ipc.IpcWriteOptions(compression=packed)
    with pa.ipc.new_file(path, table_of([]).schema, options=options) as file:
        file.write_table(table_of(documents), max_chunksize=rows_in_group)


def write_stream(path: Path, documents: Documents, rows_in_group: int = 1000) -> None:
    with pa.ipc.new_stream(path, table_of([]).schema) as file:
        file.write_table(table_of(documents), max_chunksize=rows_in_group)


def values_of(documents: Documents, delimiter: str) -> bytes:
    """The documents as text, all of it quoted."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerow(["text", "n"])
    writer.writerows([document["text"], document["n"]] for document in documents)
    return text.getvalue().encode()


STREAMS: Mapping[str, Callable[[Documents], bytes]] = {
    "jsonl": lines_of,
    "json": lambda documents: json.dumps(documents, indent=2, ensure_ascii=False).encode(),
    "csv": lambda documents: values_of(documents, ","),
    "tsv": lambda documents: values_of(documents, "\t"),
    "txt": lambda documents: "<|end|>".join(document["text"] for document in documents).encode(),
}
PACKED: Mapping[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    "gz": lambda data: gzip.compress(data, 1),
    "bz2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}
GROUPS: Mapping[str, Callable[..., None]] = {
    "parquet": write_parquet,
    "arrow": write_arrow,
    "saved_dataset": write_stream,
}


def write(path: Path, name: str, documents: Documents) -> None:
    """A file of the format of that name."""
    stem, _, packed = name.partition(".")
    if stem in GROUPS:
        GROUPS[stem](path, documents)
    else:
        path.write_bytes(PACKED[packed](STREAMS[stem](documents)))


def form_of(name: str) -> formats.Format:
    return formats.find(f'{name} "<|end|>"' if name.startswith("txt") else name, "here")


def told(name: str, documents: Documents) -> dict[int, dict[str, Any]]:
    """What a file of these documents holds, by row: text has no numbers, and blank text is no row; values are text."""
    if name.startswith("txt"):
        return {row: {"text": one["text"]} for row, one in enumerate(documents) if one["text"].encode().strip()}
    if name.partition(".")[0] in ("csv", "tsv"):
        words = [{"text": one["text"] or None, "n": None if one["n"] is None else str(one["n"])} for one in documents]
        return dict(enumerate(words))
    return dict(enumerate(documents))


def part_of(path: Path, form: formats.Format, cut: formats.Range, name: str = "") -> Part:
    version, name = formats.version_of(str(path)), named(name or form.name)
    return Part.of(Piece(file=0, uri=str(path), format=name, sha256="", version=version, source=None, **cut._asdict()))


def rows_of(part: Part, columns: Sequence[str] | None, wanted: Collection[int] | None = None) -> dict[int, formats.Row]:
    """The rows of a part by their number in the file, or those with the wanted numbers."""
    places = Task(key="", part=part).places
    if wanted is not None:
        places = places[np.isin(part.find(places)[1], list(wanted))]
    return {read.number: read.row for _, _, read in formats.rows(part, columns, 1 << 20, places)}


def reader_of(path: Path, form: formats.Format, name: str | None = None) -> Rows:
    file = {"uri": str(path), "format": name or form.name, "size": path.stat().st_size}
    return Rows(pa.Table.from_pylist([file], tables.FILES))


def named(name: str) -> str:
    return f'{name} "<|end|>"' if name.startswith("txt") and " " not in name else name


def part_rows_of(part: Part) -> Any:
    return Task(key="", part=part).places
