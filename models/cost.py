"""Cost: parameters and floating-point operations of a Config by formula. `python -m models.cost` prints them.

It also times the compilation of a small model at 8 and at 48 layers, which must not differ.
"""

import time
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from models import config as configs
from models.config import Config
from models.tower import VISION, Vision


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Parameters by their use, all layers together."""

    embedding: int
    head: int
    attention: int
    experts: int
    shared: int
    routers: int
    dense: int
    norms: int
    vision: int
    projector: int

    @staticmethod
    def of(config: Config) -> "Parameters":
        """Counts them by formula."""
        d, f, e = config.width, config.expert_width, config.experts
        moe = config.periods * config.moe_per_period
        return Parameters(
            embedding=config.vocab * d,
            head=config.vocab * d,
            attention=config.layers * 2 * d * config.head_dim * (config.heads + config.kv_heads),
            experts=moe * e * 3 * d * f,
            shared=moe * 3 * d * f,
            routers=moe * d * e,
            dense=(config.layers - moe) * 3 * d * config.dense_width,
            norms=(2 * config.layers + 1) * d,
            vision=0 if config.vision is None else tower(config.vision),
            projector=0 if config.vision is None else config.vision.output * d,
        )

    @property
    def total(self) -> int:
        """All of them."""
        return sum(vars(self).values())


def tower(vision: Vision) -> int:
    """Parameters of a vision tower with its adapter, without the projector."""
    w, f, a = vision.width, vision.hidden, vision.output
    patches = (vision.channels * vision.patch**2 + 1 + vision.side**2 + 1) * w  # with class token and positions
    attention, feed_forward, norms = 4 * (w * w + w), 2 * w * f + f + w, 2 * 2 * w
    adapter = w * vision.block**2 * a + a * a
    return patches + vision.layers * (attention + feed_forward + norms) + 2 * 2 * w + adapter


def total(config: Config) -> int:
    """Parameters of the whole model."""
    return Parameters.of(config).total


def active(config: Config) -> int:
    """Parameters a text token meets: all but the vision tower, its projector and the experts it is not routed to.

    Embedding table and head count in full.
    """
    parts = Parameters.of(config)
    unmet = parts.experts - parts.experts * config.top_k // config.experts
    return parts.total - parts.vision - parts.projector - unmet


def forward_flops(config: Config, context: int) -> float:
    """Floating-point operations per text token of one forward pass over documents of `context`, head included.

    A multiplication and an addition for each active matrix entry, and for each visible key and channel in scores and
    in values. Norms, rotations and softmaxes are not counted, nor is work on masked keys: this is what the model
    needs, the numerator of model FLOPs utilisation (Chowdhery et al. 2022, arXiv:2204.02311).
    """
    parts = Parameters.of(config)
    matrices = active(config) - parts.embedding - parts.norms
    rotary = sum(layer.rope for layer in config.pattern) * config.periods
    keys = rotary * _mean_keys(context, config.chunk) + (config.layers - rotary) * _mean_keys(context, context)
    return 2 * matrices + 4 * config.heads * config.head_dim * keys


def train_flops(config: Config, context: int) -> float:
    """Per token of one training step: the forward pass, and twice that for the gradients of inputs and parameters."""
    return 3 * forward_flops(config, context)


def _mean_keys(context: int, chunk: int) -> float:
    """Keys that a query sees, on average over a document: 1, 2, ... chunk, then again from 1."""
    whole, rest = divmod(context, chunk)
    return (whole * chunk * (chunk + 1) + rest * (rest + 1)) / 2 / context


def compile_seconds(config: Config, tokens: tuple[int, int] = (2, 64)) -> float:
    """Seconds to trace and compile the gradient of this model, on shapes alone."""
    from models.llama4 import Llama4

    def loss(model: Llama4, ids: jax.Array) -> jax.Array:
        hidden, _ = model(ids)
        return jnp.mean(jax.nn.logsumexp(model.logits(hidden), axis=-1))

    model = jax.eval_shape(lambda: Llama4(config, jax.random.key(0)))
    start = time.perf_counter()
    jax.jit(jax.grad(loss)).lower(model, jax.ShapeDtypeStruct(tokens, jnp.int32)).compile()
    return time.perf_counter() - start


def main() -> None:
    """Prints the sizes of the family, then the compile times."""
    print(f"{'':14}{'total':>20}{'active':>18}{'train GFLOPs/token':>20}")
    for family in ("BEHEMOTH", "SCOUT", "MAVERICK"):
        for name in (family, f"{family}_MINI", f"{family}_NANO", f"{family}_PICO"):
            config = vars(configs)[name]
            flops = train_flops(config, min(config.max_positions, 4096)) / 1e9
            print(f"{name:14}{total(config):20,}{active(config):18,}{flops:20,.3f}")
    seeing = Parameters.of(replace(configs.SCOUT, vision=VISION))
    print(
        f"Vision adds {seeing.vision:,} for the tower and its adapter, and to SCOUT {seeing.projector:,} to project it."
    )
    for layers in (8, 48):
        seconds = compile_seconds(replace(configs.SCOUT_PICO, layers=layers))
        print(f"SCOUT_PICO with {layers} layers compiles in {seconds:.1f} s")


if __name__ == "__main__":
    main()
