"""A record of the journal, and how it lies on the disk.

    magic 4 | length of the body 4 | CRC-32 of the body 4 | CRC-32 of these twelve 4 | body

All numbers are little-endian. The body is the length of a JSON header (4), the header, and the bytes of its arrays one
after the other, little-endian. Nothing is unpickled, and nothing is allocated that the file does not hold.
"""

import json
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

MAGIC = b"HRJ1"
FRAME = struct.Struct("<4sIII")
SIZE = struct.Struct("<I")
LARGEST = 1 << 30
"""bytes of the arrays of a record; whoever writes more has taken a batch for a group"""
DTYPES = frozenset(np.dtype(kind).str for kind in ("?", *"bhiqBHIQ", *"efd"))
"""what an array may be of: booleans, integers and floats, little-endian"""


class Event(Enum):
    """What happened to a group, or to all of them: that they begin."""

    BEGUN = "begun"
    ADMITTED = "admitted"
    COMPLETED = "completed"
    CONSUMED = "consumed"
    FILTERED = "filtered"
    EXPIRED = "expired"
    POISONED = "poisoned"


@dataclass(frozen=True)
class Record:
    """What happened, to which groups, at which version of the policy.

    A batch is one record of all its groups, in order: it is consumed whole or not at all.
    """

    event: Event
    uids: tuple[int, ...]
    version: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    """whatever else is known of it, as JSON"""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    """of a completed group: tokens, log-probabilities, versions, rewards, expert choices"""


class Damaged(ValueError):
    """Bytes that are not a record, and were not left behind by a writer that was stopped."""


def encode(record: Record) -> bytes:
    """The bytes of a record, frame and all.

    Raises:
        ValueError: a fact is not JSON (NaN is not), an array is of another kind, or all of it is too large.
    """
    arrays = {name: np.asarray(array) for name, array in record.arrays.items()}
    size = sum(array.nbytes for array in arrays.values())
    if size > LARGEST:
        raise ValueError(f"{record.event.value} {record.uids} has {size} bytes, at most {LARGEST}; record each group")
    for name, array in arrays.items():
        if array.dtype.newbyteorder("<").str not in DTYPES:
            raise ValueError(f"array {name!r} is of {array.dtype}; a journal holds booleans, integers and floats: cast")
    arrays = {name: array.astype(array.dtype.newbyteorder("<"), order="C") for name, array in arrays.items()}
    header = {
        "event": record.event.value,
        "uids": list(record.uids),
        "version": record.version,
        "facts": dict(record.facts),
        "arrays": [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()],
    }
    try:
        text = json.dumps(header, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{record.event.value} {record.uids}: a fact is not JSON ({error}); pass arrays in arrays"
        ) from error
    body = b"".join([SIZE.pack(len(text)), text, *(array.tobytes() for array in arrays.values())])
    start = FRAME.pack(MAGIC, len(body), zlib.crc32(body), 0)[: -SIZE.size]
    return start + SIZE.pack(zlib.crc32(start)) + body


def body_length(frame: bytes) -> int:
    """The length of the body that follows a whole frame.

    Raises:
        Damaged: it is not a frame.
    """
    magic, length, _, check = FRAME.unpack(frame)
    if magic != MAGIC or zlib.crc32(frame[: -SIZE.size]) != check:
        raise Damaged("no record begins here")
    return length


def whole(frame: bytes, body: bytes) -> bool:
    """Whether this is all of a frame, and the body that was written with it."""
    return len(frame) == FRAME.size and FRAME.unpack(frame)[1:3] == (len(body), zlib.crc32(body))


def decode(body: bytes) -> Record:
    """The record of a body; its arrays are read-only views of it.

    Raises:
        Damaged: `encode` did not write it.
    """
    try:
        (length,) = SIZE.unpack_from(body)
        at = SIZE.size + length
        header = json.loads(body[SIZE.size : at])
        arrays = {}
        for name, dtype, shape in header["arrays"]:
            arrays[str(name)], at = _array(body, at, dtype, shape)
        if at != len(body):
            raise ValueError(f"{len(body) - at} bytes belong to no array")
        uids = tuple(int(uid) for uid in header["uids"])
        return Record(Event(header["event"]), uids, int(header["version"]), dict(header["facts"]), arrays)
    except (KeyError, TypeError, ValueError, struct.error, RecursionError, OverflowError) as error:
        raise Damaged(f"the record does not say what it is ({error})") from error


def _array(body: bytes, at: int, dtype: str, shape: list[int]) -> tuple[np.ndarray, int]:
    """An array of the body, and where the next begins."""
    if dtype not in DTYPES or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"an array of {dtype} {shape}")
    count, kind = math.prod(shape), np.dtype(dtype)
    end = at + count * kind.itemsize
    if end > len(body):
        raise ValueError(f"an array of {dtype} {shape} in {len(body)} bytes")
    # numpy refuses an offset at the very end, so an array of nothing has no bytes to look at.
    flat = np.frombuffer(body, kind, count, at) if count else np.zeros(0, kind)
    array = np.ndarray(tuple(shape), kind, buffer=flat.data if count else b"")
    array.flags.writeable = False
    return array, end
