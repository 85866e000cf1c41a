"""The order as data: the finished list of visits, immutable, and how it is written, opened and checked.

Think of a manifest as a sorted list of visits: row i says which document the model sees at position i, and
why. `manifest.json` is written last, and only if there is none, so its existence means that the manifest is
complete; it holds the sha256 of everything else, and whatever is read is checked against it first.

    manifest = Manifest.open("runs/2f1c")
    manifest.batch(0, global_batch_size=512)        # the rows of training step 0
    manifest.at(1_000_000), manifest.when("9f86d081884c7d659a2feaa0c55ad015")
    manifest.verify().problems                      # a sentence for everything that is not as it was sealed

This needs pyarrow and numpy only, so that a trainer can have it.
"""

import functools
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from selector import failpoint, tables
from selector.engine.store import to_parquet
from selector.errors import DamagedError, NotFoundError, SelectorError, UsageError
from selector.manifest import format as sealed
from selector.manifest.ledger import LEAF_ROWS, Ledger, labels, root
from selector.manifest.ranks import PADDING, Layout
from selector.storage import Storage, open_storage

PART_ROWS = 1_048_576

_HELD_PARTS = 2  # of what was read last: parts as bytes, some 30 MB each,
_HELD_GROUPS = 8  # and row groups decoded, some 5 MB each

_SCHEMAS = {"parts": tables.MANIFEST, "decisions": tables.FATE}

_Held = TypeVar("_Held")
_Array = npt.NDArray[Any]


