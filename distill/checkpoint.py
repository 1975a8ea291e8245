"""The checkpoints of one stage on disk: saved whole or not at all, checked when read back.

checkpoints/<stage>/<step>/      an orbax checkpoint; it gets this name by one rename, when all of it is written
    scout.weights/  scout.rest/  the arrays of a learner's parameters, and of the rest of its state, by name
    data/                        where the data iterator stood, one file per process (grain)
    manifest/                    JSON: dtype, shape and fingerprint of every array, the caller's meta, a digest
checkpoints/<stage>/<step>.damaged/   one that could not be read, set aside when an older one was taken instead
"""

import errno
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from distill import manifest as manifests
from distill.agreement import attempt, gather
from distill.data.portion import together
from distill.items import abstract, like, named_items, named_leaves, nested
from distill.place import absolute, move
from distill.retention import Preservation, Retention, disk_full


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What came back: the step, the trees by learner and part (as they were asked for), and the caller's meta."""

    step: int
    trees: dict[str, dict[str, Any]]
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one stage, in `folder`. A context manager: leaving it waits for the save under way.

    Only one run at a time may open a folder `writable`; `distill.run.open_run` sees to it. Notebooks, and students that
    read their teacher, open it with `writable=False` and change nothing.
    """

    def __init__(self, folder: PurePath | str, retention: Retention | None = None, *, writable: bool = True):
        self.folder = absolute(folder)
        if not writable and not self.folder.is_dir():
            raise FileNotFoundError(f"there is no folder of checkpoints {self.folder}; name another run, or train it")
        self._writable = writable
        self._policy = Preservation(retention or Retention())
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
                create=writable,
                read_only=not writable,
                save_interval_steps=1 if writable else 0,
                cleanup_tmp_directories=writable,  # what a killed process left half-written
                lightweight_initialize=True,  # a damaged folder must not stop the others from being found
            ),
        )
        for step in self.steps():
            manifest, reason = attempt(lambda at=step: self._manifest(at))
            self._policy.scores[step] = None if reason else manifest["score"]

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        # A save under way waits for all processes, of which one is gone, or about to go.
        if kind is None or jax.process_count() == 1:
            self.close()

    def steps(self) -> list[int]:
        """The steps of which there is a checkpoint, oldest first; whether they are whole shows in `restore`."""
        return sorted(self._manager.all_steps())

    def best(self) -> int | None:
        """The step of the lowest score; None when no checkpoint has one."""
        scores = [(score, step) for step, score in self._policy.scores.items() if score is not None]
        return min((pair for pair in scores if not math.isnan(pair[0])), default=(None, None))[1]

    def save(
        self,
        step: int,
        learners: Mapping[str, Mapping[str, Any]],
        data: Any = None,
        meta: Mapping[str, Any] | None = None,
        score: float | int | None = None,
    ) -> None:
        """Saves {learner: {part: tree of arrays}}, e.g. {"scout": {"weights": ..., "rest": ...}}, in the background.

        The arrays are copied before this returns, so they may be donated at once. An error of the save before this one
        is raised here, or by `wait` or `close`. What must not be older than the checkpoint is flushed before
        (`Metrics.flush`).

        Args:
            step: optimizer steps done.
            learners: the trees; a part is an item of its own on disk, so that it can be read without the others.
            data: a grain iterator whose place in the data is saved too.
            meta: anything JSON that the run needs to go on.
            score: lower is better; what `Retention.best` goes by.

        Raises:
            OSError: the disk is full; nothing half-written has the name of a checkpoint.
            ValueError: a bad learner name, leaf or meta, or there is a checkpoint of this step.
        """
        with self._room():
            self._manager.wait_until_finished()
        if step in self.steps():
            raise ValueError(
                f"there is a checkpoint of step {step} in {self.folder}; restore the newest one and go on "
                "from there, or delete that folder"
            )
        items = named_items(learners)
        place = None if data is None else gather(manifests.checksum(data.get_state()))
        manifest = manifests.compose(step, items, data=place, meta=meta or {}, score=score)
        args: dict[str, Any] = {item: ocp.args.StandardSave(nested(leaves)) for item, leaves in items.items() if leaves}
        args["manifest"] = ocp.args.JsonSave(manifest)
        if data is not None:
            from grain.checkpoint import CheckpointSave

            args["data"] = CheckpointSave(_Place(data.get_state()))
        self._policy.scores[step] = manifest["score"]
        with self._room():
            self._manager.save(step, args=ocp.args.Composite(**args), force=True)

    def wait(self) -> None:
        """Returns when the save under way is on disk under its name; raises its error."""
        with self._room():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        with self._room():
            self._manager.close()

    def restore(self, learners: Mapping[str, Mapping[str, Any]], data: Any = None, step: int | None = None) -> Restored:
        """The newest whole checkpoint (or that of `step`) in the shape of `learners`; moves the data iterator there.

        Damaged ones on the way are warned of (RuntimeWarning) and, where the folder is writable, renamed.

        Args:
            learners: abstract trees (`jax.ShapeDtypeStruct` with a sharding), or arrays of that shape and sharding; any
                part of what was saved: {"behemoth": {"weights": ...}} reads a teacher without its optimizer.
            data: a fresh grain iterator; set to where the saved one stood.
            step: this checkpoint and no other.

        Raises:
            FileNotFoundError: there is none.
            ValueError: none is whole, or it does not fit: the first array that differs is named.
        """
        steps = self.steps()
        if not steps or step is not None and step not in steps:
            which = "checkpoint" if step is None else f"checkpoint of step {step}"
            raise FileNotFoundError(
                f"there is no {which} in {self.folder} (found steps {steps}); train this stage, or name another run"
            )
        items = named_items(learners)
        reasons: dict[int, str] = {}
        for candidate in steps[::-1] if step is None else [step]:
            place = f"checkpoint {self.folder / str(candidate)}"
            manifest, reasons[candidate] = attempt(lambda at=candidate: self._manifest(at))
            if reasons[candidate]:
                continue
            manifests.check_fits(place, manifest, items)
            if data is not None and not manifest["data"]:
                raise ValueError(f"{place} does not hold the place in the data; restore without it, or name another")
            arrays, reasons[candidate] = attempt(lambda at=candidate, of=manifest: self._read(at, of, items, data))
            if reasons[candidate]:
                continue
            del reasons[candidate]
            self._set_aside(reasons, candidate)
            return Restored(step=candidate, trees=like(learners, arrays), meta=manifest["meta"])
        found = "; ".join(f"{self.folder / str(bad)}: {reason}" for bad, reason in reasons.items())
        raise ValueError(
            f"no whole checkpoint to restore ({found}); put back a copy of one, or delete {self.folder} to train this "
            "stage from its start"
        )

    def fingerprints(self, item: str, step: int | None = None) -> dict[str, str]:
        """Of the arrays of an item ("behemoth.weights") by name, at a step or the newest; no array is read.

        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: its manifest is damaged, or it has no such item.
        """
        steps = self.steps()
        if not steps or step is not None and step not in steps:
            raise FileNotFoundError(f"there is no such checkpoint in {self.folder} (found steps {steps})")
        items = self._manifest(steps[-1] if step is None else step)["items"]
        if item not in items:
            raise ValueError(f"{self.folder} holds {sorted(items)}, not {item!r}; name a learner that it holds")
        return {name: value for name, (_, value) in items[item].items()}

    def _manifest(self, step: int) -> dict[str, Any]:
        found = self._manager.restore(step, args=ocp.args.Composite(manifest=ocp.args.JsonRestore()))["manifest"]
        manifests.check_whole(found)
        return found

    def _read(self, step: int, manifest: Mapping[str, Any], items: Mapping[str, Any], data: Any) -> dict[str, Any]:
        args = {
            item: ocp.args.StandardRestore(nested({name: abstract(leaf) for name, leaf in leaves.items()}))
            for item, leaves in items.items()
            if leaves
        }
        restored = self._manager.restore(step, args=ocp.args.Composite(**args)) if args else {}
        found = {item: named_leaves(restored[item]) if leaves else {} for item, leaves in items.items()}
        arrays = {item: {name: found[item][name] for name in leaves} for item, leaves in items.items()}
        manifests.check_values(manifest, arrays)
        if data is not None:  # last, so that a damaged checkpoint does not move the iterator
            known = manifest["data"]  # one of each process that wrote, however many read
            files = [self.folder / str(step) / "data" / f"process_{n}-of-{len(known)}.json" for n in range(len(known))]
            states = [json.loads(file.read_text()) for file in files]
            if [manifests.checksum(state) for state in states] != known:
                raise ValueError("the place in the data was changed: its checksum does not match")
            data.set_state(manifests.with_tuples(together(states)))
        return arrays

    def _set_aside(self, reasons: Mapping[int, str], step: int) -> None:
        for bad, reason in reasons.items():
            place, aside = self.folder / str(bad), self.folder / f"{bad}.damaged"
            after = f"; it is now {aside.name}" if self._writable else ""
            told = f"checkpoint {place} is damaged ({reason}): going back to step {step}{after}"
            warnings.warn(told, RuntimeWarning, stacklevel=3)
            if self._writable and jax.process_index() == 0:
                move(place, aside)
            self._policy.scores.pop(bad, None)
        if reasons and self._writable:
            multihost_utils.sync_global_devices("damaged checkpoints are set aside")
            self._manager.reload()

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Says what to do when the disk is full."""
        try:
            yield
        except Exception as error:
            if not disk_full(error):
                raise
            raise OSError(
                errno.ENOSPC,
                f"the disk is full: a checkpoint in {self.folder} was not saved; those of steps "
                f"{sorted(self._manager.all_steps(read=True))} are there. Free some space and start the same command "
                "again: it goes on from the last one",
            ) from error


@dataclass(frozen=True)
class _Place:
    """The place in the data in the form that grain's checkpoints take of iterators that are not its own."""

    state: Any

    def get_state(self) -> bytes:
        return self.state if isinstance(self.state, bytes) else json.dumps(self.state, indent=4).encode()
