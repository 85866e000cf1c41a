"""How long a request over a network is tried by the storages that are far away."""

SECONDS = 45.0
"""That all tries of a request have."""

TRY = 12.0
"""Seconds that one try has."""

PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before the second try, the third…"""


def is_final(status: int) -> bool:
    """Whether an answer of this status would be the same to another try."""
    return 300 <= status < 500 and status not in (408, 409, 425, 429)
