"""Survey: every corpus file is read once, for its checksum, its rows, and where its parts begin.

A large file is cut into parts. Small ones that follow each other along the sorted paths make one part together, which
ends where a hash of a file says so: each file by itself, so a new one changes at most the part that it falls into.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import TypeVar

import pyarrow as pa

from selector import tables
from selector.corpus import formats
from selector.corpus.files import Unread
from selector.engine.canonical import canonical_json, fingerprint
from selector.engine.part import Part, Piece, Task
from selector.engine.step import APART, Done, Map
from selector.engine.store import FRESH, Store
from selector.errors import ChangedError, CorpusError
from selector.exact import keyed

PIECES = pa.schema(
    [
        ("file", pa.int64()),  # index into the task's files
        ("first_row", pa.int64()),
        ("num_rows", pa.int64()),
        ("start", pa.int64()),
        ("end", pa.int64()),
    ]
)

MEAN_ROWS, MEAN_BYTES = 2 * formats.SMALL_FILE, 4 << 20
"""What a group of small files comes to on average, by whichever is reached first."""

FULL = 16
"""So many times the average is the most: one group in nine million would be larger."""

_MEAN_FILES = 256  # of a survey's task

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Survey(Map):
    """What each file is, and how it is cut. An unreadable file is quarantined whole."""

    name: str = field(default="survey", metadata=APART)
    version = 5
    output = "pieces"
    reads: tuple[str, ...] = field(default=(), metadata=APART)

    rows_per_part: int | None
    uris: tuple[str, ...] = field(metadata=APART, default=())
    forms: tuple[str, ...] = field(metadata=APART, default=())  # the format of each file; without them, its name tells
    sources: tuple[str | None, ...] = field(metadata=APART, default=())  # the constant source of each file
    versions: tuple[str | None, ...] = field(metadata=APART, default=())  # of each file where a listing told it
    unread: tuple[Unread, ...] = field(metadata=APART, default=())  # files of the corpus's folders that are none of it

    def rows_in(self, done: Done) -> int:
        return len(self.uris)

    def tasks(self, done: Done) -> Sequence[Task]:
        return done.once("survey: tasks", lambda: [self._task(done.store, files) for files in self._groups()])

    def _groups(self) -> Iterator[list[Piece]]:
        """The files, each as a piece of no rows yet."""
        forms = self.forms or [formats.format_of(uri).name for uri in self.uris]
        files = [
            Piece(
                file=number, uri=uri, format=form, sha256="", version=version or _version_of(uri), first_row=0,
                num_rows=0, start=0, end=0, source=source,
            )
            for number, (uri, form, source, version) in enumerate(
                zip(self.uris, forms, self.sources, self.versions or (None,) * len(self.uris), strict=True)
            )
        ]  # fmt: skip
        return grouped(
            files, lambda file: file.uri, lambda file: (1, _size_of(file.version)), (_MEAN_FILES, MEAN_BYTES)
        )

    def _task(self, store: Store, files: Sequence[Piece]) -> Task:
        """A survey that began within two seconds of a file's time may have read it before it was written last: a clock
        of whole seconds would not tell. So what it says of the file is believed only while the bytes are the same."""
        of_files = [[file.uri, file.format, file.version] for file in files]
        noted = _fresh(store, self.key(of_files))
        if noted is None:
            store.discard(self.key(of_files))
            store.storage.delete(_fresh_key(self.key(of_files)))
        for number, sha256 in (noted or {}).items():
            now = _sha256_of(files[number].uri)
            if now != sha256:
                of_files[number].append(now)
        return Task(key=self.key(of_files), part=Part.of(*files))

    def process(self, task: Task, store: Store) -> dict[str, pa.Table]:
        files: list[dict[str, object]] = []
        pieces: list[dict[str, int]] = []
        fresh: dict[str, str] = {}
        lost: list[dict[str, object]] = []
        for number, file in enumerate(task.part.pieces):
            unread: str | None = None
            loss: str | None = None
            sha256 = ""
            ranges: list[formats.Range] = []
            form: str | None = file.format
            is_fresh = formats.is_fresh(file.version)
            if file.is_far:
                formats.expect(file.uri, file.version)
            try:
                with formats.reading(file.uri):
                    sha256 = formats.sha256_of(file.uri)
                ranges = formats.find(file.format, file.uri).cut(file.uri, self.rows_per_part)
            except formats.NoRows as error:
                form, unread = None, f"no rows: {error}"
            except formats.Corrupt as error:
                loss, unread = "corrupt_file", str(error)
            except ChangedError:
                raise
            except CorpusError as error:
                loss, unread = "cannot_be_read", str(error)
            if loss is not None:
                detail = f"{file.uri}: {unread}" if loss == "corrupt_file" else unread
                lost.append({"place": None, "step": self.name, "reason": loss, "detail": detail})
            files.append(
                {
                    "uri": file.uri,
                    "format": form,
                    "num_rows": sum(piece.num_rows for piece in ranges),
                    "size": _size_of(file.version),
                    "sha256": sha256,
                    "unread": unread,
                }
            )
            pieces += [{"file": number, **piece._asdict()} for piece in ranges]
            if is_fresh and sha256:
                fresh[str(number)] = sha256
        if fresh:
            store.storage.put_if_absent(_fresh_key(task.key), _note(fresh))
        return {
            "pieces": pa.Table.from_pylist(pieces, schema=PIECES),
            "files": pa.Table.from_pylist(files, schema=tables.FILES),
            "quarantine": tables.quarantine(lost),
        }


def _version_of(path: str) -> str:
    """The file's size, times and inode; nothing for one that is gone, which its survey says."""
    try:
        return formats.version_of(path)
    except CorpusError:
        return ""


