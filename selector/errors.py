"""The errors a user can meet, and the exit code each one ends a command with.

Every message names the value, the reason and the cure. Whatever is not a `SelectorError` is a fault of
ours and arrives with a traceback.
"""

import difflib
import re
from collections.abc import Iterable, Sequence

_LONGEST_NAME = 80
_MOST_NAMES = 60


class SelectorError(Exception):
    """The run cannot do what the policy says. Exit code 1."""

    exit_code: int = 1


class UsageError(SelectorError):
    """What was asked cannot be right: found before any work. Exit code 2."""

    exit_code = 2


class PolicyError(UsageError):
    """A policy that does not say something we can do."""


class CorpusError(UsageError):
    """A corpus that does not hold what the policy says it holds."""


class GoneError(CorpusError):
    """A file of the corpus that was there when the run began, and is no longer. A run looks at the corpus again."""


class ChangedError(CorpusError):
    """A file of the corpus that changed while a run was reading it. The same command starts over."""


class NotFoundError(SelectorError):
    """A manifest, position or document that is not there. Exit code 4."""

    exit_code = 4


class EmptyError(SelectorError):
    """A manifest that would have no documents. Exit code 1."""


class UnreachableError(SelectorError):
    """A cluster or a storage that does not answer, or refuses. Exit code 5."""

    exit_code = 5


class FullError(SelectorError):
    """A disk without room for what is to be written. Exit code 1."""


class DamagedError(SelectorError):
    """Stored bytes that are not the bytes that were sealed. A run discards them and computes them again."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key} is damaged: {reason}.")
        self.key = key
        self.reason = reason

    def __reduce__(self) -> tuple[type["DamagedError"], tuple[str, str]]:
        return type(self), (self.key, self.reason)


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A hint to append to a message: the nearest choice if one is near, else all of them."""
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"There is: {listed(choices)}." if choices else "There is none."


def listed(names: Sequence[str]) -> str:
    """Names as a message lists them: each on one line and of a bounded length, and not more than a person reads."""
    shown = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…" for name in names[:_MOST_NAMES]]
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join("".join(c if c.isprintable() else repr(c)[1:-1] for c in name) for name in shown) + more


def phase_called(name: str) -> str:
    """A phase as a message names it; one without a name of its own is `phase 2`."""
    return name if name.startswith("phase ") else f"the phase {name}"


def without_secrets(address: str) -> str:
    """An address as a message may show it: no user, no password, no query."""
    return re.sub(r"(:/+).*@", r"\1...@", re.split(r"[?#]", address, maxsplit=1)[0])


def line_of(error: Exception) -> str:
    """The first telling line of an error, without the query of an address and what may be a secret in it."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return re.sub(r"[?][^\s\"')]*", "", re.sub(r"://[^\s/]*@", "://...@", text))[:240].rstrip(". ")
