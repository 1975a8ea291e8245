"""The files of a journal, each named by the offset of its first byte in all that was ever written."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from distill.rl.record import FRAME, Damaged, Record, body_length, decode, whole
from models.disk import sync

SUFFIX = ".journal"
CHUNK = 1 << 20


def segments(folder: Path) -> list[tuple[int, Path]]:
    """The files and where each starts, in order.

    Raises:
        ValueError: one has a name that is not an offset.
    """
    found = sorted(folder.glob(f"*{SUFFIX}"))
    for path in found:
        if not (len(path.stem) == 20 and path.stem.isascii() and path.stem.isdigit()):
            raise ValueError(f"{path} is not named by an offset, so it is not of this journal; move it away")
    return [(int(path.stem), path) for path in found]


def chain(folder: Path) -> list[tuple[int, Path]]:
    """The files and where each starts, each beginning where the one before it ends.

    Raises:
        Damaged: bytes are missing between them.
    """
    found, at = segments(folder), 0
    for start, path in found:
        if start != at:
            raise _damaged(folder, min(at, start), f"a file ends at {at} and the next begins at {start}")
        at = start + path.stat().st_size
    return found


def new_segment(folder: Path, start: int) -> Path:
    """An empty file that begins at `start`; it is on the disk."""
    path = folder / f"{start:020d}{SUFFIX}"
    path.touch()
    sync(path)
    sync(folder)
    return path


def records(path: Path, start: int, offset: int, stop: int) -> Iterator[tuple[int, Record]]:
    """The records of a file that starts at `start`, from one at `offset` up to `stop`, each with the offset behind it.

    Raises:
        Damaged: something else is there.
    """
    with open(path, "rb") as file:
        file.seek(offset - start)
        while offset < stop:
            frame, body = _next(file, offset, stop)
            if not whole(frame, body):
                raise _damaged(path.parent, offset, "it is not what was written")
            record = _decoded(path.parent, offset, body)
            offset += len(frame) + len(body)
            yield offset, record


def whole_until(path: Path, start: int) -> int:
    """The offset at which the whole records of the last file end: what follows was left by a writer that was stopped.

    That is a record that ends early, or one that is wrong and is the very last, or zeros: a file may have grown on the
    disk before what was written into it came.

    Raises:
        Damaged: a record is wrong, and others follow.
    """
    stop = start + path.stat().st_size
    offset = start
    with open(path, "rb") as file:
        while offset < stop:
            if _zeros(file, stop - offset):
                break
            frame, body = _next(file, offset, stop)
            end = offset + FRAME.size + (body_length(frame) if len(frame) == FRAME.size else 0)
            if not whole(frame, body):
                if end < stop:
                    raise _damaged(path.parent, offset, "it is not what was written, and others follow")
                break
            _decoded(path.parent, offset, body)
            offset = end
    return offset


def cut_at(folder: Path, offset: int) -> None:
    """Deletes what lies at `offset` and after; from the end, so that it is a journal at any moment.

    Raises:
        ValueError: no record ends there, or one before it in its file is damaged.
    """
    found = segments(folder)
    start, path = max((one for one in found if one[0] <= offset), default=(0, None))
    if path is None or offset > start + path.stat().st_size:
        raise ValueError(f"{folder} has no offset {offset}; take the checkpoint that belongs to this journal")
    at, ends = start, records(path, start, start, start + path.stat().st_size)
    while at < offset:
        at, _ = next(ends)
    if at > offset:
        raise ValueError(f"no record of {folder} ends at offset {offset}; take one that append or sync returned")
    for _, later in reversed([one for one in found if one[0] > start]):
        later.unlink()
        sync(folder)
    os.truncate(path, offset - start)
    sync(path)


def _next(file: BinaryIO, offset: int, stop: int) -> tuple[bytes, bytes]:
    """The frame and the body at `offset`, or what there is of them before `stop`."""
    frame = file.read(min(FRAME.size, stop - offset))
    if len(frame) < FRAME.size:
        return frame, b""
    try:
        length = body_length(frame)
    except Damaged as error:
        raise _damaged(Path(file.name).parent, offset, str(error)) from error
    return frame, file.read(min(length, stop - offset - FRAME.size))


def _zeros(file: BinaryIO, left: int) -> bool:
    """Whether the rest of the file is zeros; the file stands where it did."""
    at, size = file.tell(), FRAME.size
    while left and (chunk := file.read(min(size, left))) and not any(chunk):
        left, size = left - len(chunk), CHUNK
    file.seek(at)
    return not left


def _decoded(folder: Path, offset: int, body: bytes) -> Record:
    try:
        return decode(body)
    except Damaged as error:
        raise _damaged(folder, offset, str(error)) from error


def _damaged(folder: Path, offset: int, why: str) -> Damaged:
    return Damaged(
        f"{folder} is damaged at offset {offset}: {why}; bring back a copy, or forget it and all after it with "
        f"Journal(folder, cut={offset}) and take a checkpoint of before"
    )
