"""What training reports of the documents that it sees, written by any number of ranks, and made a table that is read.

    feedback = Feedback("feedback", "runs/2f1c")            # one for each rank
    for step, batch in enumerate(loader):
        losses = ...                                        # one for each document
        feedback.write(position=batch["position"], step=step, loss=losses)
        if step % 100 == 0:
            feedback.flush()                                # where the model is saved: what was reported until then is
            save(model, dataset.state_dict(batch))          # on disk, and what comes after is reported again

Think of the folder as a heap of notes: every flush adds one file, whole or not at all, and none is ever changed. A rank
that is killed and resumed reports some visits again; of two reports of one visit in one round that of the later attempt
counts. So `selector feedback` may be run at any time and any number of times.
"""

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from selector import tables
from selector.consume.columns import Column, Columns, Labels
from selector.consume.place import Place, opened
from selector.errors import CorpusError, NotFoundError, UsageError
from selector.exact import keyed
from selector.manifest import Manifest
from selector.manifest.ranks import PADDING
from selector.storage import is_address, open_storage, path_here

pc: Any = pyarrow.compute  # whose functions are made when it is imported
Kind = Literal["loss", "rollouts"]

_FLUSH_ROWS = 65_536
_AT_ONCE = 65_536  # positions whose documents are looked up
_DIGITS = 16  # of a manifest's digest, in the name of a folder
_NAME = re.compile(r"([0-9a-f]{16})/([0-9]{6})-([0-9]{5})-([0-9]{6})\.parquet")


class Feedback:
    """Writes what one rank reports of the visits of a manifest.

    `round` is which round of training the reports are of, counted from 1: of a run that waits for feedback the round
    that it has come to; where there are no rounds, 1, or whatever you count (epochs). The rank is that of
    `torch.distributed`, if none is given; it only names the files.
    """

    def __init__(
        self,
        folder: str | Path,
        manifest: Manifest | str,
        *,
        round: int | None = None,  # noqa: A002 (the word that a feedback table has)
        rank: int | None = None,
        flush_rows: int = _FLUSH_ROWS,
    ) -> None:
        """Raises NotFoundError if there is no such manifest, and UsageError where the rank is not known yet."""
        self._manifest = opened(manifest)
        self._round = round_of(self._manifest) if round is None else round
        self._rank = Place.find(None, None).rank if rank is None else rank
        self._storage = open_storage(str(folder))
        self._flush_rows = flush_rows
        self._folder = self._manifest.digest[:_DIGITS]
        written = [_NAME.fullmatch(key) for key, _ in self._storage.list(f"{self._folder}/")]
        self._attempt = 1 + max((int(name[2]) for name in written if name), default=0)
        self._number = 0
        self._waiting: list[pa.Table] = []

    def write(
        self,
        *,
        step: int,
        position: Any = None,
        doc_id: Sequence[str] | Sequence[bytes] | None = None,
        round: int | None = None,  # noqa: A002 (as above)
        loss: Any = None,
        n: Any = None,
        successes: Any = None,
    ) -> None:
        """Reports a loss for each visit, or how many of `n` answers were right (`successes`); arrays, tensors or lists.

        Visits are named by their positions in the order, or documents by their ids. Positions of padding are passed
        over; of several values of one visit in a step the last counts. A loss that is not finite is kept: training may
        diverge, and `selector feedback` says how many are so. What was reported is on disk after `flush`, which also
        happens every 65,536 rows. Raises UsageError.
        """
        positions, ids = _named(position, doc_id, len(self._manifest))
        count = len(ids)
        columns = {"loss": _numbers("loss", loss), "n": _numbers("n", n), "successes": _numbers("successes", successes)}
        if (loss is None) == (n is None) or (n is None) != (successes is None):
            raise UsageError("Report a loss, or n and successes: feedback.write(position=…, step=…, loss=losses).")
        for name, values in columns.items():
            if values is not None and len(values) != count:
                raise UsageError(f"There are {count} visits, and {len(values)} values of {name}. Give one for each.")
        rows = pa.table(
            {
                "position": pa.nulls(count, pa.int64()) if positions is None else pa.array(positions),
                "doc_id": ids,
                "step": pa.repeat(_count("step", step), count),
                "round": pa.repeat(_count("round", self._round if round is None else round), count),
                **{
                    name: pa.nulls(count, REPORTS.field(name).type) if values is None else values
                    for name, values in columns.items()
                },
            },
            schema=REPORTS,
        )
        if positions is not None:
            rows = rows.filter(pa.array(positions != PADDING))
        _check(rows)
        self._waiting.append(rows)
        if sum(table.num_rows for table in self._waiting) >= self._flush_rows:
            self.flush()

    def flush(self) -> None:
        """What was reported until now is on disk."""
        rows = pa.concat_tables([REPORTS.empty_table(), *self._waiting])
        if not rows.num_rows:
            return
        data = _parquet(rows.replace_schema_metadata({"manifest": self._manifest.digest}))
        while True:
            key = f"{self._folder}/{self._attempt:06}-{self._rank:05}-{self._number:06}.parquet"
            self._number += 1
            if self._storage.put_if_absent(key, data):
                break  # else somebody calls itself the same rank
        self._waiting = []

    def close(self) -> None:
        """Ends the reports: what was reported until now is on disk."""
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


