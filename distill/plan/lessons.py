"""Lessons: the programs of a stage in which text is read: the learners' step, and a teacher's pass on its own mesh."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill import apart
from distill import mesh as meshes
from distill.data.batch import Batch
from distill.experiment import Experiment
from distill.plan.programs import Program, Work, array, bytes_of, heard_weights, on, placed
from distill.stage import Learner, Stage, Staged
from distill.state import State, Weights, abstract
from distill.step import Step, compiled_for
from distill.stored import Store
from distill.targets import Form
from distill.teacher import Council, HeardTeacher, LiveTeacher, Silent, StoredTeacher, Teacher
from models.execution import Execution
from models.taps import taps

HEARD = "hidden states of the teacher"
"""what comes with a batch from a teacher that lives elsewhere"""


def programs(experiment: Experiment, stage: Stage, devices: Sequence[Any]) -> tuple[Program, ...]:
    """The learners' step, and before it the teacher's pass where that has devices of its own."""
    home = experiment.mesh.build(devices)
    far = None if stage.teacher_on is None else stage.teacher_on.build(devices)
    execution = on(experiment.execution, home)
    batch, notes = _batch(stage, home, leading=1)
    found, teacher, heard = [], _teacher(experiment, stage, home), {}
    if far is not None:
        speaker = LiveTeacher(
            heard_weights(experiment, stage.teacher or "", stage.teacher_as, far),
            on(stage.teacher_as.execution(experiment.execution), far),
        )
        found.append(_pass(experiment, stage, speaker, far))
        width, dtype = experiment.model_of(stage.teacher or "").width, speaker.execution.dtype
        place = meshes.rows(home, 1)
        batch = dataclasses.replace(batch, heard=array((*batch.tokens.shape, width), dtype, place))
        head = speaker.weights.model.head
        (place,) = jax.tree.leaves(meshes.shardings(home, head))
        teacher = HeardTeacher(array(jax.tree.leaves(head)[0].shape, dtype, place))
        heard = {"teacher's head": teacher.head, HEARD: batch.heard}
    elif stage.live and not stage.beside:
        heard = {"teacher": teacher}
    states = tuple(
        abstract(one, stage.steps, home, stage.averages(one), experiment.inside(stage, one)) for one in stage.learners
    )
    step = Step(stage.learners, stage.steps, execution, (), stage.beside, stage.average)
    jitted = compiled_for(step, home, states)
    rows, names = dataclasses.replace(batch, heard=None), [one.name for one in stage.learners]
    return (
        *found,
        Program(
            name=f"{stage.name}: {' and '.join(names)} learn{'s' * (len(names) == 1)}",
            mesh=home,
            lower=lambda: jitted.lower(states, teacher, batch),
            held={**held_by(stage.learners, states), **heard, "batch": rows},
            work=_work(experiment, stage, execution, far is None),
            accumulate=stage.accumulate,
            gradients=gradient_bytes(stage.learners, states, execution, stage.accumulate, home),
            loss=sum(loss_bytes(one, stage, home, heard_width(experiment, stage)) for one in stage.learners),
            touched=sum(update_bytes(state) for state in states),
            notes=notes,
        ),
    )


def gradient_bytes(
    learners: Sequence[Learner], states: Sequence[State], execution: Execution, parts: int, mesh: jax.sharding.Mesh
) -> dict[str, float]:
    """Bytes of one device that gradients take, by learner: in the dtype they are kept in, sums of parts in float32."""
    dtype = execution.gradients if parts == 1 else "float32"
    shapes = {
        one.name: jax.eval_shape(lambda model: taps(model, dtype), state.weights.model)
        for one, state in zip(learners, states, strict=True)
    }
    return {name: bytes_of(placed(model, mesh)) for name, model in shapes.items()}


def update_bytes(state: State) -> float:
    """Bytes of the update: parameters, moments and mean are read and written, gradients read, and for their norm."""
    params = bytes_of(state.weights.model)
    return 2 * (params + bytes_of(state.opt) + bytes_of(state.average)) + 2 * params


def held_by(learners: Sequence[Learner], states: Sequence[State]) -> dict[str, Any]:
    """Arguments of a step, by learner and by what they are."""
    held = {}
    for one, state in zip(learners, states, strict=True):
        held[f"{one.name}: head"] = state.weights.model.head
        held[f"{one.name}: parameters"] = _but_head(state.weights)
        held[f"{one.name}: optimizer"] = state.opt
        if state.average is not None:
            held[f"{one.name}: average"] = state.average
        rest = (state.step, state.memory, state.skipped, state.projection)
        held[f"{one.name}: rest"] = rest
    return held


def _teacher(experiment: Experiment, stage: Stage, home: jax.sharding.Mesh) -> Teacher:
    """Whom the learners' step is given, where that is on their own devices."""
    if stage.teacher is None or stage.beside or stage.teacher_on is not None:
        return Silent()
    if stage.store:
        return StoredTeacher()
    execution = on(stage.teacher_as.execution(experiment.execution), home)
    members = tuple(
        LiveTeacher(heard_weights(experiment, name, stage.teacher_as, home), execution) for name in stage.teachers
    )
    return members[0] if len(members) == 1 else Council(members)


