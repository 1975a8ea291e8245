"""The training step: one teacher pass, every learner's gradient, every learner's update. Pure."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jaxtyping import Array, Float, Int, PyTree

from distill.data.batch import Batch
from distill.features import compare
from distill.mesh import kept, split
from distill.stage import Learner
from distill.state import State, Weights, divided, moving, optimizer
from distill.teacher import LiveTeacher, Teacher, listen
from losses import Anchor, Credit, Signal, Tally
from models.execution import Execution
from models.llama4 import Llama4
from models.taps import tapped, taps
from models.trace import Trace

Metrics = dict[str, Tally]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Slope:
    """What a micro-batch adds up to; sums of these are divided once, by the number of labels."""

    __no_type_check__ = True  # jax rebuilds it with shapes at its leaves

    gradient: PyTree
    """like what the optimizer moves"""
    metrics: Metrics
    seen: PyTree
    """what the gate wants to remember; None without a teacher"""
    load: Float[Array, "l e"]
    """valid tokens every expert of every MoE layer received"""


@dataclass(frozen=True)
class Step:
    """`step(states, teacher, batch)`: the function a stage repeats, for one learner or many."""

    learners: tuple[Learner, ...]
    steps: int
    execution: Execution
    domains: tuple[str, ...] = ()
    """names of the corpus's domains, where their weights are to be logged apart"""
    beside: str | None = None
    """name of the learner that teaches the others while it learns, as it is before the step"""
    average: float | None = None
    """eta of the mean of its weights by which it teaches; None: by its weights as they are"""

    def __call__(self, states: tuple[State, ...], teacher: Teacher, batch: Batch) -> tuple[tuple[State, ...], Metrics]:
        """Take one optimizer step.

        Args:
          states: a state per learner.
          teacher: asked once per micro-batch, for all learners; nobody is asked where a learner teaches.
          batch: arrays [a, b, t], a micro-batches.
        """

        teacher = self.heard(states, teacher)

        def slopes(part: Batch) -> tuple[Slope, ...]:
            signal, inside = listen(teacher, part, any(learner.opens for learner in self.learners))
            return tuple(
                self.slope(learner, state, None if learner.name == self.beside else signal, part, inside)
                for learner, state in zip(self.learners, states, strict=True)
            )

        sums = accumulate(slopes, batch)
        updated = [self.update(*triple) for triple in zip(self.learners, states, sums, strict=True)]
        return tuple(state for state, _ in updated), {k: v for _, metrics in updated for k, v in metrics.items()}

    def heard(self, states: tuple[State, ...], teacher: Teacher) -> Teacher:
        """The learner that teaches, as it is now or as it has lately been, or the teacher."""
        if self.beside is None:
            return teacher
        state = next(s for one, s in zip(self.learners, states, strict=True) if one.name == self.beside)
        weights = state.weights if state.average is None else Weights(state.average, state.weights.bias)
        return LiveTeacher(weights, self.execution)

    def slope(
        self,
        learner: Learner,
        state: State,
        signal: Signal | Credit | Anchor | None,
        batch: Batch,
        inside: Trace | None = None,
    ) -> Slope:
        """Gradient of a learner's summed loss over one micro-batch [b, t], with its tallies.

        Args:
          inside: the teacher's pass, for a learner that is compared with it; without it, it is compared with nothing.
        """

        params = moving(state)

        def objective(by: PyTree) -> tuple[Float[Array, ""], tuple[Metrics, PyTree, Float[Array, "l e"]]]:
            model, projection = divided(tapped(params, by))
            bias = batch.bias(state.weights.bias, learner.model.periods)
            read = (batch.tokens, batch.layout(), bias, self.execution, batch.images)
            trace = model.trace(*read) if learner.opens and inside is not None else None
            hidden, routing = model(*read) if trace is None else (trace.hidden, trace.routing)
            head = model.head[...].astype(hidden.dtype)
            progress = state.step / self.steps  # counts optimizer steps, however a batch is cut
            place = dataclasses.replace(batch.place(state.memory, self.domains), split=split(self.execution))
            # Reinforce alone takes credit and Preferred an anchor; they refuse anything else.
            word: Any = signal
            tally, metrics, seen = learner.loss(hidden, head, word, batch.labels, place, progress)
            router = learner.router.loss(routing.counts, routing.probs, routing.z, routing.tokens)
            metrics |= {"router": Tally(jax.lax.stop_gradient(router) * tally.count, tally.count)}
            total = tally.total + tally.count * router
            if trace is not None and inside is not None:
                like, told = compare(learner.features, learner.routing, trace, inside, projection, batch.mask, progress)
                total, metrics = total + like, metrics | told
            return total, (metrics, seen, routing.counts)

        by = taps(params, self.execution.gradients)
        gradient, (metrics, seen, load) = jax.grad(objective, has_aux=True)(by)
        return Slope(gradient, metrics, seen, load)

    def update(self, learner: Learner, state: State, slope: Slope) -> tuple[State, Metrics]:
        """Divide once, then move; an update that is not finite is not made, only counted.

        The optimizer does not hear of a skipped update either, so its rate lags behind `progress` by as many steps.
        """
        count = slope.metrics["loss"].count
        gradient = jax.tree.map(lambda g: g / jnp.maximum(count, 1.0), slope.gradient)
        norm = optax.tree.norm(gradient)
        weights, params = state.weights, moving(state)
        updates, opt = optimizer(learner, self.steps).update(gradient, state.opt, params)
        finite = jnp.isfinite(slope.metrics["loss"].total + norm + optax.tree.norm(updates))
        bias = None if weights.bias is None else _rebalanced(learner, weights.bias, slope.load)
        model, projection = divided(optax.apply_updates(params, updates))
        memory = state.memory if slope.seen is None else learner.loss.gate.update(state.memory, slope.seen)
        average = None if state.average is None else self.averaged(state.average, model, state.step)
        moved = dataclasses.replace(
            state, weights=Weights(model, bias), opt=opt, memory=memory, average=average, projection=projection
        )
        taken = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
        after = dataclasses.replace(taken, step=state.step + 1, skipped=jnp.where(finite, 0, state.skipped + 1))
        metrics = slope.metrics | _health(slope.load) | {"grad_norm": _one(norm), "skipped": _one(after.skipped)}
        return after, {f"{learner.name}/{name}": tally for name, tally in metrics.items()}

    def averaged(self, average: Llama4, model: Llama4, step: Int[Array, ""]) -> Llama4:
        """The mean after one more step: polynomial-decay averaging (Shamir and Zhang 2013, arXiv:1212.1824).

        The last of i steps weighs (eta + 1) / (i + eta): windows are shares of the run, no length is to be chosen.
        """
        assert self.average is not None
        share = (self.average + 1.0) / (step + 1.0 + self.average)
        return jax.tree.map(lambda old, new: old + share * (new - old), average, model)


