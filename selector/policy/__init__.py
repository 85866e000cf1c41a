"""What a user decides about one manifest: how it is written, read, checked and made whole."""

from selector.policy.read import read
from selector.policy.sections import Policy

__all__ = ["Policy", "read"]