def _pass(experiment: Experiment, stage: Stage, teacher: LiveTeacher, far: jax.sharding.Mesh) -> Program:
    """The pass of a teacher over a batch, on its own mesh: `distill.apart`."""
    asking = apart.asked(far, (stage.accumulate, stage.rows // stage.accumulate))
    batch, _ = _batch(stage, far, leading=1)
    batch = jax.tree.map(lambda x: array(x.shape, x.dtype, asking.batch), batch)
    accumulate = stage.accumulate if asking.by_parts else 1
    work = Work(
        model=experiment.model_of(stage.teacher or ""), kind="forward", tokens=stage.rows * stage.length,
        context=stage.length, execution=teacher.execution, heads=0, parts=accumulate,
    )  # fmt: skip
    return Program(
        name=f"{stage.name}: {stage.teacher} is asked",
        mesh=far,
        lower=lambda: asking.ask.lower(teacher, batch),
        held={"teacher": teacher, "batch": batch},
        work=(work,),
        accumulate=accumulate,
        role="teacher",
    )


def _work(experiment: Experiment, stage: Stage, execution: Any, near: bool) -> tuple[Work, ...]:
    tokens = stage.rows * stage.length
    rest: dict[str, Any] = {"tokens": tokens, "context": stage.length, "parts": stage.accumulate}
    done = [Work(model=one.model, kind="train", execution=execution, **rest) for one in stage.learners]
    hearers = sum(one.name != stage.beside for one in stage.learners)
    for name in stage.teachers if not stage.store else ():
        model = experiment.model_of(name)
        if near:  # each of the learners multiplies its states by its head
            done.append(Work(model=model, kind="forward", execution=execution, heads=hearers, **rest))
        else:
            done.append(Work(model=model, kind="head", execution=execution, heads=hearers, **rest))
    return tuple(done)


def _batch(stage: Stage, mesh: jax.sharding.Mesh, leading: int) -> tuple[Batch, tuple[str, ...]]:
    """A batch [a b t] as its loader, or its store, makes it."""
    place = meshes.rows(mesh, leading)
    shape = (stage.accumulate, stage.rows // stage.accumulate, stage.length)
    names = {"tokens": jnp.int32, "labels": jnp.int32, "mask": bool, "segments": jnp.int32, "positions": jnp.int32}
    fields: dict[str, Any] = {name: array(shape, dtype, place) for name, dtype in names.items()}
    vision = stage.learners[0].model.vision
    if vision is not None:
        sizes = (*shape[:2], stage.images, vision.channels, vision.image, vision.image)
        fields["images"] = array(sizes, jnp.float32, place)
    if not stage.store:
        return Batch(**fields), ()
    form, notes = _form(stage)
    blank = {name: np.zeros(sizes, np.int32 if kind == "id" else kind) for name, (kind, sizes) in form.fields.items()}
    one = form.batch([blank])
    many = jax.tree.map(lambda x: array((*shape[:2], *x.shape[1:]), x.dtype, place), one)
    return dataclasses.replace(many, domains=None), notes


def _form(stage: Stage) -> tuple[Form, tuple[str, ...]]:
    """What is kept of every position: as the store says, or as a new one would have it."""
    folder = Path(stage.store or "")
    if folder.exists():
        return Store(folder).about.form, ()
    form = Form(vocab=stage.learners[0].model.vocab, length=stage.length)
    return form, (f"{folder} is not there yet: planned with the {form.count} most probable tokens of every position",)


def heard_width(experiment: Experiment, stage: Stage) -> int:
    """Width of the widest teacher whose head is applied beside the learners'; 0 where none is, or a store speaks."""
    return max((experiment.model_of(name).width for name in stage.teachers if not stage.store), default=0)


def loss_bytes(learner: Learner, stage: Staged, mesh: jax.sharding.Mesh, heard: int) -> float:
    """Bytes of one device at a learner's loss, by shapes: every device has the head whole, and its own positions.

    The head in two bytes and its gradient in four; a teacher's head, if one of width `heard` above 0 is applied; of a
    piece logits, their gradient, the teacher's.
    """
    place = meshes.placement(mesh)
    vocab, width = learner.model.vocab, learner.model.width
    rows = max(stage.rows // place.parts("b"), 1)
    columns = max(stage.length // place.parts("t") // place.parts("h"), 1)
    size = vars(learner.loss).get("chunk") or columns  # a loss of one's own may know no pieces
    pieces = 3 if heard else 2
    return vocab * (6.0 * width + 2.0 * heard) + 4.0 * pieces * rows * min(size, columns) * vocab


def _but_head(weights: Weights) -> list[Any]:
    """All leaves but that of the head."""
    (head,) = jax.tree.leaves(weights.model.head)
    return [leaf for leaf in jax.tree.leaves(weights) if leaf is not head]