def compiled_for(step: Step, mesh: jax.sharding.Mesh, states: tuple[State, ...]) -> Any:
    """The step as a stage runs it: jitted, its states (or their shapes) used up and given back where they lie."""
    return jax.jit(step, donate_argnums=0, out_shardings=(kept(mesh, states), None))


def accumulate(slopes: Callable[[Batch], PyTree], batch: Batch) -> PyTree:
    """Sum of `slopes` over micro-batches [a, b, t], at least in float32; one micro-batch needs no loop."""
    first = jax.tree.map(lambda x: x[0], batch)
    if batch.tokens.shape[0] == 1:
        return slopes(first)
    wide = lambda dtype: jnp.promote_types(dtype, jnp.float32) if jnp.issubdtype(dtype, jnp.floating) else dtype  # noqa: E731
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, wide(x.dtype)), jax.eval_shape(slopes, first))
    return jax.lax.scan(lambda sums, part: (jax.tree.map(jnp.add, sums, slopes(part)), None), zeros, batch)[0]


def _rebalanced(learner: Learner, bias: Float[Array, "p m e"], load: Float[Array, "l e"]) -> Float[Array, "p m e"]:
    moved = learner.router.next_bias(rearrange(bias, "p m e -> (p m) e"), load)
    return rearrange(moved, "(p m) e -> p m e", m=bias.shape[1])


def _one(value: Array) -> Tally:
    return Tally(jnp.asarray(value, jnp.float32), jnp.ones((), jnp.float32))


def _health(load: Float[Array, "l e"]) -> Metrics:
    """Smallest and largest share of a layer's tokens that any expert received; nothing where all layers are dense."""
    if load.size == 0:
        return {}
    share = load / jnp.maximum(load.sum(-1, keepdims=True), 1.0)
    return {"load_min": _one(share.min()), "load_max": _one(share.max())}
