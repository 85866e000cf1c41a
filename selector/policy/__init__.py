"""What a user decides about one manifest: how it is written, read, checked and made whole."""

from selector.policy.sections import Policy, read

__all__ = ["Policy", "read"]
