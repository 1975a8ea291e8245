"""How a frozen teacher is held while others learn from it: as it is, in bfloat16, or in integers of 8 or 4 bits."""

import dataclasses
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from distill import mesh as meshes
from models.execution import Execution
from models.llama4 import Llama4
from models.quantize import Recipe, is_param, quantize


@dataclass(frozen=True)
class AsItIs:
    """In the dtype it was trained or given in, and computed like its students."""

    def shrink(self, model: Llama4) -> Llama4:
        """The model."""
        return model

    def execution(self, execution: Execution) -> Execution:
        """The students'."""
        return execution


@dataclass(frozen=True)
class Bfloat16:
    """Weights in 2 bytes, products and residual stream in bfloat16; norms and routers stay in float32."""

    def shrink(self, model: Llama4) -> Llama4:
        """The model with what products read in bfloat16."""

        def narrow(param: nnx.Param) -> nnx.Variable:
            kept = len(param.axes) == 1 or param.axes[-1] == "e"
            return param if kept else param.replace(param[...].astype(jnp.bfloat16))

        return jax.tree.map(narrow, model, is_leaf=is_param)

    def execution(self, execution: Execution) -> Execution:
        """In bfloat16 whatever the students compute in."""
        return dataclasses.replace(execution, dtype="bfloat16")


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """The text layers' weights in 8 or 4 bits with scales (`models.quantize`), computed like its students."""

    recipe: Recipe = field(default_factory=partial(Recipe, bits=8))

    def shrink(self, model: Llama4) -> Llama4:
        """The model with its weights quantised.

        Raises:
          ValueError: they are already.
        """
        return quantize(model, self.recipe)

    def execution(self, execution: Execution) -> Execution:
        """The students'."""
        return execution


Hold = AsItIs | Bfloat16 | Rounded


def held(model: Llama4, hold: Hold, mesh: jax.sharding.Mesh) -> Llama4:
    """A teacher as it is held, over the mesh that it is on; its floats are free once nobody else has them."""
    if hold == AsItIs():
        return model
    shapes = jax.eval_shape(hold.shrink, model)
    return jax.jit(hold.shrink, out_shardings=meshes.shardings(mesh, shapes))(model)
