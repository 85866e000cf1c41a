"""The published contracts, as JSON Schema: `python -m selector.policy.schema schemas` writes them.

An editor that knows `policy.schema.json` completes keys and plug-in names; a tool in any language reads
`manifest.schema.json` to know what a manifest holds.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pydantic

from selector import plugins, tables
from selector.policy.sections import Policy

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_HEX = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_COUNT = {"type": "integer", "minimum": 0}


def schemas() -> dict[str, dict[str, Any]]:
    """Every published schema, by file name."""
    return {"policy.schema.json": policy_schema(), "manifest.schema.json": manifest_schema()}


def policy_schema() -> dict[str, Any]:
    """What a policy file may say. Our plug-ins are listed with their options; one from elsewhere goes by its dotted
    name, and its options are not checked."""
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
    counts = {
        "type": "object",
        "properties": {
            **dict.fromkeys(("documents", *tables.FATES, "visits", "tokens", "rows"), _COUNT),
            "reasons": {"type": "object", "additionalProperties": _COUNT},
            "sources": {
                "type": "object",
                "additionalProperties": {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2},
                "description": "documents and tokens of the corpus, by source",
            },
            "clusters_tried": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
        },
        "required": ["documents", *tables.FATES, "visits", "tokens"],
        "description": "documents and rows of the corpus, what became of them, and visits and tokens of the manifest",
    }
    schema = _object(
        format_version={"const": 1},
        digest={
            **_HEX,
            "description": "blake2b-256 of this object without `digest`, as JSON with sorted keys and no spaces",
        },
        order_digest={**_HEX, "description": "root of the Merkle tree over the rows"},
        leaf_digests={"type": "array", "items": _HEX, "minItems": 1, "description": "one for every 65,536 positions"},
        counts=counts,
        parts={"type": "array", "items": _object(**part["properties"], first_position=_COUNT)},
        files=_object(rows=_COUNT, sha256=_HEX),
        decisions={"type": "array", "items": part},
        phases={"type": "array", "items": phase},
        policy={"type": "object", "description": "with every default spelt out: see policy.schema.json"},
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
    bare: list[str] = []  # names that can stand alone
    options: dict[str, Any] = {}
    for name in plugins.ours(family):
        cls = plugins.find(family, name)
        schema = pydantic.TypeAdapter(cls).json_schema()
        definitions.update(schema.pop("$defs", {}))
        summary = (cls.__doc__ or "").split("\n", 1)[0]
        options[name] = {**schema, "title": name, "description": summary, "additionalProperties": False}
        if not schema.get("required"):
            options[name] = {"anyOf": [options[name], {"type": "null"}]}
            bare.append(name)
    return {
        "anyOf": [
            {"enum": bare},
            {"type": "string", "pattern": "[.:]", "description": "package.module:Class"},
            {
                "type": "object",
                "properties": options,
                "patternProperties": {"[.:]": {"type": ["object", "null"]}},
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            },
        ]
    }


def _columns(schema: pa.Schema) -> list[dict[str, Any]]:
    return [{"name": field.name, "type": str(field.type), "nullable": field.nullable} for field in schema]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
