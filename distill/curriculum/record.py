"""A measurement as a file: one JSON document that says what it is and whether it is still what was written."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from distill.place import Place, write_json

SCHEMA = 1
T = TypeVar("T")
Readers = Mapping[str, Callable[[Any], Any]]
"""the fields of a kind of record, and what makes a value of each out of JSON, or refuses"""


def write_record(path: Place, kind: str, content: Mapping[str, Any]) -> None:
    """Writes the record; at any moment the file is the old one or the new one, whole."""
    plain = dict(content)
    write_json(path, {"schema": SCHEMA, "kind": kind, "checksum": _checksum(plain), "content": plain})


def read_record(path: Place, kind: str, readers: Readers, make: Callable[[dict[str, Any]], T]) -> T:
    """What `make` makes of the record's fields, each as its reader returns it. The file may come from anybody.

    Raises:
      ValueError: there is no such file, it is not of this kind and schema, was changed or cut, or holds what `readers`
        or `make` refuse.
    """
    if not path.is_file():
        raise ValueError(f"there is no {kind} at {path}; measure one, or name a file that holds one")
    try:
        return make(_content(json.loads(path.read_bytes(), parse_constant=_refuse), kind, readers))
    except (ValueError, RecursionError) as error:  # a JSONDecodeError and a UnicodeDecodeError are ValueErrors
        raise ValueError(f"{path} is no {kind} to go by: {error}") from error


def _content(found: Any, kind: str, readers: Readers) -> dict[str, Any]:
    if not isinstance(found, dict) or found.keys() != {"schema", "kind", "checksum", "content"}:
        raise ValueError("it must be an object of schema, kind, checksum and content; it was written by something else")
    if found["schema"] != SCHEMA:
        raise ValueError(f"its schema is {found['schema']!r:.40}, this version reads {SCHEMA}; measure again")
    if found["kind"] != kind:
        raise ValueError(f"it holds a {found['kind']!r:.40}; name a file that holds a {kind}")
    content = found["content"]
    if found["checksum"] != _checksum(content):
        raise ValueError("its checksum does not match: it was changed since it was written; bring back a copy")
    return read_fields("its content", content, readers)


def read_fields(what: str, found: Any, readers: Readers) -> dict[str, Any]:
    """The fields of a JSON object, each as its reader returns it.

    Raises:
      ValueError: it has other fields, or one that its reader refuses, by name.
    """
    if not isinstance(found, Mapping) or found.keys() != readers.keys():
        raise ValueError(f"{what} must have the fields {', '.join(readers)}, and no others")
    fields = {}
    for name, reader in readers.items():
        try:
            fields[name] = reader(found[name])
        except ValueError as error:
            raise ValueError(f"{what}: {name} {error}") from error
    return fields


def text(value: Any) -> str:
    """A word that can be printed. Raises ValueError for anything else, in a form that a field's name completes."""
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"must be words that can be printed; found {value!r:.40}")
    return value


def number(value: Any) -> float:
    """A finite number. Raises ValueError for anything else."""
    if type(value) is not float:
        return float(count(value))
    if not math.isfinite(value):
        raise ValueError(f"must be finite; found {value}")
    return value


def count(value: Any) -> int:
    """A whole number that float64 holds exactly. Raises ValueError for anything else."""
    if type(value) is not int or abs(value) > 2**53:  # a bool is an int to isinstance
        raise ValueError(f"must be numbers, whole ones within 2^53; found {value!r:.40}")
    return value


def several(reader: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
    """A reader of lists, of what `reader` reads."""

    def read(value: Any) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise ValueError(f"must be a list; found {value!r:.40}")
        return tuple(reader(one) for one in value)

    return read


def optional(reader: Callable[[Any], T]) -> Callable[[Any], T | None]:
    """A reader of what `reader` reads, or of null."""
    return lambda value: None if value is None else reader(value)


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}, which is no number")
