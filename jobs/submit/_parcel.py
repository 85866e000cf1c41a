"""What a job takes along, as a folder or as a zip file that depends on its content alone."""

import io
import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selector.engine.job import Job
from selector.engine.target import Parcel

START = "start.py"


def files(job: Job, parcel: Parcel) -> dict[str, bytes]:
    """Every file that a job needs where it runs, by its path in the folder that it runs in."""
    words = [job.verb, *([Parcel.POLICY] if Parcel.POLICY in parcel.files else []), "--json"]
    for name, value in sorted(job.options.items()):
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{name}"] if one is True else [f"--{name}", f"{one}"]
    return {
        **parcel.files,
        START: (Path(__file__).parent / "_start.py").read_bytes(),
        "job.json": _json(asdict(job)),
        "start.json": _json(words),
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1).encode()


def zipped(contents: dict[str, bytes]) -> bytes:
    """A zip file of these, with the same bytes for the same files."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, contents[name], zipfile.ZIP_DEFLATED)
    return packed.getvalue()
