"""The published contract of a study, as JSON Schema: `python -m selector.tune.schema schemas` writes it."""

import json
import sys
from pathlib import Path
from typing import Any

from selector.policy.schema import DRAFT, choice
from selector.tune.study import Study


def study_schema() -> dict[str, Any]:
    """What a study's file may say; its base policy is checked by the schema of policies."""
    schema = Study.model_json_schema(mode="validation")
    schema["$defs"].pop("Choice", None)
    schema["$defs"]["objectives"] = choice("objectives")
    schema["properties"]["objective"] = {"$ref": "#/$defs/objectives"}
    base = schema["properties"]["base"]
    schema["properties"]["base"] = {
        "anyOf": [{"type": "string"}, {"type": "object"}], "description": base["description"],
    }  # fmt: skip
    return {"$schema": DRAFT, **schema, "title": "A study of Selector"}


def write(folder: Path) -> None:
    """Writes the schema into a folder."""
    text = json.dumps(study_schema(), indent=2, ensure_ascii=False) + "\n"
    (folder / "study.schema.json").write_text(text, "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
