"""Commands of a cluster that are installed where jobs are handed over: run, bounded in time, their answer read."""

import shutil
import subprocess

from selector.errors import UnreachableError

_SECONDS = 30.0


def answer_of(*command: str, data: bytes | None = None) -> str:
    """What a command printed. Raises UnreachableError where it is not installed, fails or takes too long."""
    status, printed, problem = outcome_of(*command, data=data)
    if status:
        raise UnreachableError(f"{' '.join(command[:3])} ended with {status}: {problem.strip()[-400:] or 'no reason'}.")
    return printed


def outcome_of(*command: str, data: bytes | None = None) -> tuple[int, str, str]:
    """How a command ended, and what it printed on stdout and on stderr. Raises UnreachableError."""
    if shutil.which(command[0]) is None:
        raise UnreachableError(
            f"{command[0]} is not installed here. Run this where it is, or hand over the files that were written."
        )
    try:
        ended = subprocess.run(command, input=data, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(f"{' '.join(command[:3])} did not answer within {_SECONDS:g} seconds.") from error
    except OSError as error:
        raise UnreachableError(f"{command[0]} cannot be run: {error.strerror or error}.") from error
    return ended.returncode, ended.stdout.decode("utf-8", "replace"), ended.stderr.decode("utf-8", "replace")
