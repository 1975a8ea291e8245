"""Programs: what an experiment runs on its devices over and over, as functions of shapes, dtypes and shardings."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jaxtyping import PyTree

from distill import mesh as meshes
from distill.experiment import Experiment
from distill.hold import Hold
from distill.state import Weights, abstract_weights
from models.config import Config
from models.execution import Execution
from models.placement import Placement


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a model needs done in a step, whatever program does it."""

    model: Config
    kind: str
    """train: forward and backward; forward; or head: of a model that is elsewhere"""
    tokens: int
    """of a step, over all devices"""
    parts: int = 1
    """micro-batches that they are cut into"""
    context: int
    """tokens of a document, as far as attention sees"""
    execution: Execution
    heads: int = 1
    """how often its head is applied to every token, where it is asked and does not learn"""


@dataclass(frozen=True, kw_only=True)
class Program:
    """One function that is compiled: whom it serves, on which devices, and what its arguments are."""

    name: str
    mesh: jax.sharding.Mesh
    lower: Callable[[], jax.stages.Lowered]
    """traces it; nothing is compiled yet"""
    held: dict[str, PyTree]
    """its arguments, by what they are: trees of abstract arrays with shardings"""
    work: tuple[Work, ...]
    kept: dict[str, PyTree] = field(default_factory=dict)
    """what lies on its devices for it, and is not given to it"""
    accumulate: int = 1
    """micro-batches of a step"""
    gradients: dict[str, float] = field(default_factory=dict)
    """bytes of one device that each learner's take"""
    loss: float = 0.0
    """bytes of one device while the loss is computed: heads that are gathered, their gradients, pieces of logits"""
    touched: float = 0.0
    """bytes that pass between a device and its memory beside its products: the optimizer's update, or the weights that
    are read for a token"""
    turns: float = 1.0
    """times that it runs in a step"""
    copies: int = 1
    """of it that run at the same time, each on a mesh like this one"""
    role: str = "learners"
    """who waits for it: learners, teacher or sampler"""
    notes: tuple[str, ...] = field(default=())
    """what was assumed of what is not known here"""


def on(execution: Execution, mesh: jax.sharding.Mesh) -> Execution:
    """How a model runs there: what depends on the backend goes by the mesh's devices, even where that is one alone."""
    return replace(execution, placement=meshes.placement(mesh))


def placed(shapes: PyTree, mesh: jax.sharding.Mesh, rules: Placement | None = None) -> PyTree:
    """Abstract parameters with the shardings that their letters say, by these rules or the usual ones."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        meshes.formats(mesh, shapes, rules),
    )


def heard_weights(experiment: Experiment, name: str, hold: Hold, mesh: jax.sharding.Mesh) -> Weights:
    """A teacher's weights as they are held: of a learner of an earlier stage, or of a given model."""
    given = experiment.given_of(name)
    if given is None:
        one = next(one for one in experiment.stage_of(name).learners if one.name == name)
        weights, dtype = abstract_weights(one.model, one.router.bias_rate > 0, mesh), "float32"
    else:
        weights, dtype = abstract_weights(given.model, False, mesh), given.dtype
    model = jax.eval_shape(lambda model: hold.shrink(_in(model, dtype)), weights.model)
    return Weights(placed(model, mesh), weights.bias)


def _in(model: PyTree, dtype: str) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), model)


def array(shape: Sequence[int], dtype: Any, place: jax.sharding.NamedSharding) -> Any:
    """An abstract array."""
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=place)


def bytes_of(tree: PyTree) -> float:
    """That the arrays of a tree take on one device, by their shardings; padding aside."""
    return float(sum(_bytes(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(tree)))


def whole_bytes(tree: PyTree) -> float:
    """That they take on all devices together, nothing of them twice."""
    return float(sum(_bytes(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)))


def _bytes(shape: tuple[int, ...], dtype: Any) -> float:
    if str(dtype).startswith("key<"):
        return math.prod(shape) * 8.0
    bits = 4 if str(dtype) in ("int4", "uint4") else 8 * dtype.itemsize
    return math.prod(shape) * bits / 8
