"""Begins a job on a cluster: the one file of ours that travels, so it needs nothing but Python.

It looks whether what the job needs is installed here, in the same versions, and says what to type where it is not.
Then it runs the job. A run that ends with quarantined rows is done, and no scheduler is to begin it again.
"""

import importlib.metadata
import json
import os
import sys
from pathlib import Path

MISSING = 2


def missing(requires: "dict[str, str]") -> "list[str]":
    """Which of these distributions are not here in these versions, as pip takes them."""
    lacking: list[str] = []
    for name, version in sorted(requires.items()):
        try:
            here = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            here = None
        if here != version:
            lacking.append(f"{name}=={version}")
    return lacking


def main() -> None:
    """Runs the job that lies beside this file."""
    folder = Path(__file__).resolve().parent
    job = json.loads((folder / "job.json").read_text("utf-8"))
    words = json.loads((folder / "start.json").read_text("utf-8"))
    lacking = missing(job["requires"])
    if lacking:
        typed = " ".join(f"'{one}'" for one in lacking)
        print(f"error: {os.uname().nodename} lacks what the job needs. On every node type: pip install {typed}")
        sys.exit(MISSING)
    os.environ["SELECTOR_ROOT"] = job["root"]
    if words[0] == "run":
        os.environ |= {"SELECTOR_JOB": job["id"], "SELECTOR_JOB_SLIP": str(folder / "job.json")}
    sys.path.insert(0, str(folder))
    words = [str(folder / word) if word == "policy.json" else word for word in words]
    if "--share" in sys.argv:
        words = ["work", *words[1:]]  # with all that limits what the policy may do
    sys.argv = ["selector", *words, *sys.argv[1:]]
    from selector.__main__ import main as run

    try:
        run()
    except SystemExit as ended:
        sys.exit(0 if ended.code == 3 else ended.code)


if __name__ == "__main__":
    main()
