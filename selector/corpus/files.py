"""Which files a corpus has, and what is said of each without reading it."""

import fnmatch
import glob
import os
from collections.abc import Mapping, Sequence

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
        for name in list(here):
            if os.path.isdir(name):
                here.remove(name)
                here += [
                    file
                    for ending in endings()
                    for file in glob.glob(f"{glob.escape(name)}/**/*{ending}", recursive=True)
                ]
        here = [name for name in here if os.path.isfile(name)]
        if not here:
            what = f"the folder {path!r} holds no such file" if folders else f"there is no file at {path!r}"
            raise CorpusError(
                f"corpus.paths: {what} (looked from {os.getcwd()}). "
                f"Give files, folders or globs of {', '.join(endings())}."
            )
        uris.update(os.path.abspath(name) for name in here)
    for name in sorted(uris):
        format_of(name)
    return sorted(uris)


def constant_source(uri: str, constants: Mapping[str, str]) -> str | None:
    """The source that the first matching pattern gives a file: of its whole path, or of its name."""
    for pattern, label in constants.items():
        whole = os.path.abspath(os.path.expanduser(pattern))
        if fnmatch.fnmatchcase(uri, whole) or fnmatch.fnmatchcase(os.path.basename(uri), pattern):
            return label
    return None
