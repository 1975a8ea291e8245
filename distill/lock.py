"""A folder that one process works in, and no other."""

import fcntl
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from etils import epath

from distill.place import Place

BEAT = 10.0
"""seconds after which a lease in a bucket is renewed"""
DEAD = 60.0
"""seconds after which one that was not is nobody's"""


@contextmanager
def alone(path: Place) -> Iterator[None]:
    """Holds the lock of a folder. Here the system lets go of it when the process ends, however it ends.

    In a bucket it is a lease: a file that its holder writes anew every `BEAT` seconds, and takes away when it is done.
    Who finds one waits until it changes (somebody is at work: refused) or `DEAD` seconds have passed (its holder was
    killed: taken over; at once, if it was a process of this very machine that is no more); clocks are not compared.
    Two that start within a second of each other are told apart by who wrote last; a holder that stood still for longer
    than that, and was taken over, ends without saving.

    Raises:
        ValueError: another process holds it.
    """
    with _locked(path) if isinstance(path, Path) else _leased(path):
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    file = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _held(path, os.read(file, 200).decode() or "another process") from error
        os.ftruncate(file, 0)
        os.write(file, _name().encode())
        yield
    finally:
        os.close(file)


def _name() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _held(path: Place, holder: str) -> ValueError:
    return ValueError(
        f"{path} is in use by {holder}; wait until it is done, stop it, or name another folder with --run"
    )


def _taken_over(path: Place) -> None:
    """Two that write the same run would spoil it: the one that stood still stops at once."""
    print(f"error: {path} was taken over by another process while this one stood still", file=sys.stderr, flush=True)
    os._exit(1)


@contextmanager
def _leased(
    path: epath.Path, beat: float = BEAT, dead: float = DEAD, lost: Callable[[Place], None] = _taken_over
) -> Iterator[None]:
    file, name, done = path / ".lease", f"{_name()} ({_machine()} {uuid4().hex[:8]})", threading.Event()
    found = _read(file)
    if found and not _gone(found):
        _await(path, file, found, dead)
    file.write_text(f"{name}\n0")
    time.sleep(beat / 10)  # who started at the same moment has written by now, and the last one has it
    if _read(file).split("\n")[0] != name:
        raise _held(path, _read(file).split("\n")[0])

    def renew() -> None:
        count = 0
        while not done.wait(beat):
            count += 1
            try:
                if _read(file).split("\n")[0] != name:
                    return lost(path)
                file.write_text(f"{name}\n{count}")
            except Exception as error:  # a bucket may be out of reach for a moment; a lease lasts several beats
                print(f"the lease of {path} was not renewed: {error}", file=sys.stderr, flush=True)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if _read(file).split("\n")[0] == name:
            file.unlink(missing_ok=True)


def _await(path: epath.Path, file: epath.Path, found: str, dead: float) -> None:
    """Until a lease is given back or dead; refuses one that is renewed."""
    print(f"{path} was left by {found.splitlines()[0]}, or is in use: waiting {dead:g} s", file=sys.stderr, flush=True)
    start = time.monotonic()
    while time.monotonic() - start < dead:
        time.sleep(dead / 20)
        now = _read(file)
        if not now:
            return
        if now != found:
            raise _held(path, now.split("\n")[0])


def _machine() -> str:
    """A number of this machine's since it was started; two may have one name."""
    known = Path("/proc/sys/kernel/random/boot_id")
    return known.read_text()[:8] if known.exists() else uuid4().hex[:8]


def _gone(lease: str) -> bool:
    """Whether it is that of a process of this machine that is no more."""
    found = re.match(r"process (\d+) on (\S+) \((\w+) ", lease)
    here = found is not None and (found[2], found[3]) == (socket.gethostname(), _machine())
    return here and found is not None and not Path(f"/proc/{found[1]}").exists()


def _read(file: epath.Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""
