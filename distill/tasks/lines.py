"""Pools in files: a header line and a line of JSON for every item. Read with distrust, written whole or not at all."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from distill.tasks.item import Item, Pool
from models.disk import sync

SCHEMA = 1
LINE = 2**20
"""bytes of a line, at most"""
ITEMS = 2**20
"""items of a file, at most"""
SHIPPED = Path(__file__).with_name("data") / "gym.jsonl"
"""short forms of a dozen data sets of reasoning-gym, three levels each (`python -m distill.tasks.gym write`)"""

_FIELDS = {"id": str, "capability": str, "task": str, "level": int, "prompt": str, "answer": str}
_OPTIONAL = {"system": str, "prefix": str, "metadata": dict}
_HEADER = {"schema": int}
_ABOUT = {"generator": str, "version": str, "licence": str, "items": int, "sha256": str}


@dataclass(frozen=True)
class File:
    """A pool in a file, as a value."""

    path: str | None = None
    """None: what is shipped"""

    def __call__(self) -> Pool:
        """The pool.

        Raises:
          ValueError: the file is not there, or is not what it must be.
        """
        return load(SHIPPED if self.path is None else Path(self.path).expanduser())


def save(pool: Pool, path: str | Path) -> None:
    """Writes a pool; at any moment the file is the old one or the new one, whole and on the disk.

    The first line says the schema, the generator, its version, the licence, and how many items with which fingerprint
    follow.

    Raises:
      ValueError: the metadata of an item is not JSON, or the pool is larger than what `load` reads.
    """
    path = Path(path)
    if len(pool) > ITEMS:
        raise ValueError(f"the pool has {len(pool)} items, a file holds at most {ITEMS}; write several")
    about = {"generator": pool.generator, "version": pool.version, "licence": pool.licence}
    header = {"schema": SCHEMA, **about, "items": len(pool), "sha256": pool.fingerprint}
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(_line(header, "the header"))
            file.writelines(_line(_fields(item), f"item {item.id}") for item in pool)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync(path.parent)  # the rename too
    finally:
        beside.unlink(missing_ok=True)


def load(path: str | Path) -> Pool:
    """Reads a pool. The header needs no more than `{"schema": 1}`; what else it says must be true.

    Raises:
      ValueError: the file is not there, or a line of it is not what it must be; the message has its number.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file; name one of JSON lines, the first of them the header")
    with open(path, "rb") as file:
        lines = _objects(file, path)
        _, header = next(lines, (1, {}))
        _check(header, _HEADER, _ABOUT, f"line 1 of {path}, the header,")
        if header["schema"] != SCHEMA:
            raise ValueError(f"{path} has schema {header['schema']}, this version reads {SCHEMA}; write it anew")
        items = tuple(_item(found, f"line {number} of {path}") for number, found in lines)
    try:
        pool = Pool(items, *(header.get(name, "") for name in ("generator", "version", "licence")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for name, found in (("items", len(pool)), ("sha256", pool.fingerprint)):
        if header.get(name, found) != found:
            raise ValueError(f"{path}: the header says {name} {header[name]}, found {found}; the file was changed")
    return pool


def _line(value: dict[str, Any], what: str) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        line = text.encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{what} cannot be written as JSON: {error}; keep its metadata to JSON's types") from error
    if len(line) > LINE:
        raise ValueError(f"{what} takes {len(line)} bytes, a line has at most {LINE}; shorten its texts or metadata")
    return line


def _fields(item: Item) -> dict[str, Any]:
    """What is not said is what it is by default."""
    return {name: vars(item)[name] for name in _FIELDS} | {
        name: vars(item)[name] for name in _OPTIONAL if vars(item)[name]
    }


def _objects(file: IO[bytes], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every line's number, from 1, and its object."""
    number = 0
    while line := file.readline(LINE + 1):
        number += 1
        where = f"line {number} of {path}"
        if len(line) > LINE:
            raise ValueError(f"{where} is longer than {LINE} bytes; shorten it")
        if number > ITEMS + 1:
            raise ValueError(f"{path} has more than {ITEMS} items; cut it into several")
        try:
            found = json.loads(line.decode(), parse_constant=_refuse)
        except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a number of 5000 digits, nested too deep
            raise ValueError(f"{where} is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise ValueError(f"{where} is a {type(found).__name__}; it must be an object")
        yield number, found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _item(found: dict[str, Any], where: str) -> Item:
    _check(found, _FIELDS, _OPTIONAL, where)
    try:
        return Item(**found)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _check(found: dict[str, Any], needed: dict[str, type], optional: dict[str, type], where: str) -> None:
    """The object has the fields it needs, no unknown ones, and each of its type (a bool is no int)."""
    missing, known = sorted(set(needed) - set(found)), needed | optional
    strange = sorted(set(found) - set(known))
    if missing:
        raise ValueError(f"{where} has no field {missing[0]!r}; it must have {', '.join(needed)}")
    if strange:
        raise ValueError(f"{where} has an unknown field {strange[0][:80]!r}; known are {', '.join(known)}")
    for name, value in found.items():
        if type(value) is not known[name]:
            raise ValueError(
                f"{where}: field {name!r} is a {type(value).__name__}; it must be a {known[name].__name__}"
            )
