"""Configurations as JSON: every dataclass with its class and every field, so that two of them can be compared."""

import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np


def to_json(value: Any, at: str = "experiment") -> Any:
    """`value` in JSON's types: a dataclass as {"class": its name, field: ...}, an enum member by its name, a path as a
    string, a tuple as a list, a function as module:name, an infinity or NaN as the string of it.

    Raises:
        ValueError: at the first value that has no such form, with the path to it.
    """
    if is_dataclass(value) and not isinstance(value, type):
        inner = {field.name: to_json(getattr(value, field.name), f"{at}.{field.name}") for field in fields(value)}
        return {"class": type(value).__name__, **inner}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [to_json(one, f"{at}.{index}") for index, one in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: to_json(one, f"{at}.{key}") for key, one in value.items()}
    if isinstance(value, FunctionType) and "<" not in value.__qualname__:
        return f"{value.__module__}:{value.__qualname__}"
    raise ValueError(
        f"{at} is a {type(value).__name__}, which cannot be written into config.json; make it a frozen dataclass of "
        "numbers, strings, tuples and other dataclasses"
    )


@dataclass(frozen=True)
class Difference:
    """One place in which two configurations differ; a side that lacks it says so."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.path}: {self.old!r} -> {self.new!r}"


def differences(old: Any, new: Any, at: str = "") -> list[Difference]:
    """Where two values of `to_json` differ, by dotted path (`stages.0.loss.alpha.value`), in their order."""
    return list(_differences(old, new, at))


def _differences(old: Any, new: Any, at: str) -> Iterator[Difference]:
    if isinstance(old, dict) and isinstance(new, dict) and old.get("class") == new.get("class"):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key, _ABSENT), new.get(key, _ABSENT), f"{at}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            was, now = (side[index] if index < len(side) else _ABSENT for side in (old, new))
            yield from _differences(was, now, f"{at}.{index}".lstrip("."))
    elif isinstance(old, bool) is not isinstance(new, bool) or old != new:  # 1 and 1.0 are one number
        yield Difference(at, _short(old), _short(new))


def grown(old: Any, value: Any) -> Any:
    """What `to_json` of an earlier version wrote of `value`, with the fields that it did not have at their defaults."""
    if is_dataclass(value) and isinstance(old, dict) and old.get("class") == type(value).__name__:
        known = {field.name: field for field in fields(value)}
        new = {name: _default(field) for name, field in known.items() if name not in old}
        kept = {name: grown(one, getattr(value, name)) if name in known else one for name, one in old.items()}
        return kept | {name: to_json(one) for name, one in new.items() if one is not MISSING}
    if isinstance(value, tuple | list) and isinstance(old, list) and len(old) == len(value):
        return [grown(one, other) for one, other in zip(old, value, strict=True)]
    return old


def _default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


class _Absent:
    def __repr__(self) -> str:
        return "(not there)"


_ABSENT = _Absent()


def _short(value: Any) -> Any:
    """A choice that was switched is named by its class; its fields have nothing to be compared with."""
    return value["class"] if isinstance(value, dict) and "class" in value else value
