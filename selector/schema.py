"""The published contracts, as JSON Schema: `python -m selector.schema schemas` writes them.

An editor that knows `policy.schema.json` completes keys and plug-in names; a tool in any language reads
`manifest.schema.json` to know what a manifest holds.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pydantic

from selector import plugins, tables
from selector.policy import Policy

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_HEX = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_COUNT = {"type": "integer", "minimum": 0}


def schemas() -> dict[str, dict[str, Any]]:
    """Every published schema, by file name."""
    return {"policy.schema.json": policy_schema(), "manifest.schema.json": manifest_schema()}


def policy_schema() -> dict[str, Any]:
    """What a policy file may say. Our plug-ins are listed with their options; any other name is taken as it is."""
    schema = Policy.model_json_schema(mode="validation")
    for place, family in (
        ("Policy.rate", "raters"),
        ("SelectPolicy.using", "selectors"),
        ("OrderPolicy.using", "orders"),
    ):
        section, key = place.split(".")
        properties = schema["properties"] if section == "Policy" else schema["$defs"][section]["properties"]
        choice = _choice(family, schema["$defs"])
        properties[key] = {"type": "array", "items": choice} if key == "rate" else choice
    schema["$defs"].pop("Choice", None)
    return {"$schema": _DRAFT, **schema, "title": "A policy of Selector"}


def manifest_schema() -> dict[str, Any]:
    """What manifest.json holds, and under `columns` what the Parquet parts beside it hold."""
    part = _object(name={"type": "string"}, rows=_COUNT, sha256=_HEX)
    phase = _object(name={"type": "string"}, first_position=_COUNT, rows=_COUNT, tokens=_COUNT)
    schema = _object(
        format_version={"const": 1},
        digest={
            **_HEX,
            "description": "blake2b-256 of this object without `digest`, as JSON with sorted keys and no spaces",
        },
        order_digest={**_HEX, "description": "root of the Merkle tree over the rows"},
        leaf_digests={"type": "array", "items": _HEX, "description": "one for every 65,536 positions"},
        counts=_object(documents=_COUNT, visits=_COUNT, tokens=_COUNT, corpus={"type": "object"}),
        parts={"type": "array", "items": _object(**part["properties"], first_position=_COUNT)},
        files=_object(rows=_COUNT, sha256=_HEX),
        decisions={"type": "array", "items": part},
        phases={"type": "array", "items": phase},
        policy={"type": "object"},
        lineage={"type": "object", "additionalProperties": {"type": "string"}},
        models={"type": "object"},
        versions={"type": "object", "additionalProperties": {"type": "string"}},
        parent={"type": ["string", "null"]},
    )
    columns = {"parts": tables.MANIFEST, "files.parquet": tables.FILES, "decisions": tables.FATE}
    return {
        "$schema": _DRAFT,
        "title": "A manifest of Selector",
        **schema,
        "columns": {name: _columns(table) for name, table in columns.items()},
    }


def write(folder: Path) -> None:
    """Writes every schema into a folder."""
    for name, schema in schemas().items():
        (folder / name).write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _choice(family: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """A plug-in's name, or one name with its options."""
    names = plugins.names(family)
    options: dict[str, Any] = {}
    for name in names:
        cls = plugins.find(family, name)
        schema = pydantic.TypeAdapter(cls).json_schema()
        definitions.update(schema.pop("$defs", {}))
        summary = (cls.__doc__ or "").split("\n", 1)[0]
        required = any(field.default is dataclasses.MISSING for field in dataclasses.fields(cls))
        body = {**schema, "title": name, "description": summary, "additionalProperties": False}
        options[name] = body if required else {"anyOf": [body, {"type": "null"}]}
    return {
        "anyOf": [
            {"enum": names},
            {"type": "string", "pattern": "[.:]", "description": "package.module:Class"},
            {"type": "object", "properties": options, "minProperties": 1, "maxProperties": 1},
        ]
    }


def _columns(schema: pa.Schema) -> list[dict[str, Any]]:
    return [{"name": field.name, "type": str(field.type), "nullable": field.nullable} for field in schema]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
