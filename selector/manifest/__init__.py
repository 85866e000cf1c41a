"""The order as data: the finished list of visits, immutable, and how it is written, opened and checked."""

from selector.manifest.manifest import Manifest, Verification, commit

__all__ = ["Manifest", "Verification", "commit"]
