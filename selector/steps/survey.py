"""Survey: every corpus file is read once, for its checksum, its rows, and where its parts begin."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from selector import tables
from selector.corpus import formats
from selector.engine import alive
from selector.engine.part import Part, Task
from selector.engine.step import APART, Done, Map
from selector.engine.store import Seal, Store

_BLOCK = 4 << 20  # bytes that are read at a time

PARTS = pa.schema([("first_row", pa.int64()), ("num_rows", pa.int64()), ("start", pa.int64()), ("end", pa.int64())])


@dataclass(frozen=True, kw_only=True)
class Survey(Map):
    """What each file is, and how it is cut into parts. An unreadable file is quarantined whole."""

    name: str = field(default="survey", metadata=APART)
    version = 2
    output = "parts"
    reads: tuple[str, ...] = field(default=(), metadata=APART)

    rows_per_part: int | None
    uris: tuple[str, ...] = field(metadata=APART, default=())
    sources: tuple[str | None, ...] = field(metadata=APART, default=())  # the constant source of each file

    def rows_in(self, done: Done) -> int:
        return len(self.uris)

    def tasks(self, done: Done) -> Sequence[Task]:
        return [self.task(uri, source) for uri, source in zip(self.uris, self.sources, strict=True)]

    def task(self, uri: str, source: str | None) -> Task:
        """The task of one file, which is a part of no rows yet."""
        version = formats.version_of(uri)
        part = Part(
            file=0, uri=uri, format=formats.format_of(uri).name, sha256="", version=version,
            first_row=0, num_rows=0, start=0, end=0, source=source,
        )  # fmt: skip
        return Task(key=self.key(uri, version), part=part)

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        part = task.part
        unread: str | None = None
        sha256 = ""
        ranges: list[formats.Range] = []
        try:
            with formats.reading(part.uri):
                sha256 = _sha256(part.uri)
            ranges = formats.find(part.format, part.uri).cut(part.uri, self.rows_per_part)
        except formats.Corrupt as error:
            unread = str(error)
        lost = {"row": None, "step": self.name, "reason": "corrupt_file", "detail": f"{part.uri}: {unread}"}
        file = {
            "uri": part.uri,
            "format": part.format,
            "num_rows": sum(piece.num_rows for piece in ranges),
            "size": os.path.getsize(part.uri),
            "sha256": sha256,
            "unread": unread,
        }
        return {
            "parts": pa.Table.from_pylist([piece._asdict() for piece in ranges], schema=PARTS),
            "file": pa.Table.from_pylist([file], schema=tables.FILES),
            "quarantine": pa.Table.from_pylist([lost] if unread is not None else [], schema=tables.QUARANTINE),
        }


def _sha256(path: str) -> str:
    checksum = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            checksum.update(block)
            alive.sign()
    return checksum.hexdigest()


def parts(done: Done, survey: Survey) -> Sequence[Part]:
    """Every part of the corpus, in corpus order."""
    return done.once("survey: parts", lambda: list(_parts(done, survey)))


def _parts(done: Done, survey: Survey) -> Iterator[Part]:
    for file, (task, seal) in enumerate(zip(survey.tasks(done), done["survey"].parts, strict=True)):
        yield from parts_of(file, task, seal, done.store)


def parts_of(file: int, task: Task, seal: Seal, store: Store) -> list[Part]:
    """The parts that a survey found in one file."""
    sha256 = store.table(seal, "file", ["sha256"])["sha256"][0].as_py()
    return [
        dataclasses.replace(task.part, file=file, sha256=sha256, **row)
        for row in store.table(seal, "parts").to_pylist()
    ]


def inventory(done: Done) -> pa.Table:
    """`tables.FILES` of the whole corpus."""
    return done.once("survey: files", lambda: pa.concat_tables(done.tables("survey", "file")))


def unreadable(done: Done) -> pa.Table:
    """The quarantine of files that cannot be read, each with its `uri`."""
    lost = [tables.QUARANTINE.append(pa.field("uri", pa.string())).empty_table()]
    for uri, seal in zip(inventory(done)["uri"].to_pylist(), done["survey"].parts, strict=True):
        if seal.tables["quarantine"].num_rows:
            table = done.store.table(seal, "quarantine")
            lost.append(table.append_column("uri", pa.repeat(uri, table.num_rows)))
    return pa.concat_tables(lost)
