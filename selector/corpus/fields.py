"""Names of columns of the corpus: where a dot leads into a nested column, and how a row is asked for one.

`meta.url` is the field `url` of the objects in the column `meta`, or what its maps have at the key `url`. A dot that is
part of a name is written in double quotes: `"meta.url"` is a column of that name, `meta."a.b"` a field `a.b` of `meta`,
and `""` in quotes is a quote.
Everything that names a column of the corpus (text, templates, key, source, rules, raters) reads names here.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

import pyarrow as pa

from selector.errors import PolicyError

ABSENT: Final = object()
"""What `find` returns where a row has no such field."""

_PART = re.compile(r'"((?:[^"]|"")+)"|([^".]+)')
_PLAIN = re.compile(r'[^".]+')


@functools.lru_cache(maxsize=1024)
def path_of(name: str) -> tuple[str, ...]:
    """The keys that lead to a column, the first one that of the file: ("meta", "url") for `meta.url`.

    Raises PolicyError if the name is not one: an empty part, or a quote without its end.
    """
    path: list[str] = []
    at = 0
    while name_part := _PART.match(name, at):
        path.append(name_part[2] if name_part[1] is None else name_part[1].replace('""', '"'))
        at = name_part.end()
        if at == len(name):
            return tuple(path)
        if name[at] != ".":
            break
        at += 1
    raise PolicyError(
        f"{name!r} is not the name of a column. A dot leads into a nested column, as in meta.url;"
        " a name that has a dot or a quote goes into double quotes, as in '\"meta.url\"'."
    )


def name_of(path: Iterable[str]) -> str:
    """The name that these keys have, with quotes where they are needed: `path_of` the other way round."""
    return ".".join(key if _PLAIN.fullmatch(key) else '"' + key.replace('"', '""') + '"' for key in path)


def column_of(name: str) -> str:
    """The column of the file in which a nested column lies: what a format is asked for."""
    return path_of(name)[0]


def find(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column in a row, null where an object on the way is null; ABSENT where there is no such field."""
    value: Any = row
    for key in path_of(name):
        if value is None:
            return None
        here = _as_object(value)
        if here is None or key not in here:
            return ABSENT
        value = here[key]
    return value


def _as_object(value: Any) -> Mapping[str, Any] | None:
    """An object, which an Arrow map is too: Python has it as a list of pairs, of which the last of a key counts."""
    if isinstance(value, Mapping):
        return cast(Mapping[str, Any], value)
    pairs = cast(list[Any], value) if isinstance(value, list) else []
    if pairs and all(type(pair) is tuple and len(cast(tuple[Any, ...], pair)) == 2 for pair in pairs):
        return dict(cast(list[tuple[str, Any]], pairs))
    return None


def is_map(kind: pa.DataType) -> bool:
    """Whether a type is a map whose keys are text, in which a dot leads to the value of a key."""
    return pa.types.is_map(kind) and (pa.types.is_string(kind.key_type) or pa.types.is_large_string(kind.key_type))


def names_in(row: Mapping[str, Any], most: int = 1000) -> list[str]:
    """The names of all columns of a row, nested ones after the one that they lie in, at most so many."""
    names: list[str] = []
    _add(names, (), row, most)
    return names


def _add(names: list[str], path: tuple[str, ...], row: Mapping[str, Any], most: int) -> None:
    for key, value in row.items():
        if len(names) >= most:
            return
        if key:
            names.append(name_of((*path, key)))
            if isinstance(value, Mapping):
                _add(names, (*path, key), cast(Mapping[str, Any], value), most)


def with_leaves(kind: pa.DataType, leaf: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """A type in which every type that holds no other one has become what `leaf` makes of it."""
    is_ = pa.types
    if is_.is_struct(kind):
        return pa.struct([each.with_type(with_leaves(each.type, leaf)) for each in kind])
    if is_.is_list(kind) or is_.is_list_view(kind):
        return pa.list_(with_leaves(kind.value_type, leaf))
    if is_.is_large_list(kind) or is_.is_large_list_view(kind):
        return pa.large_list(with_leaves(kind.value_type, leaf))
    if is_.is_fixed_size_list(kind):
        return pa.list_(with_leaves(kind.value_type, leaf), kind.list_size)
    if is_.is_map(kind):
        return pa.map_(with_leaves(kind.key_type, leaf), with_leaves(kind.item_type, leaf))
    return leaf(kind)


def names_of(schema: Iterable[pa.Field], path: tuple[str, ...] = ()) -> list[str]:
    """The names of all columns of a schema, nested ones after the one that they lie in; of a map it says no keys."""
    names: list[str] = []
    for field in schema:
        if field.name:
            names.append(name_of((*path, field.name)))
            if pa.types.is_struct(field.type):
                names += names_of(field.type, (*path, field.name))
    return names
