"""The `selector` command.

Exit codes: 0 done, 1 the run failed, 2 bad usage or policy, 3 done with quarantined input, 4 not found,
5 cluster or storage unreachable, 130 interrupted.
"""

from selector.cli.app import app, main

__all__ = ["app", "main"]
