"""The loop of a stage: batches in, steps, metrics, checkpoints. Stops, and goes on where it was, bit for bit."""

import time
import warnings
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from distill import mesh as meshes
from distill.agreement import by_first
from distill.apart import Feed, Voice, voice_of
from distill.checkpoint import Checkpoints
from distill.cluster import mark, settled
from distill.data.batch import Batch
from distill.data.loader import Batches
from distill.evaluate import Score, evaluate
from distill.experiment import Experiment
from distill.place import Place, move
from distill.progress import Progress
from distill.reading import on_mesh, put, stage_batches, stage_loader
from distill.retention import check_space, estimate
from distill.room import Room
from distill.run import Run
from distill.scribe import find_scribe
from distill.stage import Stage, Staged
from distill.state import State, abstract, parts, whole
from distill.step import Step, compiled_for

PATIENCE = 3
"""consecutive steps without a finite update after which a run stops"""


class Interrupted(Exception):
    """The run was asked to stop, saved a checkpoint and stopped."""


def check_room(experiment: Experiment, run: Run) -> None:
    """Refuses to start when the disk cannot hold the checkpoints of all stages."""
    mesh, retention = experiment.mesh.build(), experiment.retention
    needed = sum(estimate(_shapes(experiment, stage, mesh), retention, stage.steps) for stage in experiment.stages)
    check_space(run.path / "checkpoints", needed)


def _shapes(experiment: Experiment, stage: Staged, mesh: jax.sharding.Mesh) -> dict[str, State]:
    return {
        one.name: abstract(one, stage.steps, mesh, stage.averages(one), experiment.inside(stage, one))
        for one in stage.learners
    }


def run_stage(room: Room, stage: Stage) -> None:
    """Train the stage's learners to its last step, from wherever an earlier process left them.

    Raises:
      Interrupted: asked to stop; a checkpoint of this very step is on disk.
      FloatingPointError: three updates in a row were not finite; the last good checkpoint stays.
    """
    mesh = room.experiment.mesh.build()
    shapes = _shapes(room.experiment, stage, mesh)
    folder, retention = room.run.checkpoints(stage.name), room.experiment.retention
    batches = stage_batches(room, stage)
    with Checkpoints(folder, retention) as checkpoints:
        states, start = _begin(room, stage, checkpoints, shapes, batches, mesh)
        if start < stage.steps:
            _advance(room, stage, checkpoints, states, start, batches, mesh)


def _begin(
    room: Room, stage: Stage, checkpoints: Checkpoints, shapes: dict[str, State], batches: Any, mesh: jax.sharding.Mesh
) -> tuple[tuple[State, ...], int]:
    """States and the steps already taken: those of the newest whole checkpoint, or newborn ones."""
    if not checkpoints.steps():
        go_back(room, stage, -1)
        asked = ((one, stage.averages(one), room.experiment.inside(stage, one)) for one in stage.learners)
        return tuple(room.newborn(one, stage.steps, averaged, inside) for one, averaged, inside in asked), 0
    found = checkpoints.restore({name: parts(state) for name, state in shapes.items()}, data=batches)
    if found.step < stage.steps:  # a finished stage keeps its lines and those of the stages after it
        go_back(room, stage, found.step)
    return meshes.laid(mesh, tuple(whole(found.trees[learner.name]) for learner in stage.learners)), found.step


def go_back(room: Room, stage: Staged, step: int) -> None:
    """Takes the metrics back to a step; stages after it, if any had begun, are trained again, to the same numbers."""
    names = [each.name for each in room.experiment.stages]
    for later in names[names.index(stage.name) + 1 :]:
        why = f"stage {stage.name!r} goes back to step {max(step, 0)}, so stage {later!r} is trained again"
        by_first(partial(_set_aside, room.run.checkpoints(later), why))
    room.metrics.cut(stage.name, step, names)


def _set_aside(folder: Place, why: str) -> None:
    if not folder.exists():
        return
    aside = folder.with_name(f"{folder.name}.aside")
    warnings.warn(f"{why}; its checkpoints are now in {aside}", RuntimeWarning, stacklevel=4)
    move(folder, aside)


