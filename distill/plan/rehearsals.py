"""Rehearsals: the programs of a stage of reinforcement learning: whoever draws, whoever judges tokens, the learner."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from distill import mesh as meshes
from distill.data.batch import Batch
from distill.experiment import Experiment
from distill.hold import AsItIs
from distill.plan.lessons import HEARD, gradient_bytes, held_by, loss_bytes, update_bytes
from distill.plan.programs import Program, Work, array, bytes_of, heard_weights, on, placed
from distill.rl.hearing import speak, think
from distill.rl.loop import part_of
from distill.rl.publisher import abstract_published
from distill.rl.stage import Reinforcement
from distill.state import abstract, abstract_weights
from distill.step import Step
from distill.teacher import BesideRewards, LiveTeacher, StoredTeacher
from losses import Credit
from models import sampler as samplers
from models.execution import Execution
from models.ready import make_ready
from models.slots import Slots


def programs(experiment: Experiment, stage: Reinforcement, devices: Sequence[Any]) -> tuple[Program, ...]:
    """Of one batch: its answers are drawn, heard by the teacher if there is one, and learned from."""
    home = experiment.mesh.build(devices)
    execution = on(experiment.execution, home)
    return (
        *_drawing(experiment, stage, devices),
        *_hearing(experiment, stage, home, execution),
        _learning(experiment, stage, home, execution),
    )


def _learning(experiment: Experiment, stage: Reinforcement, home: jax.sharding.Mesh, execution: Execution) -> Program:
    """One update: an optimizer step on its share of the batch."""
    (learner,) = stage.learners
    state = abstract(learner, stage.optimizer_steps, home)
    batch = _rows(experiment, stage, home, stage.accumulate, learned=True)
    voice: Any = StoredTeacher()
    heard: dict[str, Any] = {}
    if stage.toward is not None:
        model = experiment.model_of(stage.teacher or "")
        weights = heard_weights(experiment, stage.teacher or "", AsItIs(), home)
        (head,) = jax.tree.leaves(weights.model.head)
        voice = BesideRewards(array(head.shape, execution.dtype, head.sharding))
        said = array((*batch.tokens.shape, model.width), execution.dtype, meshes.rows(home, 1))
        batch = dataclasses.replace(batch, heard=said)
        heard = {"teacher's head": voice.head, HEARD: said}
    one = Step((learner,), stage.optimizer_steps, execution)
    step = jax.jit(one, donate_argnums=0, out_shardings=(meshes.kept(home, (state,)), None))
    tokens = stage.rows // stage.updates * stage.length
    return Program(
        name=f"{stage.name}: {learner.name} learns",
        mesh=home,
        lower=lambda: step.lower((state,), voice, batch),
        held={**held_by((learner,), (state,)), **heard, "batch": dataclasses.replace(batch, heard=None)},
        work=(
            Work(
                model=learner.model,
                kind="train",
                tokens=tokens,
                context=stage.length,
                execution=execution,
                parts=stage.accumulate,
            ),
        ),  # fmt: skip
        accumulate=stage.accumulate,
        turns=float(stage.updates),
        gradients=gradient_bytes((learner,), (state,), execution, stage.accumulate, home),
        loss=loss_bytes(learner, stage, home, voice.head.shape[0] if heard else 0) / stage.updates / stage.accumulate,
        touched=update_bytes(state),
    )


def _hearing(
    experiment: Experiment, stage: Reinforcement, home: jax.sharding.Mesh, execution: Execution
) -> tuple[Program, ...]:
    """What is thought of a batch before it is learned from: by the teacher, and by a learner that moves twice."""
    found = []
    size = stage.updates * stage.accumulate
    whole = _rows(experiment, stage, home, size, learned=False)
    work: dict[str, Any] = {
        "kind": "forward", "tokens": stage.rows * stage.length, "context": stage.length, "execution": execution,
        "parts": size,
    }  # fmt: skip
    if stage.teacher is not None:
        weights = heard_weights(experiment, stage.teacher, AsItIs(), home)
        own = dataclasses.replace(whole, routes=None)
        if stage.toward is None:
            lower = lambda: think.lower(weights, own, execution, stage.temperature)  # noqa: E731
        else:
            lower = lambda: speak.lower(LiveTeacher(weights, execution), own, stage.temperature)  # noqa: E731
        found.append(
            Program(
                name=f"{stage.name}: {stage.teacher} judges every token", mesh=home, lower=lower,
                held={"teacher": weights, "batch": own}, accumulate=size,
                work=(Work(model=experiment.model_of(stage.teacher), **work),),
            )
        )  # fmt: skip
    if stage.updates > 1:
        (learner,) = stage.learners
        weights = abstract_weights(learner.model, learner.router.bias_rate > 0, home)
        found.append(
            Program(
                name=f"{stage.name}: what {learner.name} thinks before it moves", mesh=home,
                lower=lambda: think.lower(weights, whole, execution, stage.temperature),
                held={f"{learner.name}: weights": weights, "batch": whole}, accumulate=size,
                work=(Work(model=learner.model, **work),),
            )
        )  # fmt: skip
    return tuple(found)


def _drawing(experiment: Experiment, stage: Reinforcement, devices: Sequence[Any]) -> tuple[Program, ...]:
    """Reading prompts into slots, and a token of every slot, on the mesh of one of those who draw."""
    part = part_of(experiment, stage, experiment.seed)
    crew = (part.home,) if part.own is None else part.own.copies()
    mesh = crew[0].build(devices)
    apart = part.own is not None
    sampler = part.apart(mesh) if apart else part.sampler
    rules = meshes.resting(mesh) if apart else meshes.placement(mesh)
    # What goes by the backend goes by the mesh's devices, though it be one alone.
    execution = dataclasses.replace(sampler.execution, placement=rules)
    sampler = dataclasses.replace(sampler, execution=execution)
    born = abstract_weights(part.model, part.biased, mesh)
    published = abstract_published(born, execution.dtype, mesh, rules)
    ready = placed(jax.eval_shape(lambda one: make_ready(one.model, one.bias, execution), published), mesh, rules)
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    spread = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), tree)  # noqa: E731
    state = jax.eval_shape(lambda: Slots.create(ready[0].config, sampler.slots, sampler.capacity, execution.dtype))
    laid = lambda: jax.tree.map(lambda x, cut: array(x.shape, x.dtype, cut), state, state.places(rules))  # noqa: E731
    state = laid() if apart else spread(state)
    room = -(-sampler.capacity // sampler.piece) * sampler.piece
    tokens, numbers = (
        array((sampler.refill, room), jnp.int32, everywhere),
        array((5, sampler.refill), jnp.int32, everywhere),
    )
    key = spread(jax.eval_shape(lambda: jax.random.key(0)))
    prompt = max(stage.length + 1 - stage.tokens, 1)
    enough = array((), jnp.int32, everywhere)
    held = {"weights": ready, "slots": state}
    common: dict[str, Any] = {
        "mesh": mesh, "role": "sampler", "copies": len(crew),
        "touched": bytes_of(ready) + bytes_of(state.cache),
        # Layers are taken out of the stack that was published, and that stays.
        "kept": {"published weights": published} if apart and mesh.size > 1 else {},
        "notes": ("of a loop whose length only the run knows, one turn is counted, and it runs as often as needed",),
    }  # fmt: skip
    work = lambda tokens, context, heads: Work(  # noqa: E731
        model=part.model, kind="forward", tokens=tokens, context=context,
        heads=heads, execution=execution.steady(part.model, tokens),  # a head is asked at the end of a prompt
    )  # fmt: skip
    return (
        Program(
            name=f"{stage.name}: prompts are read", lower=lambda: samplers._read.lower(
                dataclasses.replace(sampler, seed=0), ready, state, tokens, numbers, None, key
            ),
            held={**held, "requests": (tokens, numbers, key)},
            turns=stage.rows / len(crew) / sampler.refill * -(-prompt // sampler.piece),
            work=(work(sampler.refill * sampler.piece, prompt, 0),), **common,
        ),
        Program(
            name=f"{stage.name}: tokens are drawn", lower=lambda: samplers._decode.lower(
                dataclasses.replace(sampler, seed=0), ready, state, enough
            ),
            held={**held, "slots that may end": enough},
            turns=float(-(-stage.rows // (len(crew) * sampler.slots)) * stage.tokens),
            work=(work(sampler.slots, stage.length, 1),), **common,
        ),
    )  # fmt: skip


def _rows(experiment: Experiment, stage: Reinforcement, home: jax.sharding.Mesh, size: int, learned: bool) -> Batch:
    """Answers [a b t] with what they earned, for one update or for all of a batch."""
    place = meshes.rows(home, 1)
    shape = (size, stage.rows // stage.updates // stage.accumulate, stage.length)
    names = {"tokens": jnp.int32, "labels": jnp.int32, "mask": bool, "segments": jnp.int32, "positions": jnp.int32}
    fields: dict[str, Any] = {name: array(shape, dtype, place) for name, dtype in names.items()}
    wide, known = array(shape, jnp.float32, place), learned and stage.updates > 1
    one_a_row = jax.sharding.NamedSharding(home, jax.sharding.PartitionSpec(*place.spec[:2]))
    credit = Credit(
        advantages=wide, behaviour=wide, proximal=wide if known else None,
        teacher=wide if learned and stage.teacher else None, age=array(shape[:2], jnp.int32, one_a_row),
    )  # fmt: skip
    model = stage.learner.model
    layers = model.periods * model.moe_per_period
    routes = None
    if stage.replayed and layers:
        routes = array((*shape, layers, model.top_k), jnp.int32, place)
    return Batch(**fields, targets=credit, routes=routes)
