"""What a model says next, token by token: for a chat, where prompts have images and learners a router bias."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from distill.state import Weights
from models.cache import Cache, extend
from models.llama4 import Execution
from models.prompt import Prompt
from models.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """How replies are drawn. The same weights, prompt and seed give the same reply.

    limit: tokens of a reply at most. stop: ids that end one; they are the last of it.
    """

    sampling: Sampling = Sampling()
    limit: int = 512
    stop: tuple[int, ...] = ()
    seed: int = 0
    execution: Execution = Execution()

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"--limit is {self.limit}; a reply needs at least 1 token")

    def __call__(self, weights: Weights, prompt: Prompt) -> Iterator[int]:
        """The tokens of a reply, each as soon as it is drawn: to the limit, or as far as there are positions.

        Raises:
          ValueError: the prompt leaves no room for a reply.
        """
        config, count = weights.model.config, len(prompt.tokens)
        if count >= config.max_positions:
            raise ValueError(
                f"the conversation has {count} tokens and the model {config.max_positions} positions: no room for a "
                f"reply; begin anew"
            )
        # Few shapes are compiled, however long prompts are.
        width, capacity = (min(_rounded(size), config.max_positions) for size in (count, count + self.limit))
        tokens = np.zeros((1, width), np.int32)
        tokens[0, :count] = prompt.tokens
        images = None if prompt.images is None else jnp.asarray(prompt.images)[None]
        cache = Cache.create(config, 1, capacity, self.execution.dtype)
        logits, cache = _read(self.execution, weights, cache, jnp.asarray(tokens), jnp.int32(count), images)
        for number in range(min(self.limit, config.max_positions - count)):
            uniform = jax.random.uniform(jax.random.fold_in(jax.random.key(self.seed), number), (1,))
            drawn = _draw(self.sampling, logits, uniform)
            token = int(drawn[0])
            yield token
            if token in self.stop:
                return
            logits, cache = _read(self.execution, weights, cache, drawn[:, None], jnp.int32(1), None)


def _rounded(size: int) -> int:
    """The next power of two, from 64 on."""
    return max(64, 1 << (size - 1).bit_length())


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _read(
    execution: Execution,
    weights: Weights,
    cache: Cache,
    tokens: Int[Array, "1 t"],
    count: Int[Array, ""],
    images: Float[Array, "1 i c y x"] | None,
) -> tuple[Float[Array, "1 v"], Cache]:
    """Logits of what follows the first `count` tokens, and the cache with them in it."""
    layout = cache.place(count[None], tokens.shape[1])
    x = weights.model.read(tokens, layout, execution, images)
    hidden, cache, _ = extend(weights.model, x, layout, cache, weights.bias, execution)
    last = jax.lax.dynamic_slice_in_dim(hidden, count - 1, 1, axis=1)
    return weights.model.logits(last)[:, 0], cache


@partial(jax.jit, static_argnums=0)
def _draw(sampling: Sampling, logits: Float[Array, "1 v"], uniform: Float[Array, "1"]) -> Int[Array, "1"]:
    return sampling(logits, uniform)[0]
