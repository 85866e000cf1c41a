"""The published contracts, as JSON Schema: `python -m selector.policy.schema schemas` writes them.

An editor that knows `policy.schema.json` completes keys and plug-in names; a tool in any language reads
`manifest.schema.json` to know what a manifest holds.
"""

import dataclasses
import functools
import inspect
import json
import operator
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pydantic

from selector import plugins
from selector.manifest.format import SCHEMAS
from selector.manifest.header import Header, fields_of, optional_fields_of
from selector.plugins.options import hints_of, kind_of
from selector.policy.sections import Policy

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """Every published schema, by file name."""
    return {"policy.schema.json": policy_schema(), "manifest.schema.json": manifest_schema()}


def policy_schema() -> dict[str, Any]:
    """What a policy file may say. Our plug-ins are listed with their options; one from elsewhere goes by its dotted
    name, and its options are not checked."""
    schema = Policy.model_json_schema(mode="validation")
    for family in ("raters", "selectors", "orders"):
        schema["$defs"][family] = choice(family)
    schema["$defs"]["ratings"] = _rating()
    schema["properties"]["rate"] = {"type": "array", "items": {"$ref": "#/$defs/ratings"}}
    for section, family in (("SelectPolicy", "selectors"), ("OrderPolicy", "orders")):
        schema["$defs"][section]["properties"]["using"] = {"$ref": f"#/$defs/{family}"}
    for name in ("Choice", "RaterChoice"):
        schema["$defs"].pop(name, None)
    return {"$schema": DRAFT, **schema, "title": "A policy of Selector"}


def manifest_schema() -> dict[str, Any]:
    """What manifest.json holds, and under `columns` what the Parquet parts beside it hold."""
    names = {name: f"{name}.parquet" for name in ("files", "ids", "unvisited")}
    columns = {names.get(name, name): _columns(table) for name, table in SCHEMAS.items()}
    return {"$schema": DRAFT, "title": "A manifest of Selector", **_of_type(Header), "columns": columns}


def write(folder: Path) -> None:
    """Writes every schema into a folder."""
    for name, schema in schemas().items():
        (folder / name).write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _of_type(kind: Any) -> dict[str, Any]:
    """The schema of a type of `selector.manifest.header`: dataclasses, and what their fields hold."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return functools.reduce(operator.or_, inner[1:], _of_type(inner[0]))
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_of_type(member) for member in inner]}
    if dataclasses.is_dataclass(kind):
        cls = typing.cast("type[Any]", kind)
        properties = {name: _of_type(member) for name, member in fields_of(cls).items()}
        required = [name for name in properties if name not in optional_fields_of(cls)]
        closed = {"required": required, "additionalProperties": False}
        return {
            "type": "object",
            "description": inspect.getdoc(typing.cast(Any, kind)),
            "properties": properties,
            **closed,
        }
    if origin is Mapping:
        return {"type": "object"} if inner[1] is Any else {"type": "object", "additionalProperties": _of_type(inner[1])}
    if origin is tuple and inner[-1] is Ellipsis:
        return {"type": "array", "items": _of_type(inner[0])}
    if origin is tuple:
        exact = {"minItems": len(inner), "maxItems": len(inner)}
        return {"type": "array", "prefixItems": [_of_type(member) for member in inner], **exact}
    if origin is Literal:
        return {"const": inner[0]}
    return {"type": {int: "integer", float: "number", str: "string", type(None): "null"}[kind]}


def choice(family: str) -> dict[str, Any]:
    """A plug-in's name, or one name with its options."""
    bare: list[str] = []  # names that can stand alone
    properties: dict[str, Any] = {}
    for name in plugins.ours(family):
        schema = _options(plugins.find(family, name))
        properties[name] = {**schema, "title": name}
        if not schema["required"]:
            properties[name] = {"anyOf": [properties[name], {"type": "null"}]}
            bare.append(name)
    return {
        "anyOf": [
            {"enum": bare},
            {"type": "string", "pattern": "[.:]", "description": "package.module:Class"},
            {
                "type": "object",
                "properties": properties,
                "patternProperties": {"[.:]": {"type": ["object", "null"]}},
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            },
        ]
    }


def _rating() -> dict[str, Any]:
    """A rater as a policy lists it: beside its options, `as` may give it another name."""
    reference = "#/$defs/raters"
    alone = choice("raters")["anyOf"][-1]
    called = {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "description": "What to call it."}
    options = {name: {"$ref": f"{reference}/anyOf/2/properties/{name}"} for name in alone["properties"]}
    exact = {"required": ["as"], "minProperties": 2, "maxProperties": 2}
    return {"anyOf": [{"$ref": reference}, {**alone, "properties": {**options, "as": called}, **exact}]}


def _options(cls: type[Any]) -> dict[str, Any]:
    """The options of a plug-in; one that is itself a plug-in is written as in a policy."""
    properties: dict[str, Any] = {}
    required: list[str] = []
    hints = hints_of(cls)
    for field in dataclasses.fields(cls):
        kind = kind_of(hints[field.name])
        family = plugins.family_of(kind.base)
        if family is not None:
            one: dict[str, Any] = {"$ref": f"#/$defs/{family}"}
            several = {"type": "array", "items": one} if kind.is_many else one
            properties[field.name] = {"anyOf": [several, {"type": "null"}]} if kind.is_optional else several
        elif plugins.is_part(kind.base):
            part = _options(kind.base)
            properties[field.name] = {"type": "array", "items": part} if kind.is_many else part
        else:
            properties[field.name] = pydantic.TypeAdapter(hints[field.name]).json_schema()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            required.append(field.name)
        elif isinstance(field.default, (str, int, float, type(None))):
            properties[field.name]["default"] = field.default
    return {
        "type": "object",
        "description": (inspect.getdoc(cls) or "").split("\n", 1)[0],
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _columns(schema: pa.Schema) -> list[dict[str, Any]]:
    return [{"name": field.name, "type": str(field.type), "nullable": field.nullable} for field in schema]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
