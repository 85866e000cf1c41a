"""Values as bytes and as a name of 32 digits: equal ones have equal bytes, in any language.

Whoever needs no more than this needs no Arrow.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, cast


def canonical_json(value: Any) -> bytes:
    """JSON as RFC 8785 writes it, so that equal values have equal bytes.

    Keys are sorted, there are no spaces, and numbers are as ECMAScript prints them: 1 and 1.0 are the same, and 1e16
    is 10000000000000000. An integer beyond 2**53 is written in full, since no double holds it.

    Raises ValueError for NaN and infinity, TypeError for what is not JSON.
    """
    return _json(value).encode()


def _json(value: Any) -> str:
    if isinstance(value, str):
        return json.encoder.encode_basestring(value)
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        members = cast(Mapping[Any, Any], value)
        for key in members:
            if not isinstance(key, str):
                raise TypeError(f"The key {key!r} is not text, so this is not JSON.")
        by_units = sorted(members, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(f"{_json(key)}:{_json(members[key])}" for key in by_units) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_json, cast(Sequence[Any], value))) + "]"
    raise TypeError(f"{value!r} of type {type(value).__name__} is not JSON.")


def _number(value: float) -> str:
    """A double as ECMAScript prints it: the fewest digits that mean it, in full from 1e-6 to below 1e21."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is not JSON compliant.")
    if value == 0:
        return "0"
    sign, places, exponent = Decimal(float.__repr__(value)).as_tuple()
    point = len(places) + int(exponent)  # how many digits stand before the decimal point
    digits = "".join(map(str, places)).rstrip("0")
    if len(digits) <= point <= 21:
        text = digits + "0" * (point - len(digits))
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        text = f"{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e{point - 1:+d}"
    return "-" * sign + text


def fingerprint(value: Any) -> str:
    """32 hex digits (blake2b-128) of a JSON value."""
    return digest(canonical_json(value))


def digest(canonical: bytes) -> str:
    """The fingerprint of a JSON value that is written out already, as `canonical_json` writes it."""
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()
