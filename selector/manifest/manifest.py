"""A finished manifest, opened: immutable, read where it is needed, checked before any of it is used.

Think of a manifest as a sorted list of visits: row i says which document the model sees at position i, and
why. `manifest.json` is written last, and only if there is none, so its existence means that the manifest is
complete; it holds the sha256 of everything else, and whatever is read is checked against it first.

    manifest = Manifest.open("runs/2f1c")
    manifest.batch(0, global_batch_size=512)        # the rows of training step 0
    manifest.at(1_000_000), manifest.when("9f86d081884c7d659a2feaa0c55ad015")
    manifest.verify().problems                      # a sentence for everything that is not as it was committed

This needs pyarrow and numpy only, so that a trainer can have it.
"""

import functools
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from selector import tables
from selector.errors import NotFoundError, UsageError
from selector.manifest.describe import describe, explain, of_document
from selector.manifest.digest import LEAF_ROWS
from selector.manifest.format import Stored, key_of, part_name, read_table
from selector.manifest.header import Header, unseal
from selector.manifest.ids import Index, prefix_of
from selector.manifest.ranks import Layout, is_whole_number, whole_number
from selector.manifest.verify import Verification, verify
from selector.storage import Storage, open_storage

_HELD_PARTS = 2  # of what was read last: parts as bytes, some 30 MB each,
_HELD_GROUPS = 8  # and row groups decoded, some 5 MB each

_Held = TypeVar("_Held")


