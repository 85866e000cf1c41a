"""A rater that looks around from inside of a run: what processes it has, where they listen, what they let others see.

It writes that to the file that LOOKOUT names, outside of the run's root.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from selector.rate import Rater

MARK = "LOOKOUT"


def text_of(path: Path) -> str:
    """What a file holds; nothing where it may not be read, or is gone."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def processes() -> list[Path]:
    """Those of this run: they have its environment."""
    own = f"{MARK}={os.environ[MARK]}\0"
    return [path for path in Path("/proc").glob("[0-9]*") if own in text_of(path / "environ")]


def listening(process: Path) -> list[str]:
    """The addresses at which a process listens, in the kernel's hexadecimal."""
    try:
        links = [os.readlink(link) for link in (process / "fd").iterdir()]
    except OSError:
        links = []
    sockets = {link[8:-1] for link in links if link.startswith("socket:[")}
    rows = [row.split() for kind in ("tcp", "tcp6") for row in text_of(Path(f"/proc/net/{kind}")).splitlines()]
    return [row[1] for row in rows if len(row) > 9 and row[3] == "0A" and row[9] in sockets]


def report() -> dict[str, Any]:
    """What is seen now."""
    own = processes()
    commands = {process.name: text_of(process / "cmdline").replace("\0", " ") for process in own}
    folders = {
        Path(found)
        for command in commands.values()
        for found in re.findall(r"(?<==)/[^\s=]*/selector-ray-\w+", command)
    }
    logs = [text_of(path) for folder in folders for path in folder.rglob("*") if path.is_file()]
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    return {
        "token": token,
        "commands": commands,
        "listening": sorted({address for process in own for address in listening(process)}),
        "num_logs": len(logs),
        "logs_with_token": sum(token in log for log in logs) if token else 0,
        "modes": sorted({oct(folder.stat().st_mode & 0o777) for folder in folders}),
    }


@dataclass(frozen=True, kw_only=True)
class Lookout(Rater):
    """Rates nothing, and looks around."""

    higher_is = "harder"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("num_tokens",)

    def prepare(self) -> None:
        Path(os.environ[MARK]).write_text(json.dumps(report()), "utf-8")

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"score": batch["num_tokens"]})
