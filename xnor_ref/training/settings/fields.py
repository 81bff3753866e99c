"""The fields of `TrainConfig`: defining them and checking their values."""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pkgutil import resolve_name
from typing import Any

from xnor_ref.errors import InputError, InputTypeError


def define(default: Any, kind: str, help: str, choices: Any = None, *, identity: bool = True, **rule: Any) -> Any:
    """Define a field with its rule. `identity` is False if the value cannot change a run's results.

    `choices` is a tuple, or "module:name" of the registry that holds them. `needs` is (other field, values): this field
    has an effect only with these values of the other field. Instead of the values, "module:function" may be given,
    which returns them for this field's name.
    """
    metadata = {"kind": kind, "help": help, "choices": choices, "identity": identity, **rule}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def choices_of(field: dataclasses.Field) -> tuple:
    """Return the values that a choice field accepts."""
    choices = _found(field.metadata["choices"])
    return tuple(choices() if callable(choices) else choices)


def needs_of(field: dataclasses.Field) -> tuple[str, tuple]:
    """Return the other field, and its values with which this field has an effect."""
    other, values = field.metadata["needs"]
    values = _found(values)
    return other, tuple(values(field.name) if callable(values) else values)


def has_effect(field: dataclasses.Field, values: Mapping[str, Any]) -> bool:
    """Whether a field has an effect with these values of other fields."""
    if "needs" not in field.metadata:
        return True
    other, needed = needs_of(field)
    return values[other] in needed


def _found(registry: Any) -> Any:
    """Return the object named "module:name". The import is late, so that `--help` of other commands is quick."""
    return resolve_name(registry) if isinstance(registry, str) else registry


def checked(field: dataclasses.Field, value: Any) -> Any:
    """Return `value` in the field's own type, or raise InputError."""
    name, kind, rule = field.name, field.metadata["kind"], field.metadata
    if value is None and field.default is None:
        return None
    if kind == "bool":
        if not isinstance(value, bool):
            raise InputTypeError(f"{name} must be true or false, got {value!r}")
        return value
    if kind == "table":
        if not isinstance(value, dict) or not all(
            isinstance(key, str) and isinstance(item, (bool, int, str)) for key, item in value.items()
        ):
            raise InputTypeError(f"{name} must be a table of whole numbers, texts and booleans, got {value!r}")
        return dict(value)
    if kind == "integers":
        if not isinstance(value, (list, tuple)) or not all(type(item) is int for item in value):
            raise InputTypeError(f"{name} must be a list of integers, got {value!r}")
        if not value or value[0] < 1 or any(b <= a for a, b in pairwise(value)):
            raise InputError(f"{name} must be at least one number, ascending from 1 or more, got {value!r}")
        return list(value)
    if kind == "numbers":
        if not isinstance(value, (list, tuple)) or not all(type(item) in (int, float) for item in value):
            raise InputTypeError(f"{name} must be a list of numbers, got {value!r}")
        if not value or not all(0 < item < math.inf for item in value):
            raise InputError(f"{name} must be at least one number, all finite and more than 0, got {value!r}")
        return [float(item) for item in value]
    if kind == "text":
        if not isinstance(value, str) or not value or "\0" in value:
            raise InputTypeError(f"{name} must be a non-empty text, got {value!r}")
        return value
    if kind in ("choice", "int-choice"):
        choices = choices_of(field)
        if isinstance(value, bool) or value not in choices:
            raise InputError(
                f"{name} must be one of {', '.join(map(str, choices))}; got {value!r}{did_you_mean(value, choices)}"
            )
        return value
    if isinstance(value, bool) or not isinstance(value, int if kind == "int" else (int, float)):
        raise InputTypeError(f"{name} must be {'an integer' if kind == 'int' else 'a number'}, got {value!r}")
    low, high = rule["low"], rule.get("high", math.inf)
    too_low = value <= low if rule.get("open") else value < low
    if not math.isfinite(value) or too_low or value > high:
        lower = f"more than {low}" if rule.get("open") else f"at least {low}"
        upper = f" and at most {high:,}" if math.isfinite(high) else " and finite"
        raise InputError(f"{name} must be {lower}{upper}, got {value!r}")
    return int(value) if kind == "int" else float(value)


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """Return '; did you mean x?' for the known word nearest to `word`, or ""."""
    near = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
