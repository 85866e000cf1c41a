"""Which files a corpus has, which of them are read, and why the others are not: said without reading any.

Every file below a folder is accounted for. A file that several names lead to is read once, under the name that is its
own, or else under the first by the alphabet: neither the order of paths nor where links lead to makes a difference.
"""

import fnmatch
import functools
import glob
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from selector.corpus import formats, objects
from selector.errors import CorpusError, UsageError, did_you_mean
from selector.storage import Storage, is_address, local_path

HIDDEN = "hidden"
UNKNOWN = "unknown ending"
ON_REQUEST = "plain text: read where a path ends so, or corpus.format says so"
SAME = "the same file"
DEAD = "a dead link"
SPECIAL = "no regular file"
LOCKED = "a folder that cannot be listed"
NOT_UTF8 = "its name is not UTF-8"
UNSEEN = "its name has characters that cannot be seen"
NO_DATA_FILE = "not one of the data files of the dataset that is saved in its folder"
_CURES = {
    NOT_UTF8: "Give the file another name.",
    LOCKED: "Allow it, or name the files.",
    DEAD: "Give the file that it should lead to.",
}


@dataclass(frozen=True, kw_only=True)
class File:
    """A file that is read: its absolute path or its address, and the name of its format."""

    uri: str
    format: str
    version: str | None = None  # of an object: the one that was listed


@dataclass(frozen=True, kw_only=True)
class Unread:
    """A file that is not read, and why: a few words for counting, and after a colon what is special to it."""

    uri: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class CorpusFiles:
    """All files of a corpus, sorted by path."""

    files: tuple[File, ...]
    unread: tuple[Unread, ...]

    @property
    def uris(self) -> list[str]:
        """The paths of the files that are read."""
        return [file.uri for file in self.files]


def expand(paths: Sequence[str], form: str | None = None) -> CorpusFiles:
    """All files that paths lead to, each once. Where `form` is given, it is the format of all, whatever their names.

    Raises CorpusError for a path that gives none to read.
    """
    if form is not None and form.partition(" ")[0] not in _stems():
        raise CorpusError(f"corpus.format: there is no format called {form!r}. {did_you_mean(form, _stems())}")
    listed: dict[str, File | Unread] = {}
    for path in paths:
        plain = local_path(path)
        here = _far(path, form) if plain is None else _under(os.path.expanduser(plain), form)
        if not any(isinstance(one, File) for one in here.values()):
            raise CorpusError(_nothing(path, [one for one in here.values() if isinstance(one, Unread)]))
        listed |= {name: one for name, one in here.items() if not isinstance(listed.get(name), File)}
    owners: dict[tuple[int, int] | str, str] = {}
    for name in sorted(listed, key=lambda name: (os.path.realpath(name) != name, name)):
        if isinstance(listed[name], File) and not is_address(name):
            owner = owners.setdefault(_identity(name), name)
            if owner != name:
                listed[name] = Unread(uri=name, reason=f"{SAME}: as {owner}")
    ordered = [listed[name] for name in sorted(listed)]
    return CorpusFiles(
        files=tuple(one for one in ordered if isinstance(one, File)),
        unread=tuple(one for one in ordered if isinstance(one, Unread)),
    )


def ending(uri: str) -> str:
    """The ending of a file's name, in lower case, as files are counted by it."""
    return formats.ending_of(uri) or PurePath(uri).suffix.lower() or "none"


def tally(uris: Sequence[str], reasons: Sequence[str | None], are_lost: Sequence[bool]) -> dict[str, dict[str, int]]:
    """How many files there are of each ending: `read`, and not read for each reason."""
    counts: dict[str, Counter[str]] = {}
    for uri, reason, is_lost in zip(uris, reasons, are_lost, strict=True):
        word = "read" if reason is None else "cannot be read" if is_lost else reason.partition(":")[0]
        counts.setdefault(ending(uri), Counter())[word] += 1
    return {name: dict(sorted(counted.items())) for name, counted in sorted(counts.items())}


def constant_source(uri: str, constants: Mapping[str, str]) -> str | None:
    """The source that the first matching pattern gives a file: of its path, of a folder above it, or of its name.

    `*/web/*` is of a path that begins anywhere. `*web*`, without a slash, is of a name alone: what the folders above
    the corpus are called must not decide.
    """
    uri = objects.without_revision(uri)
    for pattern, label in constants.items():
        path = local_path(pattern)
        if path is None:
            whole = objects.without_revision(pattern.rstrip("/"))
        elif path.startswith("*") and "/" in path:
            whole = path
        else:
            whole = os.path.abspath(os.path.expanduser(path))
        paths = (whole, f"{whole}/*")
        if any(fnmatch.fnmatchcase(uri, path) for path in paths) or fnmatch.fnmatchcase(os.path.basename(uri), pattern):
            return label
    return None


