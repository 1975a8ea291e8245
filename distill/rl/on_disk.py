"""Weights by a file system that all hosts see: an orbax checkpoint a version, which gets its name when it is whole."""

import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orbax.checkpoint as ocp
from jaxtyping import Array

from distill.items import named_leaves, nested
from distill.rl.publishing import Form
from distill.state import Weights

PAUSE = 0.05
"""seconds between two looks at a folder"""


@dataclass(frozen=True, kw_only=True)
class OnDisk:
    """Works wherever there is a shared folder; a version costs its writing and reading."""

    folder: str | None = None
    """that all hosts see; None: one in the run's"""

    def begin(self, form: Form, folder: Path) -> "DiskCarrier":
        """What an earlier life of the run left there goes; this one has a folder of its own in it."""
        place = Path(self.folder) if self.folder else folder
        shutil.rmtree(place / "published", ignore_errors=True)
        return DiskCarrier(form, (place / "published" / uuid.uuid4().hex).absolute())


class DiskCarrier:
    """Writes versions into a folder."""

    def __init__(self, form: Form, folder: Path) -> None:
        self._form, self._folder = form, folder

    def send(self, version: int, named: Mapping[str, Array]) -> None:
        """Writes a version beside its place, and moves it there by one rename."""
        with ocp.StandardCheckpointer() as writer:
            writer.save(self._folder / str(version), nested(named), force=True)

    def source(self, version: int) -> "DiskSource":
        """Where it is read."""
        return DiskSource(self._form, self._folder)

    def forget(self, oldest: int) -> None:
        """Removes versions before `oldest`."""
        for path in self._folder.glob("[0-9]*"):
            if path.name.isdigit() and int(path.name) < oldest:
                shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class DiskSource:
    """Reads versions from a folder, in whatever process."""

    form: Form
    folder: Path

    def get(self, version: int, patience: float | None = None) -> Weights:
        """The weights of a version; waits until all of it is there.

        Raises:
          TimeoutError: it is not, after `patience` seconds.
        """
        until, path = None if patience is None else time.monotonic() + patience, self.folder / str(version)
        while not path.exists():
            if until is not None and time.monotonic() > until:
                there = sorted(one.name for one in self.folder.glob("*"))
                raise TimeoutError(f"version {version} was not in {self.folder} within {patience} s; there are {there}")
            time.sleep(PAUSE)
        with ocp.StandardCheckpointer() as reader:
            return self.form.joined(named_leaves(reader.restore(path, nested(named_leaves(self.form.shapes())))))
