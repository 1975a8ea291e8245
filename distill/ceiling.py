"""Model FLOPs utilisation: what a step achieves, as a share of the matrix products this machine was seen to do."""

import time
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from distill.experiment import Experiment
from distill.stage import Stage
from models import cost


@dataclass(frozen=True)
class Ceiling:
    """A measured rate of matrix products."""

    rate: float
    """FLOP/s of a large matrix product in the dtype of the run, over all devices of the mesh"""

    def share(self, rate: float) -> float:
        """`rate` FLOP/s as a share of the ceiling."""
        return rate / self.rate

    @staticmethod
    def flops(experiment: Experiment, stage: Stage) -> float:
        """Model FLOPs per token of a stage: forward and backward of its learners, forward of its teachers.

        Active experts only; what is computed twice (remat) or masked away does not count (Chowdhery et al. 2022).
        """
        learners = sum(cost.train_flops(learner.model, stage.length) for learner in stage.learners)
        teachers = (experiment.model_of(name) for name in stage.teachers)
        return learners + sum(cost.forward_flops(model, stage.length) for model in teachers)


@cache
def measure(dtype: str, devices: int, size: int = 1024, rounds: int = 5) -> Ceiling:
    """The best of a few [size, size] products with float32 results; under a second."""

    @jax.jit
    def product(a: Float[Array, "n n"], b: Float[Array, "n n"]) -> Float[Array, "n n"]:
        return jnp.einsum("ij,jk->ik", a, b, preferred_element_type=jnp.float32)

    a = jnp.ones((size, size), dtype)
    jax.block_until_ready(product(a, a))
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(product(a, a))
        best = min(best, time.perf_counter() - start)
    return Ceiling(rate=2 * size**3 / best * devices)