def _far(address: str, form: str | None) -> dict[str, File | Unread]:
    """What an address of a policy leads to, by the address of each object. Raises CorpusError for an object that is
    named and not read, and for an address that is more than a place."""
    try:
        listing = objects.listing(address)
    except UsageError as error:
        raise CorpusError(f"corpus.paths: {error}") from error
    wanted = formats.ending_of(address)
    listed: dict[str, File | Unread] = {}
    saved: dict[str, tuple[set[str], str] | None] = {}
    for one in listing.objects:
        if one.is_below and form is None and one.folder not in saved:
            read = functools.partial(_object_in, listing.storage, one.folder)
            saved[one.folder] = _saved(listing.names_in(one.folder), read)
        own = saved.get(one.folder) if one.is_below else None
        if not one.entry.key.isprintable():
            listed[one.uri] = Unread(uri=one.uri, reason=UNSEEN)
        elif one.is_hidden:
            listed[one.uri] = Unread(uri=one.uri, reason=HIDDEN)
        elif own is not None and one.name not in own[0]:
            listed[one.uri] = Unread(uri=one.uri, reason=NO_DATA_FILE)
        else:
            file = _read(one.uri, own[1] if own is not None else form, None if one.is_below else wanted)
            version = formats.version_in(one.entry)
            formats.expect(one.uri, version)
            listed[one.uri] = replace(file, version=version) if isinstance(file, File) else file
    if len(listed) == 1 and not listing.objects[0].is_below and not glob.has_magic(address):
        (one,) = listed.values()
        if isinstance(one, Unread):
            if one.reason == UNKNOWN:
                formats.format_of(one.uri)
            raise CorpusError(f"corpus.paths: {one.uri!r} cannot be read: {one.reason}. {_CURES.get(one.reason, '')}")
    return listed


def _object_in(storage: Storage, folder: str, name: str) -> bytes:
    """The bytes of an object in a folder. Raises OSError."""
    data = storage.get(f"{folder}/{name}" if folder else name)
    if data is None:
        raise OSError(f"{name} is gone")
    return data


def _under(path: str, form: str | None) -> dict[str, File | Unread]:
    """What a path of a policy leads to, by absolute path. Raises CorpusError for a file that is named and not read."""
    is_named = os.path.lexists(path)
    wanted = formats.ending_of(path)
    listed: dict[str, File | Unread] = {}
    folders: list[str] = []
    for name in map(os.path.abspath, [path] if is_named else _matching(path)):
        special = _special(name)
        if special == _FOLDER:
            folders.append(name)
        else:
            listed[name] = Unread(uri=_text(name), reason=special) if special else _read(name, form, wanted)
            if is_named and isinstance(one := listed[name], Unread):
                if one.reason == UNKNOWN:
                    formats.format_of(name)
                raise CorpusError(
                    f"corpus.paths: {one.uri!r} cannot be read: {one.reason}. {_CURES.get(one.reason, '')}"
                )
    for one in _below(sorted(folders, key=lambda name: (os.path.realpath(name) != name, name)), form):
        listed.setdefault(one.uri, one)
    return listed


