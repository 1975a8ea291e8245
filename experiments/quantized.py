"""What does it cost a trained model to have its weights in 8 or 4 bits?

Reads a learner of a finished run, quantises it by several recipes, and holds each against the model itself on held-out
text: cross-entropy and KL from the float model, in nats a token, with a 95 % interval over rows for the difference.

    python experiments/herd.py                                         # once: trains what is quantised
    python -m experiments.quantized                                    # runs/herd, its teacher
    python -m experiments.quantized --stage distil --learner scout

Cost and result: experiments/README.md.
"""

import argparse
import sys
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from distill import load_weights
from distill.data.batch import Batch
from distill.data.loader import Loader
from distill.data.source import Herd, Source
from distill.process import settle
from distill.state import Weights
from distill.statistics import Paired, paired
from models.quantize import Recipe, quantize, weigh_tree

RECIPES = {
    "int8, groups of 128": Recipe(bits=8),
    "int8, groups of 32": Recipe(bits=8, group=32),
    "int8, head too": Recipe(bits=8, head=8),
    "int4, groups of 128": Recipe(bits=4),
    "int4, groups of 64": Recipe(bits=4, group=64),
    "int4, groups of 32": Recipe(bits=4, group=32),
    "int4, groups of 16": Recipe(bits=4, group=16),
    "int4 in 32, head int8": Recipe(bits=4, group=32, head=8),
    "int4 in 32, head int4": Recipe(bits=4, group=32, head=4),
}


@dataclass(frozen=True)
class Cost:
    """What a recipe costs on each row [rows]: nats a token of cross-entropy, and of KL from the float model."""

    hard: np.ndarray
    kl: np.ndarray


@jax.jit
def _look(weights: Weights, floats: Weights, batch: Batch) -> Float[Array, "two b"]:
    """Mean cross-entropy and KL over the labels of each row."""

    def log_probs(weights: Weights) -> Float[Array, "b t v"]:
        hidden, _ = weights.model(batch.tokens, batch.layout(), weights.bias)
        return jax.nn.log_softmax(weights.model.logits(hidden), axis=-1)

    ours, theirs = log_probs(weights), log_probs(floats)
    hard = -jnp.take_along_axis(ours, batch.labels[..., None], axis=-1)[..., 0]
    kl = jnp.einsum("btv,btv->bt", jnp.exp(theirs), theirs - ours)
    mask = batch.mask.astype(jnp.float32)
    return jnp.einsum("zbt,bt->zb", jnp.stack([hard, kl]), mask) / jnp.maximum(jnp.sum(mask, axis=1), 1)


def look(weights: Weights, floats: Weights, batches: list[Batch]) -> Cost:
    """The cost of one model against the other, over all rows of the batches."""
    hard, kl = np.concatenate([_look(weights, floats, batch) for batch in batches], axis=1)
    return Cost(hard, kl)


def compare(floats: Weights, batches: list[Batch], recipes: dict[str, Recipe]) -> list[str]:
    """The table, a line a recipe."""
    base = look(floats, floats, batches)
    lines = [f"{'':24}{'MiB':>8}{'cross-entropy':>15}{'KL':>10} {'95 %':20}{'difference':>12} {'95 %':20}"]
    lines.append(f"{'float32':24}{weigh_tree(floats.model) / 2**20:8.2f}{base.hard.mean():15.4f}")
    for name, recipe in recipes.items():
        small = Weights(jax.jit(partial(quantize, recipe=recipe))(floats.model), floats.bias)
        cost = look(small, floats, batches)
        line = f"{name:24}{weigh_tree(small.model) / 2**20:8.2f}{cost.hard.mean():15.4f}"
        kl = paired(cost.kl.tolist(), [0.0] * len(cost.kl))
        hard = paired(cost.hard.tolist(), base.hard.tolist())
        lines.append(f"{line}{kl.mean:10.5f} {_span(kl):20}{hard.mean:+12.5f} {_span(hard):20}")
    return lines


def _span(found: Paired) -> str:
    low, high = found.interval or (found.mean, found.mean)
    return f"[{low:+.5f}, {high:+.5f}]"


def main(arguments: list[str], source: Source | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/herd", help="folder of a run")
    parser.add_argument("--stage", default="teach")
    parser.add_argument("--learner", default="behemoth")
    parser.add_argument("--batches", type=int, default=32, help="of held-out text, 8 rows of 128 tokens each")
    parser.add_argument("--tiny", action="store_true", help="two recipes on two batches")
    given = parser.parse_args(arguments)
    settle()
    try:
        floats = load_weights(given.run, given.stage, given.learner)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}; python experiments/herd.py trains runs/herd")
    length = min(128, floats.model.config.max_positions)
    count = 2 if given.tiny else given.batches
    batches = [jax.device_put(one) for one in Loader(rows=8, length=length).held_out_batches(source or Herd(), count)]
    recipes = dict(list(RECIPES.items())[:: len(RECIPES) // 2]) if given.tiny else RECIPES
    print("\n".join(compare(floats, batches, recipes)))


if __name__ == "__main__":
    main(sys.argv[1:])
