"""Checks of the numbers given to optimisers and schedules."""

import math
from typing import Any

import numpy as np

from xnor_ref.errors import InputError, InputTypeError


def number(caller: str, name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """Return `value` as a float in [low, high), or in (low, high) with `above`. NaN and infinity are rejected."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InputTypeError(f"{caller}: {name} must be a number, got {value!r}")
    value = float(value)
    if not math.isfinite(value) or value < low or value >= high or (above and value == low):
        upper = f" and below {high:g}" if math.isfinite(high) else " and finite"
        raise InputError(f"{caller}: {name} must be {'above' if above else 'at least'} {low:g}{upper}, got {value!r}")
    return value
