"""Which objects an address of a policy leads to: one object, all below a folder, or those that match a pattern.

Think of what the same path does on a disk. A storage has no folders, only keys with slashes in them, so one listing
tells of all of them at once. Where an address names a revision that moves, what is listed is one that does not.
"""

import fnmatch
import glob
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from selector.storage import Entry, Storage, check_plain, home_of


@dataclass(frozen=True, kw_only=True)
class Object:
    """An object that an address leads to."""

    uri: str
    entry: Entry
    folder: str  # the key of the folder in which it lies
    is_below: bool  # the address leads to a folder above it
    is_hidden: bool  # by a name that begins with a dot, below that folder

    @property
    def name(self) -> str:
        return PurePosixPath(self.entry.key).name


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All that an address leads to, sorted by key."""

    storage: Storage
    objects: Sequence[Object]

    def names_in(self, folder: str) -> list[str]:
        """The names of the objects that lie in a folder."""
        return [one.name for one in self.objects if one.folder == folder]


def listing(address: str) -> Listing:
    """What an address leads to. Raises UsageError for one that is more than a place, and UnreachableError."""
    check_plain(address)
    storage, names = home_of(address)
    storage = storage.fixed()
    firm = list(itertools.takewhile(lambda name: not glob.has_magic(name), names))
    prefix = "/".join(firm)
    objects: list[Object] = []
    if firm == names and prefix and not address.endswith("/"):
        entry = storage.entry(prefix) if PurePosixPath(prefix).suffix else None
        if entry is not None:
            return Listing(storage=storage, objects=[_object(storage, entry, len(names) - 1, is_below=False)])
    for entry in _without_folders(list(storage.entries(f"{prefix}/" if prefix else ""))):
        parts = entry.key.split("/")
        above = next((end for end in range(len(firm), len(parts)) if _matches(parts[:end], names)), None)
        if _matches(parts, names):
            objects.append(_object(storage, entry, len(parts) - 1, is_below=False))
        elif above is not None and names[-1:] != ["**"]:
            objects.append(_object(storage, entry, above, is_below=True))
    if not objects and firm == names and prefix and not PurePosixPath(prefix).suffix:
        entry = storage.entry(prefix)
        objects = [] if entry is None else [_object(storage, entry, len(names) - 1, is_below=False)]
    return Listing(storage=storage, objects=objects)


def without_revision(address: str) -> str:
    """An address as it is written where the revision does not matter."""
    return re.sub(r"^(hf://(?:[^/@]+/){2}[^/@]+)@[^/]+", r"\1", address)


def _object(storage: Storage, entry: Entry, above: int, *, is_below: bool) -> Object:
    """An object below a folder whose key has so many names."""
    parts = entry.key.split("/")
    is_hidden = is_below and any(name.startswith(".") for name in parts[above:])
    uri = f"{storage.address}/{entry.key}"
    return Object(uri=uri, entry=entry, folder="/".join(parts[:-1]), is_below=is_below, is_hidden=is_hidden)


def _without_folders(entries: Sequence[Entry]) -> list[Entry]:
    """The objects without those that some tools put in the place of a folder: empty, and of its name."""
    folders = {key[: match.start()] for key, _, _ in entries for match in re.finditer("/", key)}
    return [one for one in entries if one.num_bytes or one.key not in folders]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a key, in parts, is what a pattern says, `**` being any number of folders."""
    if not pattern:
        return not parts
    first, *rest = pattern
    if first == "**":
        return _matches(parts, rest) or (bool(parts) and not parts[0].startswith(".") and _matches(parts[1:], pattern))
    if not parts or (parts[0].startswith(".") and not first.startswith(".")):
        return False
    return fnmatch.fnmatchcase(parts[0], first) and _matches(parts[1:], rest)