REPORTS = pa.schema(
    [
        ("position", pa.int64()),  # of the visit in the order; null where a document is named by its id
        ("doc_id", tables.DOC_ID),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("round", pa.int64(), nullable=False),
        ("loss", pa.float64()),
        ("n", pa.int64()),
        ("successes", pa.int64()),
    ]
)
"""A row for every report."""

SCORES = pa.schema([("doc_id", tables.DOC_ID), ("round", pa.int64()), ("score", pa.float64())])
"""Losses as the selector `iterative` and the raters of training read them: one row for a document and a round."""
ROLLOUTS = pa.schema([("doc_id", tables.DOC_ID), ("round", pa.int64()), ("n", pa.int64()), ("successes", pa.int64())])
"""Rollouts as the rater `pass_rate` reads them."""


def round_of(manifest: Manifest) -> int:
    """The round that a manifest has come to; 1 where it knows of none."""
    facts: Mapping[str, Any] = manifest.info["facts"].get("select", {})
    return max(1, len(facts.get("rounds", ())))


@dataclass(frozen=True, kw_only=True)
class Appended:
    """What became of a table: how many rows it has, and how many of them are new or were changed."""

    rows: int
    changed: int
    not_finite: int = 0  # of the losses that were reported


def append(folder: str | Path, manifest: Manifest | str, table: str | Path, kind: Kind | None = None) -> Appended:
    """Joins all reports of a manifest to its documents, and puts them into a table (.parquet or .jsonl), which is made
    if it is not there; rows of the same document and round are replaced, all others stay.

    `kind` says what is meant where there are both losses and rollouts. Raises NotFoundError where there are no reports,
    UsageError and CorpusError.
    """
    path = path_here(table)
    if path.suffix not in (".parquet", ".jsonl"):
        raise UsageError(f"The table {str(path)!r} is neither .parquet nor .jsonl. Call it e.g. feedback.parquet.")
    whole_reports = reports(folder, opened(manifest))
    new = joined(opened(manifest), whole_reports, kind)
    not_finite = 0
    if new.schema.names == SCORES.names:
        not_finite = int((~np.isfinite(whole_reports["loss"].drop_null().to_numpy())).sum())
    if not path.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {str(path.parent)!r} for the table. Make it, or name another table.")
    storage, name = open_storage(str(path.absolute().parent)), path.name
    while True:
        stored = storage.get(name)
        old = new.schema.empty_table() if stored is None else _read(stored, path, new.schema)
        whole, changed = _merged(old, new)
        data = _parquet(whole) if path.suffix == ".parquet" else _jsonl(whole)
        if data == stored or (
            storage.put_if_absent(name, data) if stored is None else storage.compare_and_swap(name, stored, data)
        ):
            return Appended(rows=whole.num_rows, changed=changed, not_finite=not_finite)


def reports(folder: str | Path, manifest: Manifest) -> pa.Table:
    """The reports of a manifest, of every visit and round the last one: `REPORTS`."""
    storage, digest = open_storage(str(folder)), manifest.digest
    tables_read, order = [REPORTS.empty_table()], [np.empty((0, 2), np.int64)]
    for key, _ in storage.list(f"{digest[:_DIGITS]}/"):
        name = _NAME.fullmatch(key)
        data = storage.get(key) if name else None
        if name is None or data is None:
            continue
        rows = pq.read_table(io.BytesIO(data), use_threads=False)
        if (rows.schema.metadata or {}).get(b"manifest") == digest.encode():
            tables_read.append(rows.replace_schema_metadata(None).cast(REPORTS))
            order.append(np.tile([[int(name[2]), int(name[4])]], (rows.num_rows, 1)))
    whole = pa.concat_tables(tables_read).combine_chunks()
    if not whole.num_rows:
        known = sorted({key.split("/")[0] for key, _ in storage.list("")})
        about = f"only of the manifests {', '.join(known)}" if known else "nothing at all"
        if not known and not is_address(str(folder)) and not Path(folder).is_dir():
            about += ", since there is no such folder"
        raise NotFoundError(f"{folder} has no report of the manifest {digest[:_DIGITS]}, {about}. Give the run's own.")
    return _last(whole, np.concatenate(order))


