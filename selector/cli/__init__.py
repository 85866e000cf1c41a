"""The `selector` command. stdout holds the result and nothing else; progress and warnings go to stderr.

Exit codes: 0 done, 1 the run failed, 2 bad usage or policy, 3 done with quarantined input, 4 not found,
5 cluster or storage unreachable, 130 interrupted, 143 terminated. With --json, a failure is a JSON document on stdout
too.
"""

# In the order in which --help lists their commands.
from selector.cli import runs, jobs, manifests, training, tune, fit, machine  # noqa: I001
from selector.cli.app import INTERRUPTED, QUARANTINED, TERMINATED, app, main

__all__ = [
    "INTERRUPTED", "QUARANTINED", "TERMINATED",
    "app", "fit", "jobs", "machine", "main", "manifests", "runs", "training", "tune",
]  # fmt: skip
