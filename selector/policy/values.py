"""Values as people write them: 30B, 10_000, a share, one path or several."""

import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _number(value: Any) -> Any:
    """The value, unless it is true or false, which pydantic takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("write a number")
    return value


_AMOUNT = r"([0-9][0-9_]*(?:\.[0-9]+)?) ?([kKMGBT]?)"


def _amount(value: Any) -> Any:
    """10_000, "200k", "1.5M" or "30B" as an integer."""
    if isinstance(value, str):
        match = re.fullmatch(_AMOUNT, value.strip())
        if not match:
            raise ValueError("write a whole number, or one with k, M, B or T, e.g. 30B")
        scale = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}[match[2]]
        amount = Fraction(match[1].replace("_", "")) * scale
        if amount.denominator != 1:
            raise ValueError("this is not a whole number")
        return int(amount)
    return _number(value)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Whole = Annotated[int, BeforeValidator(_number)]
Share = Annotated[float, Field(gt=0, le=1), BeforeValidator(_number)]
Bound = Annotated[float, Field(ge=0, le=1), BeforeValidator(_number)]
Portion = Annotated[float, Field(ge=0, lt=1), BeforeValidator(_number)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_number)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_number)]
Amount = Annotated[
    int,
    Field(gt=0),
    BeforeValidator(
        _amount, json_schema_input_type=Annotated[int, Field(gt=0)] | Annotated[str, Field(pattern=rf"^{_AMOUNT}$")]
    ),
]
Paths = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    BeforeValidator(_as_list, json_schema_input_type=str | Annotated[list[str], Field(min_length=1)]),
]