def commit(
    storage: Storage,
    prefix: str,
    *,
    chosen: pa.Table,
    visits: pa.Table,
    files: pa.Table,
    decisions: Iterable[pa.Table],
    counts: Mapping[str, Any],
    policy: Mapping[str, Any],
    lineage: Mapping[str, str],
    models: Mapping[str, Any],
    versions: Mapping[str, str],
    parent: str | None = None,
    part_rows: int = PART_ROWS,
) -> "Manifest":
    """The manifest, once all of it is stored: in `<prefix>/manifest/` and, beside it, `<prefix>/decisions/`.

    `chosen` has a row per chosen document, in corpus order, with those columns of `tables.MANIFEST` that belong
    to a document; `visits` (`tables.VISITS`) lists them in the order of training; `files` is `tables.FILES`;
    `decisions` gives a table of `tables.FATE` per part of the corpus. `counts` is what the steps counted,
    under any of these names: `rows` of the corpus and the `documents` among them; documents `kept`,
    `left_out`, `duplicate`, and rows or documents `quarantined`; `reasons`, how many were left out or
    quarantined for each. They are compared with the tables.

    Safe to call again after a crash anywhere, and from several processes at once: the same content gives the
    same bytes, whoever finishes first has committed, and all get the same manifest. Raises SelectorError if
    something does not add up, which is a fault of ours; nothing is committed then.
    """
    home = f"{prefix}/manifest"
    publisher = sealed.Publisher(storage, home, f"{prefix}/decisions")
    ledger = Ledger(files)
    failpoint.reach("commit.before_parts")
    decided: list[dict[str, Any]] = []
    for fates in decisions:
        fates = sealed.canonical(fates, tables.FATE)
        ledger.decide(fates)
        decided.append(publisher.part("decisions", len(decided), fates.num_rows, to_parquet(fates)))
    parts: list[dict[str, Any]] = []
    for rows in _parts(chosen, visits, part_rows):
        first = ledger.num_visits
        ledger.visit(rows)
        part = publisher.part("parts", len(parts), rows.num_rows, sealed.part_bytes(rows))
        parts.append({**part, "first_position": first})
    sha256 = publisher.put(f"{home}/files.parquet", to_parquet(sealed.canonical(files, tables.FILES)))
    failpoint.reach("commit.after_parts")
    ledger.reconcile()
    problems = [*ledger.problems, *_disagreements(ledger, counts), *_disagreements(ledger, {"kept": chosen.num_rows})]
    if problems:
        raise SelectorError(f"The manifest of {prefix} does not add up, which is a fault of ours. {' '.join(problems)}")
    content = {
        "format_version": sealed.FORMAT_VERSION,
        "order_digest": root(ledger.leaf_digests()),
        "leaf_digests": ledger.leaf_digests(),
        "counts": {**ledger.counts(), **counts},
        "parts": parts,
        "files": {"rows": files.num_rows, "sha256": sha256},
        "decisions": decided,
        "phases": ledger.phases,
        "policy": policy,
        "lineage": lineage,
        "models": models,
        "versions": versions,
        "parent": parent,
    }
    data = sealed.seal(content)
    failpoint.reach("commit.before_manifest")
    publisher.manifest(data)
    failpoint.reach("commit.after_manifest")
    return Manifest(storage, home, data)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `Manifest.verify` found: a sentence for each problem. `digest` is "" where manifest.json is not sound."""

    ok: bool
    digest: str
    problems: list[str]


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
    def open(cls, uri: str) -> Self:
        """The manifest in its own directory, in that of its run, or in a root that holds exactly one run.

        Raises NotFoundError.
        """
        storage = open_storage(uri)
        above, _, name = storage.address.rpartition("/")
        data = storage.get("manifest.json")
        if data is not None:
            return cls(open_storage(above or "/"), name, data)
        homes = ["manifest"] if storage.get("manifest/manifest.json") is not None else _homes(storage)
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
        return self.info["counts"]["visits"]

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """What manifest.json says."""
        return sealed.unseal(self._key("manifest.json"), self._data)

    @property
    def digest(self) -> str:
        """64 hex digits that stand for the whole manifest: what a checkpoint names beside its position."""
        return self.info["digest"]

    @functools.cached_property
    def files(self) -> pa.Table:
        """The files of the corpus, `tables.FILES`: the `file` of a visit is the number of a row here."""
        key, entry = self._key("files.parquet"), self.info["files"]
        return sealed.read_table(key, sealed.open_table(key, self._storage.get(key), entry, tables.FILES), None)

    def batch(
        self, step: int, *, global_batch_size: int, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> pa.Table:
        """The visits, `tables.MANIFEST`, that a rank sees at a step, counted from position `start`.

        The last batch is short if the order ends within it. Raises UsageError if the sizes do not fit together,
        NotFoundError past the end.
        """
        layout = Layout(global_batch_size=global_batch_size, rank=rank, world_size=world_size, start=start)
        positions = layout.positions(step, len(self))
        return self.take(positions[positions != PADDING])

    def rows(self, start: int, stop: int) -> pa.Table:
        """The visits from position `start` to just before `stop`."""
        return self.take(np.arange(start, stop, dtype=np.int64))

    def take(self, positions: npt.ArrayLike) -> pa.Table:
        """The visits at these positions, in the order given. Raises NotFoundError for one that is not there."""
        wanted = np.asarray(positions, np.int64)
        outside = wanted[(wanted < 0) | (wanted >= len(self))]
        if len(outside):
            there = f"positions are 0 to {len(self) - 1}" if len(self) else "it is empty"
            raise NotFoundError(f"There is no position {outside[0]} in this manifest: {there}.")
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

    def at(self, position: int) -> dict[str, Any]:
        """The visit at a position, by column; its doc_id as 32 hex digits. Raises NotFoundError."""
        (visit,) = self.take([position]).to_pylist()
        return {**visit, "doc_id": visit["doc_id"].hex()}

    def when(self, doc_id: str | bytes) -> list[int]:
        """The positions of a document, none if it was not chosen. Reads through all parts."""
        is_it = pc.field("doc_id") == pa.scalar(_to_id(doc_id), tables.DOC_ID)
        found = (table.filter(is_it)["position"] for table in self._tables("parts", ["position", "doc_id"]))
        return [position for positions in found for position in positions.to_pylist()]

    def explain(self, doc_id: str | bytes) -> dict[str, Any]:
        """What became of a document and why: the columns of `tables.FATE`, the `uri` of its file, its `positions`.

        Exact copies share a doc_id: the answer is then about the one that was kept, if any, and `copies` says
        where the others are. Raises NotFoundError if the corpus has no such document.
        """
        wanted = _to_id(doc_id)
        found: list[dict[str, Any]] = []
        for table in self._tables("decisions", None):
            found += table.filter(pc.field("doc_id") == pa.scalar(wanted, tables.DOC_ID)).to_pylist()
        if not found:
            raise NotFoundError(f"There is no document {wanted.hex()} in the corpus of this manifest.")
        for fate in found:
            fate["uri"] = self.files["uri"][fate["file"]].as_py()
        told, *copies = sorted(found, key=lambda fate: (fate["fate"] != "kept", fate["fate"] == "duplicate"))
        return {
            **told,
            "doc_id": wanted.hex(),
            "duplicate_of": told["duplicate_of"] and told["duplicate_of"].hex(),
            "positions": self.when(wanted) if told["fate"] == "kept" else [],
            "copies": [{name: copy[name] for name in ("uri", "row", "fate")} for copy in copies],
        }

    def describe(self) -> dict[str, Any]:
        """Chosen documents, visits and tokens; phases; visits and tokens by source and by cluster; `difficulty`, its
        mean in each tenth of the order, None where no visit has one; the counts. Reads through all parts."""
        sources: dict[str, dict[str, int]] = {}
        clusters: dict[int, dict[str, int]] = {}
        rated = np.zeros((10, 2))
        for table in self._tables("parts", ["position", "source", "cluster", "num_tokens", "difficulty"]):
            num_tokens = table["num_tokens"].to_numpy()
            _tally(sources, *labels(table["source"]), num_tokens)
            numbers, codes = np.unique(table["cluster"].to_numpy(), return_inverse=True)
            _tally(clusters, numbers.tolist(), codes, num_tokens)
            table = table.filter(table["difficulty"].is_valid())
            tenth = table["position"].to_numpy() * 10 // len(self)
            rated[:, 0] += np.bincount(tenth, minlength=10)
            rated[:, 1] += np.bincount(tenth, weights=table["difficulty"].to_numpy(), minlength=10)
        counts = self.info["counts"]
        return {
            "digest": self.digest,
            "documents": counts["kept"],
            "visits": counts["visits"],
            "tokens": counts["tokens"],
            "phases": self.info["phases"],
            "sources": dict(sorted(sources.items())),
            "clusters": dict(sorted(clusters.items())),
            "difficulty": [total / count if count else None for count, total in rated.tolist()],
            "counts": counts,
        }

    def verify(self) -> Verification:
        """Reads all that is stored, and works out again what can be worked out. Raises only if storage fails."""
        key = self._key("manifest.json")
        data = self._storage.get(key)
        if data is None:
            return Verification(ok=False, digest="", problems=[f"{key} is gone."])
        stored = Manifest(self._storage, self._home, data)
        try:
            info = stored.info
        except SelectorError as error:
            return Verification(ok=False, digest="", problems=[str(error)])
        ends = np.cumsum([part["rows"] for part in info["parts"]]).tolist()
        problems = [
            f"The entry of {part['name']} in {key} is out of place: it has first_position {part['first_position']}."
            for index, part in enumerate(info["parts"])
            if (part["name"], part["first_position"]) != (sealed.part_name(index), ends[index] - part["rows"])
        ]
        try:
            ledger = Ledger(stored.files)
        except DamagedError as error:
            problems.append(str(error))
            ledger = None
        for folder in ("decisions", "parts"):
            for index in range(len(info[folder])):
                try:
                    table = stored._table(folder, index, None)
                except DamagedError as error:
                    problems.append(str(error))
                    ledger = None
                else:
                    if ledger is not None:
                        (ledger.decide if folder == "decisions" else ledger.visit)(table)
        if ledger is not None:
            ledger.reconcile()
            leaves = ledger.leaf_digests()
            found = {"leaf_digests": leaves, "order_digest": root(leaves), "phases": ledger.phases}
            problems += [*ledger.problems, *_disagreements(ledger, info["counts"])]
            problems += [f"The {name} in {key} is not that of the rows." for name in found if info[name] != found[name]]
        return Verification(ok=not problems, digest=stored.digest, problems=problems)

    @functools.cached_property
    def _group_starts(self) -> npt.NDArray[np.int64]:
        """The first position of every row group of every part."""
        starts = [np.arange(0, part["rows"], LEAF_ROWS) + part["first_position"] for part in self.info["parts"]]
        return np.concatenate([np.empty(0, np.int64), *starts])

    def _group(self, group: int) -> pa.Table:
        def load() -> pa.Table:
            firsts = [part["first_position"] for part in self.info["parts"]]
            index = int(np.searchsorted(firsts, self._group_starts[group], side="right")) - 1
            file = _recall(self._recent_parts, index, _HELD_PARTS, lambda: self._file("parts", index))
            inside = int(self._group_starts[group] - firsts[index]) // LEAF_ROWS
            return sealed.read_table(self._key("parts", sealed.part_name(index)), file, None, inside)

        return _recall(self._recent_groups, group, _HELD_GROUPS, load)

    def _tables(self, folder: str, columns: Sequence[str] | None) -> Iterator[pa.Table]:
        return (self._table(folder, index, columns) for index in range(len(self.info[folder])))

    def _table(self, folder: str, index: int, columns: Sequence[str] | None) -> pa.Table:
        return sealed.read_table(self._key(folder, sealed.part_name(index)), self._file(folder, index), columns)

    def _file(self, folder: str, index: int) -> pq.ParquetFile:
        key, schema = self._key(folder, sealed.part_name(index)), _SCHEMAS[folder]
        file = sealed.open_table(key, self._storage.get(key), self.info[folder][index], schema)
        rows = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        if folder == "parts" and (max(rows) > LEAF_ROWS or min(rows[:-1], default=LEAF_ROWS) < LEAF_ROWS):
            raise DamagedError(key, f"its row groups are not of {LEAF_ROWS:,} rows")
        return file

    def _key(self, *names: str) -> str:
        """Decisions lie beside the manifest's directory, all else in it."""
        home = self._home.rpartition("/")[0] if names[0] == "decisions" else self._home
        return "/".join([home, *names] if home else names)


