"""A learner's state: one frozen pytree, born whole in one jitted call, already sharded."""

import zlib
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from distill import mesh as meshes
from distill.experiment import Learner
from models.llama4 import Llama4


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weights:
    """What a learner is when it has learned: all that a teacher, a figure or a notebook needs of it."""

    __no_type_check__ = True  # jax rebuilds it with shapes, shardings and moments at its leaves

    model: Llama4
    """float32 parameters"""
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
    skipped: Int[Array, ""]
    """consecutive steps whose update was not finite and therefore not made"""


def optimizer(learner: Learner, steps: int) -> optax.GradientTransformation:
    """The learner's optax transformation for a stage of `steps` optimizer steps."""
    return learner.optimizer.build(steps)


def parts(state: State) -> dict[str, PyTree]:
    """The state as a checkpoint keeps it: the weights apart, so that they can be read without the rest."""
    return {"weights": state.weights, "rest": {"step": state.step, "opt": state.opt, "skipped": state.skipped}}


def whole(parts: dict[str, PyTree]) -> State:
    """The state again."""
    return State(weights=parts["weights"], **parts["rest"])


def _born(learner: Learner, steps: int, key: Array) -> State:
    model = Llama4(learner.model, key)
    config = learner.model
    bias = jnp.zeros((config.periods, config.moe_per_period, config.experts)) if learner.router.bias_rate else None
    return State(
        step=jnp.zeros((), jnp.int32),
        weights=Weights(model, bias),
        opt=optimizer(learner, steps).init(model),
        skipped=jnp.zeros((), jnp.int32),
    )


def seed_key(seed: int, name: str) -> Array:
    """The key of a learner's initial weights: twins of one name and seed start equal, whatever else runs beside them."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()) & 0x7FFFFFFF)


def abstract(learner: Learner, steps: int, mesh: jax.sharding.Mesh) -> State:
    """The state's shapes, dtypes and shardings; no memory."""
    shapes = jax.eval_shape(lambda: _born(learner, steps, jax.random.key(0)))
    places = meshes.shardings(mesh, shapes)
    return jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, places)


def create(learner: Learner, steps: int, mesh: jax.sharding.Mesh, seed: int) -> State:
    """The state before the first step, born sharded: no device ever holds what it does not keep."""
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract(learner, steps, mesh))
    # It runs once: on a CPU the optimizer of machine code takes longer than the drawing.
    quick = {"xla_backend_optimization_level": 0}
    born = jax.jit(lambda key: _born(learner, steps, key), out_shardings=places, compiler_options=quick)
    return born(seed_key(seed, learner.name))
