"""Whose fault it is when a plug-in breaks its contract: its own, and it is named.

A plug-in can come from anywhere, and who reads the message may not have written it.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from selector.engine import inside
from selector.engine.answers import sent
from selector.errors import SelectorError
from selector.plugins.pool import GroupWork, Pool, Shard

_NOT_ITS_OWN = (SelectorError, OSError, MemoryError)  # a plug-in does no I/O: these come from what it was given


def fault(kind: str, name: str, plugin: object, problem: str) -> SelectorError:
    """The error that puts a problem on the plug-in that made it; its class will do.

    `kind` is "rater", "fit", "selector" or "order", `name` what the policy calls it; `problem` goes on after "The rater
    'name' ".
    """
    cls = plugin if isinstance(plugin, type) else type(plugin)
    return SelectorError(
        f"The {kind} {name!r} {problem}. This is a fault of the {kind}, {cls.__module__}.{cls.__qualname__}."
    )


@contextmanager
def blamed(kind: str, name: str, plugin: object) -> Generator[None]:
    """Puts on the plug-in whatever it raises here, but for errors that are not its own."""
    try:
        yield
    except (*_NOT_ITS_OWN, GeneratorExit):
        raise
    except BaseException as error:
        if inside.interrupts(error):
            raise
        raise fault(kind, name, plugin, f"failed with {type(error).__name__}: {error}".rstrip(".")) from error


@dataclass(frozen=True, kw_only=True)
class Blamed:
    """Work of a plug-in that is done elsewhere, with the plug-in's name on what it raises there."""

    kind: str
    name: str
    plugin: type[Any]  # not itself: it may hold tables
    work: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        with blamed(self.kind, self.name, self.plugin):
            return self.work(*arguments)


def with_blame(pool: Pool, kind: str, name: str, plugin: object) -> Pool:
    """The pool as a plug-in is given it: what its work raises is put on it, wherever that is done."""

    def mapped(work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        return pool.mapper(Blamed(kind=kind, name=name, plugin=type(plugin), work=work), items)

    def exchanged(whole: Pool, by: str, work: GroupWork, columns: Sequence[str], returns: pa.Schema) -> Sequence[Shard]:
        assert pool.exchanger is not None
        try:
            sent(work)
        except SelectorError as error:
            problem = f"gives an exchange work that cannot be sent: {error}"
            raise fault(kind, name, plugin, problem.rstrip(".")) from error
        blaming = Blamed(kind=kind, name=name, plugin=type(plugin), work=work)
        return pool.exchanger(replace(whole, mapper=pool.mapper), by, blaming, columns, returns)

    return replace(pool, mapper=mapped, exchanger=pool.exchanger and exchanged)


def count_null(column: pa.Array | pa.ChunkedArray) -> int:
    """How many values of an answer's column are null; of labels also those whose word is null."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return sum(_with_words(chunk).null_count for chunk in chunks)


def _with_words(chunk: Any) -> Any:
    """The values themselves where a label may be null by its word; a million labels are 40 MB of words."""
    has_null_words = pa.types.is_dictionary(chunk.type) and chunk.dictionary.null_count
    return chunk.dictionary_decode() if has_null_words else chunk


def difference(given: pa.Schema, wanted: pa.Schema) -> str:
    """What distinguishes two schemas, by the first field."""
    for field in wanted:
        at = given.get_field_index(field.name)
        if at < 0:
            return f"{field.name!r} is missing"
        if not given.field(at).equals(field):
            types = [f"{kind.type}{'' if kind.nullable else ' not null'}" for kind in (given.field(at), field)]
            return f"{field.name!r} is {types[0]}, not {types[1]}"
    return f"they are {', '.join(given.names)}, not {', '.join(wanted.names)}"
