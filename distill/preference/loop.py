"""The loop of a stage of direct preference optimisation: pairs in, updates, a stop where it does harm."""

import math
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from distill.checkpoint import Checkpoints
from distill.loop import Interrupted, check_finite, go_back
from distill.preference.pairs import Pairs, learned_from
from distill.preference.reference import Anchors, Kept, ask
from distill.preference.stage import Preference, order
from distill.progress import Progress
from distill.reading import put
from distill.room import Room
from distill.state import State, Weights, abstract, parts, whole
from distill.step import Step
from distill.teacher import StoredTeacher


def run_preference(room: Room, stage: Preference) -> State:
    """Trains the stage's learner to the last update that there are pairs for, from wherever an earlier process left it.

    The last checkpoint is that of `stage.steps`, whatever the updates were; how many they were is in its meta.

    Raises:
      Interrupted: asked to stop; a checkpoint of this very update is on disk.
      FloatingPointError: three updates in a row were not finite; the last good checkpoint stays.
      ValueError: there is no journal, or it has other pairs than the stage was begun with.
    """
    learner, mesh = stage.learners[0], room.experiment.mesh.build()
    # Scores tell those checkpoints apart that the stage may go back to: the newest is the best, and stays.
    retention = replace(room.experiment.retention, best=max(1, room.experiment.retention.best))
    with Checkpoints(room.run.checkpoints(stage.name), retention) as checkpoints:
        shapes = {learner.name: parts(abstract(learner, stage.steps, mesh))}
        found = checkpoints.restore(shapes) if checkpoints.steps() else None
        if found is not None and found.step == stage.steps:
            return whole(found.trees[learner.name])
        seed = zlib.crc32(f"{room.experiment.seed} {stage.stream}".encode()) & 0x7FFFFFFF
        pairs = mined(room, stage, seed)
        updates, start = stage.updates(len(pairs)), 0 if found is None else found.step
        if found is None:
            go_back(room, stage, -1)
            _note(room, stage, pairs, updates)
            state = room.newborn(learner, updates)
        else:
            _check_pairs(stage, pairs, found.meta["pairs"])
            go_back(room, stage, start)
            state = whole(found.trees[learner.name])
        # Without an update nobody needs to be asked.
        begun = state.weights if found is None else None
        anchors = anchored(room, stage, pairs, start, begun) if updates else np.zeros((0, 2), np.float32)
        chosen = [] if found is None else found.meta["chosen"]
        return _Learning(room, stage, checkpoints, shapes, pairs, anchors, updates, seed, chosen).run(state, start)


def mined(room: Room, stage: Preference, seed: int) -> Pairs:
    """The pairs of the stage's journal: at most as many as its updates take, the newest.

    Raises:
      ValueError: there is no journal.
    """
    groups = learned_from(room.run.disk / "journal" / stage.journal)
    return stage.mining(groups, stage.length, stage.steps * stage.pairs, seed)


def anchored(room: Room, stage: Preference, pairs: Pairs, start: int, begun: Weights | None) -> Anchors:
    """What the learner's start thinks of the pairs; asked once, and kept in the run's folder.

    Args:
      room, stage, pairs: of the stage.
      start: updates that were made.
      begun: the learner as it begins: its start, but that its routers' selection bias is zero. None: to be made.
    """
    learner, experiment = stage.learners[0], room.experiment

    def think() -> Anchors:
        began = time.monotonic()
        weights = begun or room.newborn(learner, stage.steps).weights
        rows, pad = stage.rows // stage.accumulate, experiment.tokenizer.pad
        found = ask(weights, pairs, rows, pad, experiment.mesh.build(), experiment.execution)
        room.metrics.time(stage.name, start, seconds=time.monotonic() - began, asked=2 * len(pairs))
        return found

    return Kept(room.run.disk / "reference")(room.identity(learner.start or ""), pairs, think)


def _note(room: Room, stage: Preference, pairs: Pairs, updates: int) -> None:
    """What was mined, as a line; a stage that it is too little for says so."""
    facts = {"pairs": len(pairs), "prompts": len(set(pairs.items)), "updates": updates}
    room.metrics.write(stage.name, 0, kind="pairs", **facts, **{f"left_{why}": n for why, n in pairs.dropped.items()})
    if updates < stage.steps:
        room.say(
            f"{stage.name}: the journal of {stage.journal} has {len(pairs)} pairs, enough for {updates} of "
            f"{stage.steps} updates of {stage.pairs} (epochs={stage.epochs}), and the stage ends there; left out were "
            f"{dict(pairs.dropped)}"
        )