def _parts(chosen: pa.Table, visits: pa.Table, part_rows: int) -> Iterator[pa.Table]:
    """The rows of the manifest, `tables.MANIFEST`, part by part."""
    assert part_rows > 0
    of_document = [name for name in tables.MANIFEST.names if name in chosen.schema.names]
    chosen = chosen.select(of_document).unify_dictionaries().combine_chunks()
    num_tokens = 0
    for first in range(0, visits.num_rows, part_rows):
        listed = visits.slice(first, part_rows).combine_chunks()
        rows = chosen.take(listed["document"])
        ends = num_tokens + np.cumsum(rows["num_tokens"].to_numpy(), dtype=np.int64)
        num_tokens = int(ends[-1])
        rows = rows.append_column("position", [np.arange(first, first + listed.num_rows)])
        rows = rows.append_column("token_start", [ends - rows["num_tokens"].to_numpy()])
        for name in ("visit", "phase", "loss_weight"):
            rows = rows.append_column(name, listed[name])
        yield sealed.canonical(rows, tables.MANIFEST)


def _disagreements(ledger: Ledger, told: Mapping[str, Any]) -> list[str]:
    """A sentence for each count that is not what the rows come to."""
    counts: dict[str, Any] = {**ledger.counts(), **told}
    never_documents = counts.get("rows", counts["documents"]) - counts["documents"]
    expected = ledger.counts()
    expected["quarantined"] += never_documents
    if "reasons" in counts:
        counts["reasons"] = sum(counts["reasons"].values())
        expected["reasons"] = expected["left_out"] + expected["quarantined"]
    return [
        f"The count of {name} is {counts[name]:,}, and the rows come to {number:,}."
        for name, number in expected.items()
        if counts[name] != number
    ]


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


def _tally(account: dict[Any, dict[str, int]], names: list[Any], codes: _Array, tokens: _Array) -> None:
    """Adds the visits and tokens of each name to the account."""
    visits = np.bincount(codes, minlength=len(names)).tolist()
    sums = np.bincount(codes, weights=tokens, minlength=len(names)).tolist()
    for name, number, total in zip(names, visits, sums, strict=True):
        entry = account.setdefault(name, {"visits": 0, "tokens": 0})
        entry["visits"] += number
        entry["tokens"] += int(total)
