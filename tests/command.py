"""The `selector` command: run here, or as a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from selector.cli import app

COMMAND = (sys.executable, "-c", "from selector.cli import main; main()")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What is on stdout: one JSON document and nothing else."""
        return json.loads(self.out)


def selector(*arguments: object, env: Mapping[str, str] | None = None) -> Ended:
    """Runs a command in this process, as `main` would."""
    words = [str(argument) for argument in arguments]
    result = CliRunner().invoke(app, words, env=env, prog_name="selector")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Ended(code=result.exit_code, out=result.stdout, err=result.stderr)


def process(*arguments: object, env: Mapping[str, str] | None = None, before: Sequence[str] = ()) -> Ended:
    """Runs a command as a process of its own; `before` is put in front of it."""
    words = [*before, *COMMAND, *map(str, arguments)]
    ended = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | (env or {}), timeout=120, check=False
    )
    return Ended(code=ended.returncode, out=ended.stdout, err=ended.stderr)


def write_policy(folder: Path, policy: Mapping[str, Any]) -> Path:
    """The policy as a YAML file."""
    path = folder / "policy.yaml"
    path.write_text(yaml.safe_dump(dict(policy), sort_keys=False), "utf-8")
    return path


def with_value(policy: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The policy with another value at a dotted key."""
    first, _, rest = key.partition(".")
    return {**policy, first: with_value(policy.get(first) or {}, rest, value) if rest else value}
