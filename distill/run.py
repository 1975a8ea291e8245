"""The folder of a run: everything about it is in there, and it is complete on its own.

runs/<name>/
    config.json         the resolved experiment; written before step 0
    environment.json    versions, git commit and devices of every process that worked on it
    manifest.json       the data it was trained on; given.json: the models given to it, if any
    tokenizer/          what its tokens mean, as transformers reads it
    metrics.jsonl       what the experiment determines; timings.jsonl: what the machine does
    checkpoints/<stage>/<step>/; difficulty/, journal/ and reference/ of stages that measure, draw or ask
    results.json        the figures at the end; report.html and figures/ show them
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from distill.metrics import read
from distill.place import Place, near, new_folder, place, remove, there, write_json
from models.bpe import open_tokenizer
from models.tokenizer import Bytes, Tokenizer

if TYPE_CHECKING:
    from distill.curriculum.tracker import Tracker
    from distill.rl.journal import Audit
    from distill.rl.past import Fate

SCHEMA = 1


@dataclass(frozen=True)
class Run:
    """A run folder, to read from. Tables for pandas: `pandas.DataFrame(run.metrics())`."""

    path: Place

    @property
    def config(self) -> dict[str, Any]:
        """The resolved experiment, {"schema": 1, "class": ..., field: ...}, as `distill.resolved.to_json` wrote it."""
        config = _read_json(self.path / "config.json")
        if not isinstance(config, dict) or config.get("schema") != SCHEMA:
            found = config.get("schema") if isinstance(config, dict) else None
            raise ValueError(
                f"{self.path / 'config.json'} has schema {found!r}, this version reads {SCHEMA}; use the version "
                "of the project that wrote it (its commit is in environment.json), or another --run folder"
            )
        return config

    @property
    def environment(self) -> list[dict[str, Any]]:
        """Versions, git commit and devices of the run, the first start first; a restart adds one when they differ."""
        return _read_json(self.path / "environment.json")

    @property
    def results(self) -> dict[str, Any]:
        """The figures at the end of the run."""
        if not (self.path / "results.json").exists():
            raise ValueError(f"{self.path} has no results.json yet: start the run again and let it finish")
        return _read_json(self.path / "results.json")

    @property
    def figures(self) -> Place:
        """The folder of figures."""
        return self.path / "figures"

    @property
    def tokenizer(self) -> Tokenizer:
        """What its tokens mean; runs that did not write it down are of bytes."""
        folder = self.path / "tokenizer"
        if not there(folder):
            return Bytes()
        with near(folder) as files:
            return open_tokenizer(files)

    @property
    def disk(self) -> Path:
        """Its folder, for what needs a disk of this machine: journals grow, and files of them are renamed.

        Raises:
            ValueError: it is in a bucket.
        """
        if not isinstance(self.path, Path):
            raise ValueError(f"{self.path} is in a bucket, which keeps no journal; name a folder of this machine")
        return self.path

    def checkpoints(self, stage: str) -> Place:
        """The folder of a stage's checkpoints."""
        return self.path / "checkpoints" / stage

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: what the experiment determines."""
        return read(self.path / "metrics.jsonl")

    def timings(self) -> list[dict[str, Any]]:
        """The lines of timings.jsonl: wall-clock times and speeds."""
        return read(self.path / "timings.jsonl")

    def rollouts(self, stage: str) -> "Iterator[Fate]":
        """The groups that a stage of reinforcement learning drew, and what became of each; see `distill.rl.past`."""
        from distill.rl.past import read_rollouts

        return read_rollouts(self, stage)

    def tracker(self, stage: str, step: int | None = None) -> "Tracker":
        """What such a stage knew of each prompt at its last checkpoint, or that of a step; see `distill.rl.past`."""
        from distill.rl.past import read_tracker

        return read_tracker(self, stage, step)

    def audit(self, stage: str) -> "Audit":
        """The books of such a stage as of its last checkpoint: no group is lost or doubled; see `distill.rl.past`."""
        from distill.rl.past import audit_books

        return audit_books(self, stage)

    @property
    def begun(self) -> bool:
        """Whether anything was trained, or measured, in it."""
        return bool(self.metrics() or [*self.path.glob("checkpoints/*/[0-9]*"), *self.path.glob("difficulty/*.json")])

    def write_manifest(self, manifest: dict[str, Any], own: Mapping[str, dict[str, Any]] | None = None) -> None:
        """Writes manifest.json, with what stages read that have a corpus of their own.

        Raises:
            ValueError: the run was begun on other text.
        """
        path, whole = self.path / "manifest.json", manifest | ({"stages": dict(own)} if own else {})
        was, now = (_hashes(one) for one in (_read_json(path) if path.exists() else whole, whole))
        self._hold("corpus", was, now, " (other text, or other versions of what it is made from)")
        write_json(path, whole)

    def write_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Writes the folder tokenizer/. Raises ValueError if the run was begun with another one."""
        folder = self.path / "tokenizer"
        old = self.tokenizer.fingerprint if there(folder) else None
        if old == tokenizer.fingerprint:
            return
        self._hold("tokenizer", old or tokenizer.fingerprint, tokenizer.fingerprint)
        remove(folder)
        with new_folder(folder) as beside:
            tokenizer.save(beside)

    def write_given(self, fingerprints: dict[str, str]) -> None:
        """Writes given.json, what the models given to the run are. Raises ValueError if it was begun with others."""
        path = self.path / "given.json"
        self._hold("given models", _read_json(path) if path.exists() else {}, fingerprints)
        if fingerprints:
            write_json(path, fingerprints)

    def _hold(self, what: str, old: Any, new: Any, hint: str = "") -> None:
        """Refuses to go on with something else than the run was begun with."""
        if self.begun and old != new:
            raise ValueError(
                f"{self.path} was begun with {what} {old} and would go on with {new}{hint}; bring the old one back, "
                f"use another --run folder, or delete {self.path} to start over"
            )

    def write_results(self, results: dict[str, Any]) -> None:
        """Writes results.json, whole or not at all."""
        write_json(self.path / "results.json", results)


def load_run(path: str | PurePath) -> Run:
    """The run in folder `path`, to read from: `run.config`, `run.metrics()`, `run.results`.

    Raises:
        ValueError: there is no run in it, or it was written by a version with another schema.
    """
    run = Run(place(path))
    if not (run.path / "config.json").exists():
        beside = sorted(other.parent.name for other in run.path.parent.glob("*/config.json"))
        raise ValueError(f"{run.path} is not a run folder: it has no config.json; the runs beside it are {beside}")
    _ = run.config
    return run


def _hashes(manifest: dict[str, Any]) -> str:
    return ", ".join([manifest["hash"], *(f"{name} {one['hash']}" for name, one in manifest.get("stages", {}).items())])


def _read_json(path: Place) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}); put back a copy of it, or name another --run folder"
        ) from error
