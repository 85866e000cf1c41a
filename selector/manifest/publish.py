"""How the objects of a manifest get into their places: once, whole, and manifest.json last."""

import hashlib
from collections.abc import Callable, Iterable

from selector.errors import DamagedError, SelectorError
from selector.manifest.format import part_name
from selector.manifest.header import Header, Table, unseal
from selector.storage import Storage


class Publisher:
    """Puts the objects of one manifest in place, whatever a crash or another process has left there. A worker has a
    copy of it, and puts its parts there itself."""

    def __init__(self, storage: Storage, home: str, decisions: str) -> None:
        self._storage = storage
        self._home = home
        self._key = f"{home}/manifest.json"
        self._folders = {"parts": f"{home}/parts", "decisions": decisions}
        self._committed: dict[str, str] = {}  # what a manifest that is there already says of its objects
        data = storage.get(self._key)
        header = None if data is None else self._sound(data)
        if header is not None:
            for name in ("files", "ids", "unvisited"):
                entry: Table | None = getattr(header, name)
                if entry is not None:
                    self._committed[f"{home}/{name}.parquet"] = entry.sha256
            for name, folder in self._folders.items():
                self._committed |= {f"{folder}/{part.name}": part.sha256 for part in getattr(header, name)}

    def part(self, folder: str, index: int, data: bytes, source: str | None = None) -> tuple[str, str]:
        """The name and sha256 of a part, once it is stored. `source` is an object that holds the same already."""
        name = part_name(index)
        return name, self._put(f"{self._folders[folder]}/{name}", data, source)

    def table(self, name: str, num_rows: int, data: bytes) -> Table:
        """What manifest.json says of `<name>.parquet`, once it is stored."""
        return Table(rows=num_rows, sha256=self._put(f"{self._home}/{name}.parquet", data))

    def file(self, name: str, num_rows: int, pieces: Callable[[], Iterable[bytes]]) -> Table:
        """The same of a table that comes piece by piece, and again as often as it is asked for."""
        key = f"{self._home}/{name}.parquet"
        committed = self._committed.get(key)
        if committed is not None:
            whole = hashlib.sha256()
            for piece in pieces():
                whole.update(piece)
            if whole.hexdigest() != committed:
                return Table(rows=num_rows, sha256=whole.hexdigest())
        return Table(rows=num_rows, sha256=self._storage.ensure_pieces(key, pieces))

    def manifest(self, data: bytes) -> None:
        """Commits, unless another process has committed the same. Raises SelectorError if it was something else."""
        while not self._storage.put_if_absent(self._key, data):
            stored = self._storage.get(self._key)
            header = self._sound(stored) if stored is not None and stored != data else None
            if header is not None:
                raise SelectorError(
                    f"{self._key} has the digest {header.digest}, and this run makes {unseal(self._key, data).digest}."
                    " One run has one manifest, so this is a fault of ours, unless a library has changed since."
                    " Remove that directory and run again."
                )
            if stored == data or (stored is not None and self._storage.compare_and_swap(self._key, stored, data)):
                break

    def _put(self, key: str, data: bytes, source: str | None = None) -> str:
        """The sha256 of the data, once the object has it. What a sound manifest vouches for is left as it is."""
        sha256 = hashlib.sha256(data).hexdigest()
        if self._committed.get(key, sha256) != sha256:
            return sha256
        if source is None:
            self._storage.ensure(key, data)
        else:
            self._storage.ensure_copy(key, data, source)
        return sha256

    def _sound(self, data: bytes) -> Header | None:
        """What a stored manifest.json says, unless it is damaged."""
        try:
            return unseal(self._key, data)
        except DamagedError:
            return None