def joined(manifest: Manifest, whole: pa.Table, kind: Kind | None = None) -> pa.Table:
    """Reports as a table by document and round: losses are averaged over the visits, rollouts added up."""
    has_losses, has_rollouts = (whole[name].null_count < whole.num_rows for name in ("loss", "n"))
    if kind is None and has_losses and has_rollouts:
        raise UsageError("The reports have losses and rollouts. Say which: --kind loss, or --kind rollouts.")
    kind = kind or ("rollouts" if has_rollouts else "loss")
    if not (has_rollouts if kind == "rollouts" else has_losses):
        reported = "losses" if has_losses else "rollouts"
        raise UsageError(f"The reports have {reported} alone, and --kind is {kind}. Leave --kind out.")
    values = whole.filter(whole["n" if kind == "rollouts" else "loss"].is_valid())
    keyed = pa.table({"doc_id": _doc_ids(manifest, values), **{name: values[name] for name in values.schema.names[3:]}})
    groups = keyed.group_by(["doc_id", "round"], use_threads=False)
    if kind == "loss":
        return groups.aggregate([("loss", "mean")]).rename_columns(SCORES.names).cast(SCORES)
    summed = groups.aggregate([("n", "sum"), ("successes", "sum")])
    return summed.rename_columns(ROLLOUTS.names).cast(ROLLOUTS)


def _doc_ids(manifest: Manifest, rows: pa.Table) -> pa.Array:
    """The document of each report."""
    by_position = rows["position"].is_valid().to_numpy()
    ids = keyed.words(rows["doc_id"].combine_chunks().fill_null(bytes(16)))
    if by_position.any():
        wanted = rows["position"].drop_null().to_numpy()
        first, last = int(wanted.min()), int(wanted.max())
        if first < 0 or last >= len(manifest):
            raise CorpusError(f"There is a report of position {last}, and the order has {len(manifest)} visits.")
        columns = Columns(manifest, ["doc_id"])
        taken = [_words(columns.take(wanted[i : i + _AT_ONCE])["doc_id"]) for i in range(0, len(wanted), _AT_ONCE)]
        ids[by_position] = np.concatenate(taken)
    return keyed.ids(ids)


def _words(column: Column) -> keyed.UInt64:
    """A column of ids as `keyed.words` has them."""
    assert not isinstance(column, Labels)
    return np.frombuffer(column.tobytes(), ">u8").astype(np.uint64).reshape(-1, 2)


def _last(whole: pa.Table, order: npt.NDArray[np.int64]) -> pa.Table:
    """Of several reports of one visit in one round the one of the last attempt; a document that is named by its id may
    be reported at several steps of a round."""
    by_position = whole["position"].is_valid().to_numpy()
    positions = np.where(by_position, whole["position"].fill_null(0).to_numpy(), 0)
    ids = whole["doc_id"].combine_chunks().fill_null(bytes(16)).cast(pa.binary())
    document = ids.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    rounds, steps = whole["round"].to_numpy(), whole["step"].to_numpy()
    at = np.where(by_position, 0, steps)
    numbers = np.arange(whole.num_rows)
    places = np.lexsort((numbers, order[:, 1], steps, order[:, 0], at, rounds, positions, document, by_position))
    keys = np.stack([values[places] for values in (at, rounds, positions, document, by_position.astype(np.int64))])
    is_last = np.r_[(keys[:, 1:] != keys[:, :-1]).any(axis=0), True]
    return whole.take(pa.array(places[is_last]))


def _merged(old: pa.Table, new: pa.Table) -> tuple[pa.Table, int]:
    """Both tables by round and document, the new one's rows instead of the old one's; and how many rows are other."""
    both = pa.concat_tables([old, new]).combine_chunks()
    ids, rounds = keyed.words(both["doc_id"]), both["round"].to_numpy()
    order = np.lexsort((np.arange(both.num_rows), ids[:, 1], ids[:, 0], rounds))
    keys = np.stack([ids[order, 0], ids[order, 1], rounds[order].astype(np.uint64)])
    is_again = np.r_[False, (keys[:, 1:] == keys[:, :-1]).all(axis=0)][: len(order)]  # as the row before
    is_last = np.r_[~is_again[1:], True][: len(order)]
    values = [both[name].fill_null(-1).to_numpy()[order] for name in both.schema.names[2:]]
    is_same = is_again & np.all([np.r_[False, one[1:] == one[:-1]][: len(order)] for one in values], axis=0)
    changed = int((is_last & (order >= old.num_rows) & ~is_same).sum())
    return both.take(pa.array(order[is_last])), changed


