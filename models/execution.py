"""Execution: how to run a model, not what it is."""

from dataclasses import dataclass, replace
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from models.across import Gather, Ring
from models.config import Config
from models.context import Sight
from models.exchange import Exchange
from models.flash import Attend
from models.flash import suited as suited_attention
from models.layers import cast
from models.moe import Dispatch, steady, suited
from models.placement import Placement
from models.remat import Everything, Inputs, Products
from models.rounds import Rounds
from models.taps import Tapped

T = TypeVar("T", bound=nnx.Module)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How to run a model, not what it is: results agree up to rounding.

    dtype: of matrix products and the residual stream, "float32" or "bfloat16"; parameters are cast period by period.
        Norm scales and routers stay in float32, as do norms, softmaxes and rotations.
    gradients: dtype in which the gradients of layers' matrices are kept from their products to the optimizer, "float32"
        or, where products are in it, "bfloat16": half the memory, each rounded to 8 bits. Sums over micro-batches are
        in float32 whatever it is.
    unroll: periods of layers per iteration of the scan; more compiles longer and may run faster.
    remat: what is kept for the gradient; the rest is computed again.
    dispatch: how tokens get to their experts; None takes what suits the backend.
    attention: how attention is computed (`models/flash.py`); None takes what suits the backend.
    across: how queries see the keys of other devices, where the columns of a row are split.
    placement: where arrays lie on a mesh; `distill.mesh` sets it. None leaves that to the partitioner.
    """

    dtype: str = "float32"
    gradients: str = "float32"
    unroll: int = 1
    remat: Everything | Inputs | Products = Everything()
    dispatch: Dispatch | None = None
    attention: Attend | None = None
    across: Gather | Ring = Gather()
    placement: Placement | None = None

    def __post_init__(self):
        """Refuses what cannot run."""
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f'Execution.dtype is "{self.dtype}"; it must be "float32" or "bfloat16"')
        if self.gradients not in ("float32", self.dtype):
            raise ValueError(
                f'Execution.gradients is "{self.gradients}"; with products in {self.dtype} it must be "float32"'
                + (f' or "{self.dtype}"' if self.dtype != "float32" else '; for "bfloat16" set dtype to it as well')
            )
        if self.unroll < 1:
            raise ValueError(f"Execution.unroll is {self.unroll}; it must be at least 1 period")

    @property
    def platform(self) -> str:
        """What it runs on: "cpu", "gpu" or "tpu"."""
        return jax.default_backend() if self.placement is None else self.placement.platform

    def ready(self, module: T, numbers: Int[Array, "b t"] | None = None) -> T:
        """A module with its weights in the dtype of the products, and gathered to be read.

        numbers: whole numbers, not negative, of this batch. A TPU's compiler casts the weights of all layers before the
            loop over them, half as much memory again, unless they seem to depend on what it cannot know.
        """
        if numbers is not None and self.placement is not None and self.platform == "tpu":
            one = jnp.max(numbers) >= 0
            # In the weights' own dtype: those of a frozen teacher are two bytes or fewer, and stay so.
            tied = lambda weight: weight * one.astype(weight.dtype)  # noqa: E731
            module = jax.tree.map(tied, module, is_leaf=lambda leaf: isinstance(leaf, Tapped))
        own = cast(module, self.dtype)
        return own if self.placement is None else self.placement.gather(own)

    def weight(self, param: nnx.Param) -> Array:
        """The same of a single weight."""
        own = param.replace(param[...].astype(self.dtype))
        return (own if self.placement is None else self.placement.gather(own))[...]

    def hold(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """The stream where its rows and columns are."""
        return x if self.placement is None else self.placement.hold(x, ("b", "t", "d"))

    def look_up(self, table: Float[Array, "v d"], ids: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        """Rows of the embedding table, in the dtype of the stream."""
        if self.placement is None:
            return table[ids].astype(self.dtype)
        return self.placement.look_up(table, ids, self.dtype)

    def sending(self) -> Dispatch:
        """How tokens get to their experts, here."""
        own = suited(self.platform) if self.dispatch is None else self.dispatch
        return own if self.placement is None else Exchange(self.placement, own)

    def steady(self, config: Config, tokens: int) -> "Execution":
        """The same for a sampler, of so many tokens at a time.

        Without a dispatch it takes one in which the answer to a token does not depend on the others: on a mesh, where a
        device has few rows for each of its experts, `Rounds` (but on a CPU, whose own is as good for few).
        """
        if self.dispatch is not None:
            return self
        alone = self.placement is None or self.platform == "cpu"
        return replace(
            self, dispatch=steady(self.platform) if alone else Rounds.suited(tokens * config.top_k, config.experts)
        )

    def seeing(self) -> Sight:
        """How tokens see each other, here."""
        own = suited_attention(self.platform) if self.attention is None else self.attention
        return Sight(own, self.placement, self.across)
