"""A finished study in the root: `studies/<id>/`, with its result and the policy of its winner.

The id follows from what the study says. All of it can be made anew from the evidence, so each file is written over.
"""

import json
import os
from typing import Any

from selector.engine.canonical import canonical_json, fingerprint
from selector.errors import DamagedError, NotFoundError
from selector.storage import Storage, open_storage
from selector.tune.result import Outcome
from selector.tune.study import Study

FOLDER = "studies/"
_RESULT, _POLICY, _PICTURE = "result.json", "policy.best.yaml", "picture.svg"
_SHOWN: dict[str, Any] = {
    "study": str, "metric": str, "better": str, "objective": str, "seeds": list, "held_out": dict, "reason": str,
    "winner": (str, type(None)), "flags": list, "stopped": (str, type(None)), "below_floor": (str, type(None)),
    "arms": list, "cells": list,
}  # fmt: skip
"""What each result has, and of which type."""


def name_of(study: Study) -> str:
    """The id of a study: 16 hex digits."""
    return fingerprint(study.model_dump(mode="json"))[:16]


def keep(root: str | os.PathLike[str], study: Study, outcome: Outcome, picture: str | None = None) -> dict[str, Any]:
    """Writes a study's folder; its result as JSON, with where the winner's policy and the picture lie."""
    storage, name = open_storage(root), name_of(study)
    home = f"{FOLDER}{name}/"
    best = outcome.best_policy()
    content = {"study": name, **outcome.content}
    if best is not None:
        storage.ensure(f"{home}{_POLICY}", best.encode())
        content["policy"] = f"{storage.address}/{home}{_POLICY}"
    else:
        storage.delete(f"{home}{_POLICY}")
    if picture is not None:
        storage.ensure(f"{home}{_PICTURE}", picture.encode())
        content["picture"] = f"{storage.address}/{home}{_PICTURE}"
    storage.ensure(f"{home}{_RESULT}", canonical_json(content))
    return content


def content(storage: Storage, name: str) -> dict[str, Any]:
    """The result of a finished study. Raises NotFoundError, and DamagedError for one that is not whole."""
    key = f"{FOLDER}{name}/{_RESULT}"
    data = storage.get(key)
    if data is None:
        names = sorted({key.split("/")[1] for key, _ in storage.list(FOLDER)})
        known = f"There is: {', '.join(names)}." if names else "No study is finished there."
        raise NotFoundError(f"There is no finished study {name} at {storage.address}. {known}")
    try:
        read = json.loads(data)
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict) or any(not isinstance(read.get(word), kind) for word, kind in _SHOWN.items()):
        raise DamagedError(key, "it is not the result of a study. `selector tune STUDY` writes it again")
    return read