def _check_pairs(stage: Preference, pairs: Pairs, begun: str) -> None:
    if pairs.fingerprint != begun:
        raise ValueError(
            f"stage {stage.name!r} was begun with pairs {begun}, and the journal of {stage.journal!r} now has "
            f"{pairs.fingerprint}; bring the old journal back, or delete the stage's checkpoints to begin it anew"
        )


@dataclass
class _Learning:
    room: Room
    stage: Preference
    checkpoints: Checkpoints
    shapes: dict[str, dict[str, Any]]
    pairs: Pairs
    anchors: Anchors
    updates: int
    seed: int
    chosen: list[float]
    """how far the chosen answers of the last batches lay above the reference's log-probability, nats a token"""

    def run(self, state: State, start: int) -> State:
        """The updates."""
        if not self.updates:
            self._finish(state, 0)
        room, stage, learner = self.room, self.stage, self.stage.learners[0]
        step = jax.jit(Step((learner,), self.updates, room.execution), donate_argnums=0)
        mesh, pad = room.experiment.mesh.build(), room.experiment.tokenizer.pad
        with Progress(self.updates, stage.name, start, quiet=room.quiet) as bar, room.traced(stage) as trace:
            began, tokens = time.monotonic(), 0
            for number in range(start + 1, self.updates + 1):
                trace(number)
                which = order(self.seed, number, stage.pairs, len(self.pairs))
                rows = self.pairs.batch(which, self.anchors, pad)
                (state,), metrics = step((state,), StoredTeacher(), put(rows, stage.accumulate, mesh))
                # Each update is waited for: whether there is a next one is in what it says.
                values = {name: float(tally.mean()) for name, tally in sorted(jax.device_get(metrics).items())}
                last = number == self.updates
                tokens += int(self.pairs.ends[which].sum())
                if number % stage.log_every == 0 or number == 1 or last:
                    room.metrics.write(stage.name, number, kind="train", **values)
                    now = time.monotonic()
                    room.metrics.time(stage.name, number, seconds=now - began, tokens=tokens)
                    bar.update(number, loss=values[f"{learner.name}/loss"], tokens=tokens)
                    began, tokens = now, 0
                check_finite(stage.name, learner.name, int(values[f"{learner.name}/skipped"]))
                if math.isfinite(values[f"{learner.name}/chosen"]):
                    self.chosen = [*self.chosen, values[f"{learner.name}/chosen"]][-stage.window :]
                if stage.fallen(self.chosen):
                    return self._go_back(number)
                asked = room.stop.is_set()
                if last:
                    self._finish(state, number)
                elif number % stage.save_every == 0:
                    self._glance(number, state)
                    self._save(number, state, number, -float(number))
                elif asked:
                    # None to go back to: whoever asks must not change what becomes of the stage.
                    self._save(number, state, number, None)
                if asked and not last:
                    self.checkpoints.wait()
                    raise Interrupted(f"stopped in stage {stage.name} after update {number} of {self.updates}")
        return state

    def _go_back(self, number: int) -> State:
        """The chosen answers have become too unlikely: what the learner was at the last checkpoint of before."""
        room, stage = self.room, self.stage
        self.checkpoints.wait()
        step = self.checkpoints.best()
        if step is None:
            state = room.newborn(stage.learners[0], self.updates)
        else:
            state = whole(self.checkpoints.restore(self.shapes, step=step).trees[stage.learner.name])
        chosen = sum(self.chosen) / len(self.chosen)
        room.metrics.write(stage.name, number, kind="stopped", chosen=chosen, updates=step or 0)
        room.say(
            f"{stage.name}: stopped at update {number} of {self.updates}: over the last {len(self.chosen)}, the chosen "
            f"answers' log-probability lay {-chosen:.3f} nats a token below the reference's, beyond fall={stage.fall}; "
            f"what is kept is the learner after update {step or 0}"
        )
        self._finish(state, step or 0, number)
        return state

    def _finish(self, state: State, updates: int, stopped: int | None = None) -> None:
        """The last checkpoint, under the number by which the stage's learner is asked for."""
        self._glance(stopped or updates, state)
        self._save(self.stage.steps, state, updates, -float(self.stage.steps), stopped)

    def _glance(self, number: int, state: State) -> None:
        self.room.glance(self.stage, number, self.stage.learner.name, state.weights)

    def _save(self, step: int, state: State, updates: int, score: float | None, stopped: int | None = None) -> None:
        self.room.metrics.flush()
        meta = {"pairs": self.pairs.fingerprint, "updates": updates, "chosen": self.chosen, "stopped": stopped}
        trees: Mapping[str, Any] = {self.stage.learner.name: parts(state)}
        self.checkpoints.save(step, trees, meta=meta, score=score)
