"""Selector chooses which documents a model trains on, and in what order.

    import selector

    manifest = selector.run("policy.yaml")          # the whole flow, resumed where it was left
    manifest.batch(0, global_batch_size=512)        # what training step 0 sees

Importing this loads nothing heavy; each name below is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selector.errors import SelectorError
    from selector.manifest import Manifest
    from selector.pipeline import run
    from selector.policy import Policy

__version__ = "0.2.0"
__all__ = ["Manifest", "Policy", "SelectorError", "__version__", "run"]

_HOMES = {
    "Manifest": "selector.manifest",
    "Policy": "selector.policy",
    "SelectorError": "selector.errors",
    "run": "selector.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'selector' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
