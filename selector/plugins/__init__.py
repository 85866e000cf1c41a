"""The wall between the flow and its plug-ins: how one is found and made, and what it is given."""

from selector.plugins.families import FAMILIES, describe, find, make, names, ours, wanted

__all__ = ["FAMILIES", "describe", "find", "make", "names", "ours", "wanted"]