class Manifest:
    """A committed manifest. Parts are read when they are needed, and checked before any of them is used.

    Its methods raise DamagedError where what is stored is not what was committed. Safe to fork and to pickle; for one
    thread at a time.
    """

    def __init__(self, storage: Storage, home: str, data: bytes) -> None:
        """`home` is the key of the manifest's directory, `data` the bytes of its manifest.json."""
        self._storage = storage
        self._home = home
        self._data = data
        self._recent_parts: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._recent_groups: OrderedDict[int, pa.Table] = OrderedDict()

    @classmethod
    def open(cls, uri: str | os.PathLike[str]) -> Self:
        """The manifest in its own directory, in that of its run, or in a root that holds exactly one run.

        Raises NotFoundError; UsageError for what cannot be an address.
        """
        storage, uri = open_storage(uri), str(uri)
        above, _, name = storage.address.rpartition("/")
        data = storage.get("manifest.json")
        if data is not None:
            return cls(open_storage(above or "/"), name, data)
        data = storage.get("manifest/manifest.json")
        if data is not None:
            return cls(storage, "manifest", data)
        homes = _homes(storage)
        if len(homes) > 1:
            runs = [home.removesuffix("/manifest") for home in homes]
            raise NotFoundError(
                f"{uri} holds {len(runs)} manifests: {', '.join(runs[:5])}{' and more' if runs[5:] else ''}."
                f" Name one of them: {uri.rstrip('/')}/{runs[0]}"
            )
        data = storage.get(f"{homes[0]}/manifest.json") if homes else None
        if data is None:
            raise NotFoundError(
                f"There is no manifest at {uri}: neither it nor a run in it has a manifest.json, which is written"
                " when a run is finished. Give the directory of a finished run, or run the policy again to finish it."
            )
        return cls(storage, homes[0], data)

    def __reduce__(self) -> tuple[Any, tuple[str, str, bytes]]:
        return _reopen, (self._storage.address, self._home, self._data)

    def __repr__(self) -> str:
        return f"<Manifest {self._storage.address}/{self._home}>"

    def __len__(self) -> int:
        """The number of visits. Positions are 0 to one less."""
        return self.header.counts.visits

    @functools.cached_property
    def header(self) -> Header:
        """What manifest.json says. Raises SelectorError if it is of another format version."""
        return unseal(key_of(self._home, "manifest.json"), self._data)

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """The same as JSON."""
        return self.header.to_json()

    @property
    def root(self) -> str:
        """The root of the run that made it, where its artefacts lie too."""
        return f"{self._storage.address}/{self._home}".rsplit("/", 2)[0]

    @property
    def digest(self) -> str:
        """64 hex digits that stand for the whole manifest: what a checkpoint names beside its position."""
        return self.header.digest

    @functools.cached_property
    def files(self) -> pa.Table:
        """The files of the corpus, `tables.FILES`: the `file` of a visit is the number of a row here."""
        return self._stored.table("files")

    def batch(
        self, step: int, *, global_batch_size: int, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> pa.Table:
        """The visits, `tables.MANIFEST`, that a rank sees at a step, counted from position `start`.

        The last batch is short if the order ends within it. Raises UsageError if the sizes do not fit together,
        NotFoundError past the end.
        """
        layout = Layout(global_batch_size=global_batch_size, rank=rank, world_size=world_size, start=start)
        return self.take(np.array(layout.visited(whole_number("step", step), len(self)), np.int64))

    def rows(self, start: int, stop: int) -> pa.Table:
        """The visits from position `start` to just before `stop`. Raises NotFoundError for one that is not there."""
        start, stop = whole_number("start", start), whole_number("stop", stop)
        if start > stop:
            raise UsageError(f"start={start} is behind stop={stop}. Write the smaller one first.")
        for outside in (position for position in (start, stop - 1) if start < stop and not 0 <= position < len(self)):
            raise self._no_position(outside)
        return self.take(np.arange(start, stop, dtype=np.int64))

    def take(self, positions: npt.ArrayLike) -> pa.Table:
        """The visits at these positions, in the order given. Raises NotFoundError for one that is not there."""
        wanted = self._inside(positions)
        groups = np.searchsorted(self._group_starts, wanted, side="right") - 1
        pieces: list[pa.Table] = []
        places: list[npt.NDArray[np.int64]] = []
        for group in np.unique(groups).tolist():
            places.append(np.flatnonzero(groups == group))
            pieces.append(self._group(group).take(pa.array(wanted[places[-1]] - self._group_starts[group])))
        if len(pieces) < 2:
            return pieces[0] if pieces else tables.MANIFEST.empty_table()
        taken = pa.concat_tables(pieces).unify_dictionaries().combine_chunks()
        return taken.take(pa.array(np.argsort(np.concatenate(places))))

    def ids_of_part(self, part: int) -> pa.ChunkedArray:
        """The doc_ids of the visits in one of the parts of `header.parts`, in their order."""
        return self._stored.part("parts", part, ["doc_id"])["doc_id"]

    def at(self, position: int) -> dict[str, Any]:
        """The visit at a position, by column; its doc_id as 32 hex digits. Raises NotFoundError."""
        (visit,) = self.take([whole_number("position", position)]).to_pylist()
        return {**visit, "doc_id": visit["doc_id"].hex()}

    def when(self, doc_id: str | bytes) -> list[int]:
        """The positions of a document, none if it is not in the order."""
        return self._visits(_to_id(doc_id))["position"].to_pylist()

    def explain(self, doc_id: str | bytes) -> dict[str, Any]:
        """What became of a document and why: the columns of `tables.DECISIONS`, its reason as a sentence, the `uri` of
        its file, its `positions`, and as `unvisited` why the order does not make visits that selection decided.

        `rank` is its place by `value` in its group, counted from 1. Where the selector gave none, it is counted among
        the `of` documents whose reasons have the same arguments, which reads all decisions. `decided_by` names the step
        or the key of the policy that decided, `would_change` what would lead to another verdict.
        Exact copies share a doc_id: the answer is then about the one that was kept, if any, and `copies` says
        where the others are. Raises NotFoundError if the corpus has no such document.
        """
        wanted = _to_id(doc_id)
        return explain(self._stored, wanted, self._visits(wanted))

    def describe(self) -> dict[str, Any]:
        """Documents, visits and tokens, phases, sources, clusters, difficulty along the order, measures of the order,
        reasons, facts, counts.

        See `selector.manifest.describe`. Reads through all parts.
        """
        return describe(self._stored)

    def verify(self) -> Verification:
        """Reads all that is stored, and works out again what can be worked out. Raises only if storage fails."""
        return verify(self._storage, self._home)

    def is_whole(self) -> bool:
        """Whether all of it has the bytes that were committed, and so says what was compared then. Raises only if
        storage fails."""
        return self._stored.is_whole()

    def _inside(self, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The positions as one array, all of which are there. Raises UsageError, NotFoundError."""
        try:
            given = np.asarray(positions, object if isinstance(positions, (list, tuple)) else None)
        except Exception as error:  # lists of different lengths, or whatever an object of somebody else's raises
            raise UsageError(f"{positions!r:.80} is not a list of positions: {error}.") from error
        is_whole = given.dtype.kind in "iu" or (given.dtype.kind == "O" and all(map(is_whole_number, given.flat)))
        if given.ndim != 1 or (given.size and not is_whole):
            raise UsageError(f"{positions!r:.80} is not a list of positions. Give whole numbers, e.g. [0, 5, 9].")
        outside = given[(given < 0) | (given >= len(self))] if given.size else given
        if outside.size:
            raise self._no_position(outside[0])
        return given.astype(np.int64)

    def _no_position(self, position: int) -> NotFoundError:
        range_told = f"positions are 0 to {len(self) - 1}" if len(self) else "it is empty"
        return NotFoundError(f"There is no position {position} in this manifest: {range_told}.")

    @functools.cached_property
    def _stored(self) -> Stored:
        return Stored(storage=self._storage, home=self._home, header=self.header)

    @functools.cached_property
    def _index(self) -> Index:
        file = self._stored.file("ids")
        assert file is not None
        return Index(self._stored.key("ids.parquet"), file)

    def _visits(self, doc_id: bytes) -> pa.Table:
        """The visits of a document in order: looked up by the beginning of its id, then compared by all of it."""
        return of_document(self.take(self._index.positions(prefix_of(doc_id))), doc_id)

    @functools.cached_property
    def _group_starts(self) -> npt.NDArray[np.int64]:
        """The first position of every row group of every part."""
        starts = [np.arange(0, part.rows, LEAF_ROWS) + part.first_position for part in self.header.parts]
        return np.concatenate([np.empty(0, np.int64), *starts])

    def _group(self, group: int) -> pa.Table:
        def load() -> pa.Table:
            firsts = [part.first_position for part in self.header.parts]
            index = int(np.searchsorted(firsts, self._group_starts[group], side="right")) - 1
            file = _recall(self._recent_parts, index, _HELD_PARTS, lambda: self._stored.part_file("parts", index))
            inside = int(self._group_starts[group] - firsts[index]) // LEAF_ROWS
            return read_table(self._stored.key("parts", part_name(index)), file, group=inside)

        return _recall(self._recent_groups, group, _HELD_GROUPS, load)


def _recall(held: OrderedDict[int, _Held], key: int, size: int, load: Callable[[], _Held]) -> _Held:
    """What is held under a key, or else loaded; the `size` used last are held."""
    if key not in held:
        held[key] = load()
        if len(held) > size:
            held.popitem(last=False)
    held.move_to_end(key)
    return held[key]


def _reopen(address: str, home: str, data: bytes) -> Manifest:
    return Manifest(open_storage(address), home, data)


def _homes(storage: Storage) -> list[str]:
    """The directories of the manifests of all runs below a root."""
    keys = (key for key, _ in storage.list(""))
    return [key.removesuffix("/manifest.json") for key in keys if re.fullmatch(r"[^/]+/manifest/manifest\.json", key)]


def _to_id(doc_id: str | bytes) -> bytes:
    if isinstance(doc_id, bytes) and len(doc_id) == 16:
        return doc_id
    if isinstance(doc_id, str) and re.fullmatch(r"[0-9a-fA-F]{32}", doc_id):
        return bytes.fromhex(doc_id)
    raise UsageError(f"{doc_id!r} is not a doc_id. Give its 32 hex digits (or 16 bytes).")
