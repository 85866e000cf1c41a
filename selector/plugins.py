"""A plug-in is found by the name of its file, by an entry point, or by a dotted name.

There is no registry. A family is a folder: `selector/rate/length.py` holds the rater `length`, the one
public class in that file that belongs to the family. Another package adds one through an entry point
(`[project.entry-points."selector.raters"]`), or not at all: a policy may say `package.module:Class`.
"""

import dataclasses
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
from collections.abc import Mapping
from typing import Any

from selector.errors import PolicyError, UsageError, did_you_mean

# Each family: the folder that holds ours, and the class in that folder's __init__ that they all extend.
# Executors have no folder here, since Ray lives outside this package: ours are entry points like anyone's.
_FOLDERS = {
    "raters": ("selector.rate", "Rater"),
    "selectors": ("selector.select", "Selector"),
    "orders": ("selector.order", "Order"),
    "storages": ("selector.storage", "Storage"),
    "executors": (None, None),
}
FAMILIES = tuple(_FOLDERS)


def names(family: str) -> list[str]:
    """The names that a policy may use, sorted."""
    folder, _ = _FOLDERS[family]
    ours: list[str] = []
    if folder is not None:
        package = importlib.import_module(folder)
        ours = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")]
    return sorted({*ours, *_entry_points(family)})


def find(family: str, name: str) -> type[Any]:
    """The class called `name` in a family. Raises PolicyError with the nearest name if there is none."""
    folder, base = _FOLDERS[family]
    entry_points = _entry_points(family)
    if name in entry_points:
        return entry_points[name].load()
    if ":" in name or "." in name:
        return _dotted(family, name)
    if folder is None or base is None or not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name not in names(family):
        raise PolicyError(f"There is no {family[:-1]} called {name!r}. {did_you_mean(name, names(family))}")
    contract = getattr(importlib.import_module(folder), base)
    module = importlib.import_module(f"{folder}.{name}")
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, contract) and value.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{module.__name__} must define exactly one {base}, not {len(found)}"
    return found[0]


def make(family: str, name: str, options: Mapping[str, Any], where: str) -> Any:
    """A plug-in with its options checked against its fields; `where` is the policy key, for the message."""
    import pydantic

    cls = find(family, name)
    fields = {field.name for field in dataclasses.fields(cls)}
    for key in options:
        if key not in fields:
            hint = did_you_mean(str(key), fields) if fields else f"{name} has no options."
            raise PolicyError(f"{where}.{name} has no option {key!r}. {hint}")
    try:
        return pydantic.TypeAdapter(cls).validate_python(dict(options))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (where, name, *first["loc"]))
        if first["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
            raise PolicyError(f"{place} is missing: {name} cannot do without it.") from error
        raise PolicyError(f"{place}: {first['msg']}, not {first['input']!r}.") from error


def describe(family: str) -> list[dict[str, Any]]:
    """Name, one-line summary and options (type and default) of every plug-in of a family."""
    described: list[dict[str, Any]] = []
    for name in names(family):
        cls = find(family, name)
        options = {
            field.name: {
                "type": field.type if isinstance(field.type, str) else inspect.formatannotation(field.type),
                "default": None if field.default is dataclasses.MISSING else field.default,
                "required": field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
            }
            for field in (dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ())
        }
        summary = (inspect.getdoc(cls) or "").split("\n", 1)[0]
        described.append({"name": name, "summary": summary, "options": options})
    return described


def _entry_points(family: str) -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=f"selector.{family}")}


def _dotted(family: str, name: str) -> type[Any]:
    module_name, _, attribute = name.partition(":") if ":" in name else name.rpartition(".")
    try:
        value: Any = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise PolicyError(f"The {family[:-1]} {name!r} cannot be imported: {error}.") from error
    _, base = _FOLDERS[family]
    folder = _FOLDERS[family][0]
    if folder is not None and base is not None:
        contract = getattr(importlib.import_module(folder), base)
        if not (inspect.isclass(value) and issubclass(value, contract)):
            raise UsageError(f"{name!r} is not a {family[:-1]}: it does not extend {folder}.{base}.")
    return value
