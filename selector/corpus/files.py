"""Which files a corpus has, and what is said of each without reading it."""

import fnmatch
import glob
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence

from selector.corpus.formats import endings, format_of
from selector.errors import CorpusError, without_secrets


def expand(paths: Sequence[str]) -> list[str]:
    """The absolute paths of all files, sorted, each once. Raises CorpusError for a path that gives none."""
    uris: set[str] = set()
    for path in paths:
        if "://" in path:
            raise CorpusError(
                f"corpus.paths: {without_secrets(path)!r} is an address, and this version reads local files. "
                "Copy it and give its path."
            )
        wide = os.path.expanduser(path)
        here = [wide] if os.path.exists(wide) else glob.glob(wide, recursive=True)
        folders = [name for name in here if os.path.isdir(name)]
        here = [name for name in (*here, *itertools.chain(*map(_below, folders))) if os.path.isfile(name)]
        if not here:
            what = f"the folder {path!r} holds no such file" if folders else f"there is no file at {path!r}"
            raise CorpusError(
                f"corpus.paths: {what} (looked from {os.getcwd()}). "
                f"Give files, folders or globs of {', '.join(endings())}."
            )
        uris.update(os.path.abspath(name) for name in here)
    for name in sorted(uris):
        format_of(name)
        try:
            name.encode()
        except UnicodeEncodeError as error:
            message = f"corpus.paths: the name {os.fsencode(name)!r} is not UTF-8. Give the file another name."
            raise CorpusError(message) from error
    return sorted(uris)


def _below(folder: str) -> Iterator[str]:
    """The files in a folder and in those below it whose names a format has; nothing hidden, and no folder twice,
    wherever links lead. Raises CorpusError for a folder that cannot be listed."""
    seen = set[tuple[int, int]]()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=_not_listed):
        found = os.stat(here)
        if (found.st_dev, found.st_ino) in seen:
            folders.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(here, n) for n in names if n.endswith(tuple(endings())) and not n.startswith("."))


def _not_listed(error: OSError) -> None:
    raise CorpusError(
        f"corpus.paths: the folder {error.filename!r} cannot be listed: {error.strerror}. Allow it, or name the files."
    ) from error


def constant_source(uri: str, constants: Mapping[str, str]) -> str | None:
    """The source that the first matching pattern gives a file: of its whole path, or of its name."""
    for pattern, label in constants.items():
        whole = os.path.abspath(os.path.expanduser(pattern))
        if fnmatch.fnmatchcase(uri, whole) or fnmatch.fnmatchcase(os.path.basename(uri), pattern):
            return label
    return None
