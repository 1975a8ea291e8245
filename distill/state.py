"""A learner's state: one frozen pytree, born whole in one jitted call, already sharded."""

import zlib
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from distill import mesh as meshes
from distill.features import born
from distill.stage import Learner
from models.config import Config
from models.inherit import inherit
from models.llama4 import Llama4


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weights:
    """What a learner is when it has learned: all that a teacher, a figure or a notebook needs of it."""

    __no_type_check__ = True  # jax rebuilds it with shapes, shardings and moments at its leaves

    model: Llama4
    """parameters, float32 in all that learn"""
    bias: Float[Array, "p m e"] | None
    """selection bias of every router, moved by rule and not by gradient; None where the loss alone balances"""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """What changes while a learner learns."""

    __no_type_check__ = True  # jax rebuilds it with shapes, shardings and moments at its leaves

    step: Int[Array, ""]
    """optimizer steps taken, skipped ones included"""
    weights: Weights
    opt: PyTree
    """the optimizer's own state"""
    memory: PyTree
    """what the loss's gate remembers of earlier steps"""
    skipped: Int[Array, ""]
    """consecutive steps whose update was not finite and therefore not made"""
    average: Llama4 | None
    """mean of the parameters over the recent part of the stage, by which it teaches beside others; None: not kept"""
    projection: nnx.Param | None
    """learned maps [l d D] from its layers to its teacher's, where they are compared; no part of what it becomes"""


def optimizer(learner: Learner, steps: int) -> optax.GradientTransformation:
    """The learner's optax transformation for a stage of `steps` optimizer steps."""
    return learner.optimizer.build(steps)


def parts(state: State) -> dict[str, PyTree]:
    """The state as a checkpoint keeps it: the weights apart, so that they can be read without the rest."""
    return {
        "weights": state.weights,
        "rest": {name: vars(state)[name] for name in ("step", "opt", "memory", "skipped", "average", "projection")},
    }


def whole(parts: dict[str, PyTree]) -> State:
    """The state again."""
    return State(weights=parts["weights"], **parts["rest"])


def moving(state: State) -> PyTree:
    """What the optimizer moves: the model, and where one is learned the projection beside it."""
    return _together(state.weights.model, state.projection)


def divided(params: PyTree) -> tuple[Llama4, nnx.Param | None]:
    """Model and projection again."""
    return params if isinstance(params, tuple) else (params, None)


def _together(model: Llama4, projection: nnx.Param | None) -> Any:
    # Without a projection a checkpoint's moments have the names of the parameters and no other.
    return model if projection is None else (model, projection)


def _unbiased(model: Llama4, biased: bool) -> Weights:
    """Weights whose selection bias, if they have one, is zero."""
    config = model.config
    return Weights(model, jnp.zeros((config.periods, config.moe_per_period, config.experts)) if biased else None)


def _drawn(config: Config, biased: bool, key: Array) -> Weights:
    return _unbiased(Llama4(config, key), biased)


def _born(learner: Learner, steps: int, averaged: bool, inside: Config | None, key: Array) -> State:
    return _begun(learner, steps, averaged, inside, key, Llama4(learner.model, key))


def _begun(learner: Learner, steps: int, averaged: bool, inside: Config | None, key: Array, model: Llama4) -> State:
    weights = _unbiased(model, learner.router.bias_rate > 0)
    projection = born(learner.features, learner.model, inside, jax.random.fold_in(key, 4))  # the model takes 0 to 3
    opt = optimizer(learner, steps).init(_together(model, projection))
    zero = jnp.zeros((), jnp.int32)
    average = jax.tree.map(jnp.copy, model) if averaged else None
    memory = learner.loss.gate.init()
    return State(
        step=zero, weights=weights, opt=opt, memory=memory, skipped=zero, average=average, projection=projection
    )


def seed_key(seed: int, name: str) -> Array:
    """The key of a learner's initial weights: twins of one name and seed start equal, whatever runs beside them."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()) & 0x7FFFFFFF)


def abstract(
    learner: Learner, steps: int, mesh: jax.sharding.Mesh, averaged: bool = False, inside: Config | None = None
) -> State:
    """The state's shapes, dtypes and shardings; no memory."""
    return _placed(jax.eval_shape(lambda: _born(learner, steps, averaged, inside, jax.random.key(0))), mesh)


def abstract_weights(config: Config, biased: bool, mesh: jax.sharding.Mesh) -> Weights:
    """Shapes, dtypes and shardings of the weights alone; `biased` where a selection bias balances the routers."""
    return _placed(jax.eval_shape(lambda: _drawn(config, biased, jax.random.key(0))), mesh)


def _placed(shapes: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    places = meshes.formats(mesh, shapes)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, places
    )


def create(
    learner: Learner,
    steps: int,
    mesh: jax.sharding.Mesh,
    seed: int,
    averaged: bool = False,
    inside: Config | None = None,
) -> State:
    """The state before the first step, born sharded: no device ever holds what it does not keep.

    Args:
      averaged: whether a mean of its weights is kept.
      inside: what the teacher is whose layers its own are compared with.
    """
    places = meshes.formats(mesh, abstract(learner, steps, mesh, averaged, inside))
    # It runs once: on a CPU the optimizer of machine code takes longer than the drawing.
    quick = {"xla_backend_optimization_level": 0}
    begin = jax.jit(
        lambda key: _born(learner, steps, averaged, inside, key), out_shardings=places, compiler_options=quick
    )
    return begin(seed_key(seed, learner.twin or learner.name))


def adopt(
    learner: Learner,
    steps: int,
    mesh: jax.sharding.Mesh,
    seed: int,
    model: Llama4,
    averaged: bool = False,
    inside: Config | None = None,
) -> State:
    """The state before the first step of a learner that is made of these weights, which are used up; born sharded."""
    places = meshes.formats(mesh, abstract(learner, steps, mesh, averaged, inside))

    def begin(model: Llama4, key: Array) -> State:
        return _begun(learner, steps, averaged, inside, key, inherit(model, learner.model, key, learner.keep))

    # Buffers of other shapes cannot be used again.
    used = (0,) if model.config == learner.model and learner.keep is None else ()
    key = seed_key(seed, learner.twin or learner.name)
    return jax.jit(begin, out_shardings=places, donate_argnums=used)(model, key)