def _read(data: bytes, path: Path, schema: pa.Schema) -> pa.Table:
    """The rows of a table that is there already. Raises CorpusError where it is another kind of table."""
    try:
        if path.suffix == ".parquet":
            return pq.read_table(io.BytesIO(data), use_threads=False).select(schema.names).cast(schema)
        rows = [json.loads(line) for line in data.splitlines() if line.strip()]
        return pa.Table.from_pylist([{**row, "doc_id": bytes.fromhex(row["doc_id"])} for row in rows], schema=schema)
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise CorpusError(
            f"{path} is no table of {', '.join(schema.names)}:"
            f" {f'it has no {error}' if isinstance(error, KeyError) else error}. Give another one, or move it away."
        ) from error


def _parquet(rows: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(rows, file, compression="zstd")
    return file.getvalue()


def _jsonl(rows: pa.Table) -> bytes:
    lines: list[str] = []
    for row in rows.to_pylist():
        score = row.get("score")
        known = {**row, "doc_id": row["doc_id"].hex()}
        if score is not None and not np.isfinite(score):
            known["score"] = None  # JSON has no such number
        lines.append(json.dumps(known) + "\n")
    return "".join(lines).encode()


def _named(position: Any, doc_id: Any, num_positions: int) -> tuple[npt.NDArray[np.int64] | None, pa.Array]:
    if (position is None) == (doc_id is None):
        raise UsageError("Name the visits by position or the documents by doc_id: one of them, e.g. batch['position'].")
    if doc_id is not None:
        try:
            ids = [bytes.fromhex(one) if isinstance(one, str) else bytes(one) for one in doc_id]
            return None, pa.array(ids, tables.DOC_ID)
        except (ValueError, pa.ArrowInvalid) as error:
            raise UsageError(f"doc_id has what is no id of 32 hex digits or 16 bytes: {error}.") from error
    column = _exact("position", position, pa.int64())
    if column.null_count:
        raise UsageError(f"position has a null. Give a number for each visit, and {PADDING} for padding.")
    positions = column.to_numpy()
    for one in positions[(positions < PADDING) | (positions >= num_positions)].tolist():
        raise UsageError(f"position has {one}, and the order has the positions 0 to {num_positions - 1:,}.")
    return positions, pa.nulls(len(positions), tables.DOC_ID)


def _check(rows: pa.Table) -> None:
    """No row has more successes than answers. Raises UsageError."""
    n, successes = rows["n"].fill_null(0), rows["successes"].fill_null(0)
    is_wrong = pc.or_(pc.less(successes, 0), pc.greater(successes, n))
    if pc.any(is_wrong).as_py():
        first = rows.filter(is_wrong)[0:1].to_pylist()[0]
        raise UsageError(
            f"n is {first['n']} and successes is {first['successes']}: of n answers 0 to n can be right. Write how many"
            " were asked for, and how many of these were right."
        )


def _count(name: str, value: Any) -> pa.Scalar:
    """A whole number from 0 on."""
    column = _exact(name, value, pa.int64())
    if len(column) != 1 or column.null_count or column[0].as_py() < 0:
        raise UsageError(f"{name} is {value!r}. Write a whole number from 0 on.")
    return column[0]


def _numbers(name: str, values: Any) -> pa.Array | None:
    return None if values is None else _exact(name, values, REPORTS.field(name).type)


def _exact(name: str, values: Any, kind: pa.DataType) -> pa.Array:
    """Numbers in this type. Raises UsageError for what is no number, or none of this type."""
    numbers = "whole numbers" if pa.types.is_integer(kind) else "numbers"
    array = _array(values)
    try:
        column = pa.array(array)
        if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
            raise UsageError(f"{name} has text, such as {column[0].as_py()!r}. Give {numbers}.")
        return column.cast(kind)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise UsageError(f"{name} has what is no {numbers[:-1]}: {error}. Give {numbers}, one for each.") from error


def _array(values: Any) -> npt.NDArray[Any]:
    """Numbers as an array, also those of a tensor on any device, or of a list of tensors with one number each."""
    if isinstance(values, list | tuple):
        values = [value.item() if hasattr(value, "item") else value for value in values]
    if hasattr(values, "detach"):
        values = values.detach()
        values = (values.double() if values.is_floating_point() else values).cpu().numpy()
    return np.atleast_1d(np.asarray(values))
