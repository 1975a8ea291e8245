"""Ready: a model as decoding wants it, where weights are read over and over and a token at a time."""

from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from models.execution import Execution
from models.llama4 import Llama4
from models.quantized import Quantized

Weights = tuple[Llama4, Float[Array, "p m e"] | None]
"""a model and the bias of its routers"""


def make_ready(
    model: Llama4, bias: Float[Array, "p m e"] | None, execution: Execution
) -> tuple[Llama4, Float[Array, "q l e"] | None]:
    """The same model for this execution, without what each token would repeat.

    In bfloat16 its weights are cast. With `unroll` at its periods or more its layers are copied out of their stack, of
    which each would else be sliced at every token: faster, for twice the memory of the weights. With a placement they
    lie as its letters say, wherever they come from.
    """
    if execution.placement is None:
        return _ready(execution, model, bias)
    leaves, structure = jax.tree.flatten((model, bias))
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    return _placing(execution, structure, shapes)(model, bias)


@lru_cache(maxsize=8)
def _placing(execution: Execution, structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> Any:
    """The same as one program, for models of these shapes; else every call would compile it anew."""
    assert execution.placement is not None
    made = jax.eval_shape(partial(_ready, execution), *jax.tree.unflatten(structure, shapes))
    return jax.jit(partial(_ready, execution), out_shardings=execution.placement.formats(made))


def _ready(
    execution: Execution, model: Llama4, bias: Float[Array, "p m e"] | None
) -> tuple[Llama4, Float[Array, "q l e"] | None]:
    if execution.dtype != "float32":
        model = _narrow(model, execution.dtype)
    if execution.unroll >= model.config.periods > 1:
        return _write_out(model, bias)
    return model, bias


@partial(jax.jit, static_argnums=1)
def _narrow(model: Llama4, dtype: str) -> Llama4:
    """Products in this dtype; norms and routers, and what is quantised, as they are."""

    def to(param: nnx.Param) -> nnx.Variable:
        weight = param[...]
        kept = isinstance(weight, Quantized) or len(param.axes) == 1 or param.axes[-1] == "e"
        return param if kept else param.replace(weight.astype(dtype))

    return jax.tree.map(to, model, is_leaf=lambda leaf: isinstance(leaf, nnx.Param))


@jax.jit
def _write_out(model: Llama4, bias: Float[Array, "p m e"] | None) -> tuple[Llama4, Float[Array, "1 l e"] | None]:
    """One period of all its layers, so that nothing has to be sliced out of a stack."""
    config, stacked = model.config, model.periods.blocks
    blocks = [
        jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], block) for i in range(config.periods) for block in stacked
    ]
    model.config = replace(config, pattern=config.pattern * config.periods)
    model.periods.pattern, model.periods.blocks = model.config.pattern, nnx.List(blocks)
    return model, None if bias is None else rearrange(bias, "p m e -> 1 (p m) e")