def _fresh_key(key: str) -> str:
    """Where it is noted which files were fresh when they were surveyed: beside the artefacts, since it tells of the
    clock, and not of the files."""
    return f"{FRESH}{key}.json"


def _fresh(store: Store, key: str) -> dict[int, str] | None:
    """The numbers of the files that were fresh when the task with this key surveyed them, and their checksums; None if
    the note is damaged."""
    data = store.storage.get(_fresh_key(key))
    if data is None:
        return {}
    try:
        noted: dict[str, str] = json.loads(data)["fresh"]
        is_sound = data == _note(noted)
    except (ValueError, KeyError, TypeError):
        noted, is_sound = {}, False
    return {int(number): sha256 for number, sha256 in noted.items()} if is_sound else None


def _note(fresh: Mapping[str, str]) -> bytes:
    return canonical_json({"fresh": fresh, "check": fingerprint(fresh)})


def _sha256_of(path: str) -> str:
    """The checksum of a file; nothing for one that cannot be read, which its survey says."""
    try:
        return formats.sha256_of(path)
    except OSError:
        return ""


def _size_of(version: str) -> int:
    """The size of a file of this version."""
    return int(version.partition(" ")[0] or 0)


def parts(done: Done, survey: Survey) -> Sequence[Part]:
    """Every part of the corpus, in corpus order."""
    return done.once("survey: parts", lambda: list(parts_of(_pieces(done, survey), survey.rows_per_part)))


def _pieces(done: Done, survey: Survey) -> Iterator[list[Piece]]:
    """The pieces of every file."""
    for task, seal in zip(survey.tasks(done), done["survey"].parts, strict=True):
        sha256s = done.store.table(seal, "files", ["sha256"])["sha256"].to_pylist()
        fresh = _fresh(done.store, task.key) or {}
        of_file: list[list[Piece]] = [[] for _ in sha256s]
        for row in done.store.table(seal, "pieces").to_pylist():
            number = row.pop("file")
            file = task.part.pieces[number]
            version = formats.fresh(file.version) if number in fresh else file.version
            of_file[number].append(replace(file, sha256=sha256s[number], version=version, **row))
        yield from of_file


def parts_of(files: Iterable[Sequence[Piece]], rows_per_part: int | None) -> Iterator[Part]:
    """The parts of files that are cut into these pieces: one for each piece, or for a group of small files.

    Where a policy says how many rows a part has, no files are put together.
    """
    small: list[Piece] = []
    for pieces in files:
        if rows_per_part is None and len(pieces) == 1 and pieces[0].num_rows < formats.SMALL_FILE:
            small += pieces
        elif pieces:
            yield from _together(small)
            small = []
            yield from (Part.of(piece) for piece in pieces)
    yield from _together(small)


def _together(small: Sequence[Piece]) -> Iterator[Part]:
    """Small files that follow each other, in groups. A file is known by its content and its name, and not by its
    folder: a corpus that is moved has the same parts."""
    groups = grouped(
        small,
        lambda piece: f"{piece.sha256} {PurePath(piece.uri).name}",
        lambda piece: (piece.num_rows, piece.end - piece.start),
        (MEAN_ROWS, MEAN_BYTES),
    )
    return (Part.of(*group) for group in groups)


def grouped(
    items: Iterable[Item],
    label: Callable[[Item], str],
    sizes: Callable[[Item], tuple[int, ...]],
    means: tuple[int, ...],
) -> Iterator[list[Item]]:
    """Consecutive items in groups that are so large on average.

    A hash of its label says whether a group ends with an item, the more likely the larger it is. So where groups end
    depends on no other item, unless one gets full.
    """
    group: list[Item] = []
    sums = [0] * len(means)
    for item in items:
        own = sizes(item)
        if any(total + size > FULL * mean for total, size, mean in zip(sums, own, means, strict=True)) and group:
            yield group
            group, sums = [], [0] * len(means)
        group.append(item)
        sums = [total + size for total, size in zip(sums, own, strict=True)]
        drawn = int.from_bytes(keyed.digest(label(item).encode())[:8], "little")
        if any(drawn * mean < size << 64 for size, mean in zip(own, means, strict=True)):
            yield group
            group, sums = [], [0] * len(means)
    if group:
        yield group


def inventory(done: Done, survey: Survey) -> pa.Table:
    """`tables.FILES` of the whole corpus: the files that were surveyed, in the order of their numbers, then those that
    are none of it."""

    def listed() -> pa.Table:
        others = [{"uri": one.uri, "num_rows": 0, "unread": one.reason} for one in survey.unread]
        return pa.concat_tables([*done.tables("survey", "files"), pa.Table.from_pylist(others, schema=tables.FILES)])

    return done.once("survey: files", listed)


def unreadable(done: Done) -> pa.Table:
    """The quarantine of files that cannot be read, each with its `uri`."""
    files = pa.concat_tables(done.tables("survey", "files"))
    seals = [seal for seal in done["survey"].parts if seal.tables["quarantine"].num_rows]
    lost = pa.concat_tables(
        [tables.QUARANTINE.empty_table(), *(done.store.table(seal, "quarantine") for seal in seals)]
    )
    files = files.filter(files["format"].is_valid())  # without those that have no rows, which is no loss
    return lost.append_column("uri", files.filter(files["unread"].is_valid())["uri"])