def _read(name: str, form: str | None, wanted: str | None) -> File | Unread:
    """A file as its name tells it; `wanted` is the ending that a path of the policy has."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return Unread(uri=_text(name), reason=NOT_UTF8)
    if form is not None:
        stem, space, option = form.partition(" ")
        packed = [one.name for one in formats.compressions() if name.lower().endswith(one.endings)]
        packed = [one for one in packed if f"{stem}.{one}" in formats.known()]
        return File(uri=name, format=".".join([stem, *packed]) + space + option)
    ending = formats.ending_of(name)
    if ending is None:
        return Unread(uri=name, reason=UNKNOWN)
    form_of_name = formats.format_of(name)
    if form_of_name.is_on_request and ending != wanted:
        return Unread(uri=name, reason=ON_REQUEST)
    return File(uri=name, format=form_of_name.name)


def _below(folders: Sequence[str], form: str | None) -> Iterator[File | Unread]:
    """Every file in some folders and in those below them, none twice wherever links lead. What links lead to is looked
    at last, so that a file has its own name where it has one. One that cannot be listed stands for all below it."""
    seen: set[tuple[int, int] | str] = set()
    waiting, links = [(name, False) for name in reversed(folders)], list[tuple[str, bool]]()
    while waiting or links:
        if not waiting:
            links.sort(reverse=True)
            waiting.append(links.pop())
        folder, is_hidden = waiting.pop()
        if _identity(folder) in seen:
            continue
        seen.add(_identity(folder))
        try:
            names = _listed(folder)
        except OSError as error:
            yield Unread(uri=_text(folder), reason=f"{LOCKED}: {error.strerror}")
            continue
        own = (
            None
            if form is not None or is_hidden
            else _saved(names, lambda name, at=folder: Path(at, name).read_bytes())
        )
        for name in names:
            path = os.path.join(folder, name)
            hidden = is_hidden or name.startswith(".")
            special = _special(path)
            if special == _FOLDER:
                (links if os.path.islink(path) else waiting).append((path, hidden))
            elif hidden or special:
                yield Unread(uri=_text(path), reason=HIDDEN if hidden else special or "")
            elif own is not None:
                yield _read(path, own[1], None) if name in own[0] else Unread(uri=_text(path), reason=NO_DATA_FILE)
            else:
                yield _read(path, form, None)
        for name in sorted(own[0] - set(names)) if own is not None else ():
            yield _read(os.path.join(folder, name), own[1] if own else None, None)  # the survey will miss it


def _saved(names: Sequence[str], read: Callable[[str], bytes]) -> tuple[set[str], str] | None:
    """Which files of a folder are read, and in which format, where the folder itself is of one."""
    for form in formats.known().values():
        own = form.of_folder(names, read)
        if own is not None:
            return set(own), form.name
    return None


def _matching(pattern: str) -> list[str]:
    """The paths that match a pattern; with `**` too, each folder is looked through once, wherever links lead."""
    if "**" not in pattern:
        return glob.glob(pattern)
    parts = PurePath(pattern).parts
    paths: dict[str, None] = {}
    seen: set[tuple[tuple[int, int] | str, int]] = set()
    waiting, links = (
        [(parts[0] if os.path.isabs(pattern) else "", int(os.path.isabs(pattern)))],
        list[tuple[str, int]](),
    )
    while waiting or links:
        if not waiting:
            links.sort(reverse=True)
            waiting.append(links.pop())
        folder, at = waiting.pop()
        here = folder or os.curdir
        if at == len(parts) or not os.path.isdir(here) or (_identity(here), at) in seen:
            continue
        seen.add((_identity(here), at))
        part, is_last = parts[at], at + 1 == len(parts)
        try:
            names = _listed(here) if glob.has_magic(part) else [part]
        except OSError:
            paths[here] = None  # where it is looked into again, it is listed as what it is
            continue
        if part == "**":
            names = [name for name in names if not name.startswith(".")]
            if not is_last:
                waiting.append((folder, at + 1))
        elif glob.has_magic(part):
            names = [name for name in fnmatch.filter(names, part) if part[0] == "." or name[0] != "."]
        else:
            names = [part] if os.path.lexists(os.path.join(folder, part)) else []
        for name in names:
            path = os.path.join(folder, name)
            if is_last and (part != "**" or not os.path.isdir(path)):
                paths[path] = None
            if part == "**" or not is_last:
                (links if os.path.islink(path) else waiting).append((path, at if part == "**" else at + 1))
    return list(paths)


def _listed(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries)


_FOLDER = "a folder"


def _special(name: str) -> str | None:
    """What a name leads to, if that is no file that can be read: a folder, or why it is none. None for a file."""
    try:
        mode = os.stat(name).st_mode
    except OSError:
        return DEAD if os.path.islink(name) else None  # one that went away just now is missed by the survey
    return None if stat.S_ISREG(mode) else _FOLDER if stat.S_ISDIR(mode) else SPECIAL


def _identity(name: str) -> tuple[int, int] | str:
    """What is the same for all names of a file or folder."""
    try:
        status = os.stat(name)
    except OSError:
        return os.path.realpath(name)
    return status.st_dev, status.st_ino


def _text(name: str) -> str:
    """A name as a table can hold it."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _nothing(path: str, unread: Sequence[Unread]) -> str:
    """The message for a path that gives no file to read."""
    is_folder, is_far = os.path.isdir(os.path.expanduser(local_path(path) or path)), is_address(path)
    if unread:
        counts = Counter(one.reason.partition(":")[0] for one in unread)
        first = {one.reason.partition(":")[0]: one.uri for one in reversed(unread)}
        summary = "; ".join(f"{count} {reason}, e.g. {first[reason]}" for reason, count in sorted(counts.items()))
        problem = f"{'the folder ' if is_folder else ''}{path!r} holds no file that is read ({summary})"
    else:
        problem = (
            f"the folder {path!r} holds no such file"
            if is_folder
            else f"there is no {'object' if is_far else 'file'} at {path!r}"
        )
    cure = (
        f" Plain text: write {os.path.join(path, '*.txt')!r}, or corpus.format: txt."
        if is_folder and any(one.reason == ON_REQUEST for one in unread)
        else ""
    )
    plain = sorted(ending for form in formats.known().values() for ending in form.endings if ending.count(".") == 1)
    packed = ", ".join(ending for one in formats.compressions() for ending in one.endings)
    return (
        f"corpus.paths: {problem}{'' if is_far else f' (looked from {os.getcwd()})'}.{cure} "
        f"Give files, folders or globs of {', '.join(plain)}; what is text may be packed: {packed}."
    )


def _stems() -> list[str]:
    """What `corpus.format` can be."""
    return sorted({name.partition(".")[0] for name, form in formats.known().items() if form.endings})