def _advance(
    room: Room,
    stage: Stage,
    checkpoints: Checkpoints,
    states: tuple[State, ...],
    start: int,
    batches: Batches,
    mesh: jax.sharding.Mesh,
) -> None:
    """The loop itself."""
    loader = stage_loader(room.experiment, stage)
    one = Step(stage.learners, stage.steps, room.execution, loader.domains, stage.beside, stage.average)
    step = compiled_for(one, mesh, states)
    voice = voice_of(room, None if stage.beside else stage)
    teacher = voice.teacher

    def place(batch: Batch) -> Batch:
        return voice.hear(put(batch, stage.accumulate, mesh))

    # Completions are written on the host, from weights as they are before the step.
    feed = Feed(batches, place if stage.rollout is None else lambda batch: batch, early=voice.far is not None)
    glance = on_mesh(loader.held_out_batches(room.experiment.corpus_of(stage), room.experiment.glance), mesh)
    clock = _Clock(room, stage, start)
    before, scribe = None, find_scribe(room.experiment, stage)
    with Progress(stage.steps, stage.name, start, quiet=room.quiet) as bar, room.traced(stage) as trace:
        for number in range(start + 1, stage.steps + 1):
            trace(number, before)
            batch, said = scribe(next(feed), states, teacher, number)
            states, metrics = settled(step(states, teacher, batch if stage.rollout is None else place(batch)))
            due = number % stage.save_every == 0 or number == stage.steps
            if not due:
                feed.ahead()  # the step is under way: a teacher on devices of its own goes on with the next batch
            if before is not None:
                _check_finite(stage, before)  # the step before: this one is still under way
            before = metrics
            if number % stage.log_every == 0 or number in (1, stage.steps):
                values = {name: float(tally.mean()) for name, tally in sorted(jax.device_get(metrics).items())}
                room.metrics.write(stage.name, number, kind="train", **values, **said)
                clock.line(number)
                bar.update(number, loss=values[f"{stage.learners[0].name}/hard"], tokens=clock.tokens)
            asked = room.stop.is_set()  # looked at once: whoever is told to stop has been saved
            if due or asked:
                feed.rewind()
                _check_finite(stage, metrics)
                _save(
                    room,
                    stage,
                    checkpoints,
                    states,
                    replace(voice, teacher=one.heard(states, teacher)),
                    number,
                    batches,
                    glance,
                    loader.domains,
                )
            if asked and number < stage.steps:
                checkpoints.wait()
                raise Interrupted(f"stopped in stage {stage.name} after step {number} of {stage.steps}")


def _save(
    room: Room,
    stage: Stage,
    checkpoints: Checkpoints,
    states: tuple[State, ...],
    voice: Voice,
    number: int,
    batches: Any,
    glance: list[Batch],
    domains: tuple[str, ...],
) -> None:
    """A look at held-out text where one is due, then a checkpoint, scored by what was seen."""
    score = None
    if number % stage.save_every == 0 or number == stage.steps:
        heard = [voice.hear(batch) for batch in glance]
        models = {learner.name: state.weights for learner, state in zip(stage.learners, states, strict=True)}
        looks = evaluate(models, voice.teacher, heard, room.execution, domains)
        room.metrics.write(stage.name, number, kind="held_out", **_flat(looks))
        for name, weights in models.items():
            room.glance(stage, number, name, weights)
        score = float(np.mean([look.cross_entropy for look in looks.values()]))
    room.metrics.flush()
    trees = {learner.name: parts(state) for learner, state in zip(stage.learners, states, strict=True)}
    checkpoints.save(number, trees, data=batches, score=score)
    mark(stage.name, number)


def _flat(looks: dict[str, Score]) -> dict[str, float]:
    fields = ("cross_entropy", "accuracy", "kl", "agreement")
    found = {f"{name}/{field}": vars(look)[field] for name, look in looks.items() for field in fields}
    found |= {f"{name}/{domain}": value for name, look in looks.items() for domain, value in look.domains.items()}
    return {name: value for name, value in found.items() if value is not None}


def _check_finite(stage: Stage, metrics: Any) -> None:
    for learner in stage.learners:
        check_finite(stage.name, learner.name, int(metrics[f"{learner.name}/skipped"].total))


def check_finite(stage: str, learner: str, skipped: int) -> None:
    """Stops after three updates in a row that were not finite: by then it is no accident.

    Raises:
      FloatingPointError: says of whom, and what to do.
    """
    if skipped >= PATIENCE:
        raise FloatingPointError(
            f"stage {stage}: the last {skipped} updates of {learner!r} were not finite and were not made; the last "
            "good checkpoint stays. Lower its optimizer's rate.peak, or look with `python -m distill.diagnose`; then "
            "start again"
        )


class _Clock:
    """Lines of timings.jsonl: seconds, tokens per second and the share of the measured ceiling they amount to."""

    def __init__(self, room: Room, stage: Stage, start: int) -> None:
        self._room, self._stage, self._number = room, stage, start
        self._last = time.monotonic()
        self._flops = room.ceiling.flops(room.experiment, stage)
        self.tokens = 0

    def line(self, number: int) -> None:
        """The line of the steps since the last one; seconds of compiling and of looking at held-out text count too."""
        now = time.monotonic()
        steps, seconds = number - self._number, now - self._last
        self._number, self._last = number, now
        self.tokens = steps * self._stage.rows * self._stage.length
        values = {"seconds": seconds, "tokens_per_second": self.tokens / seconds}
        mfu = self._room.ceiling.share(self._flops * self.tokens / seconds)
        self._room.metrics.time(self._stage.name, number, **values, mfu=mfu)
