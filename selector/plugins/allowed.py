"""Where a policy of somebody else's may look: below folders and addresses that the operator names, links followed.

A policy is read before it can be looked at as a whole, and a plug-in may read an artefact as it is made. So what is
allowed is known while a policy is read, and what is opened then is checked then.
"""

import contextlib
import contextvars
import os
import re
from collections.abc import Generator, Sequence
from urllib.parse import unquote

from selector.errors import PolicyError, listed, without_secrets
from selector.storage import is_address, local_path

VARIABLE = "env:"
"""Begins what is allowed and is an environment variable: one that may go to an allowed address as its key."""

_roots: contextvars.ContextVar[tuple[str, ...] | None] = contextvars.ContextVar("allowed_roots", default=None)


@contextlib.contextmanager
def only_below(roots: Sequence[str]) -> Generator[None]:
    """Until it is left, a policy that is read opens nothing that lies elsewhere."""
    token = _roots.set(tuple(roots))
    try:
        yield
    finally:
        _roots.reset(token)


def roots() -> tuple[str, ...] | None:
    """Where the policy that is being read may look; None where nobody said so."""
    return _roots.get()


def check(where: str, value: str) -> None:
    """Raises PolicyError for a path or an address that the policy that is being read may not open."""
    allowed = roots()
    if allowed is not None and not is_within(value, allowed):
        raise refused(where, value, allowed)


def refused(where: str, value: str, roots: Sequence[str]) -> PolicyError:
    """The error for what lies elsewhere."""
    return PolicyError(
        f"{where}: {without_secrets(value)!r} does not lie below {listed(roots)}, where this policy may look."
    )


def is_within(path: str, roots: Sequence[str], *, is_pattern: bool = False) -> bool:
    """Whether a path or an address lies below one of these, or is one of them; of a pattern, all that it can match as
    far as its text tells that."""
    place = local_path(path)
    if place is None:
        return _is_address_within(path, [root for root in roots if is_address(root)])
    path = place
    if ".." in path.split("/") or "\0" in path:
        return False
    places = [path]
    if is_pattern:
        before = re.split(r"[*?\[]", path, maxsplit=1)
        places += [os.path.dirname(before[0]) or "."] if len(before) == 2 else []
    folders = [local_path(root) for root in roots if not root.startswith(VARIABLE)]
    tops = [_real(folder) for folder in folders if folder is not None]
    return all(any(f"{_real(place)}/".startswith(f"{top.rstrip('/')}/") for top in tops) for place in places)


def _real(path: str) -> str:
    return os.path.realpath(os.path.expanduser(path))


def _is_address_within(address: str, roots: Sequence[str]) -> bool:
    plain = address
    while (decoded := unquote(plain)) != plain:  # however often it is encoded
        plain = decoded
    if ".." in re.split(r"[/\\]", plain) or re.search(r"[\x00-\x20\x7f\\?#]", plain):
        return False
    spellings = {address}
    if address.startswith("hf://"):  # at whichever revision
        spellings.add(re.sub(r"@[^/]*", "", address))
    return any(f"{one.rstrip('/')}/".startswith(f"{root.rstrip('/')}/") for one in spellings for root in roots)
