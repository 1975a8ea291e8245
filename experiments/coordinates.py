"""Coordinate check: is what a few steps change in a model as large at every width and depth?

    python -m experiments.coordinates       # two CPU-minutes; the tables in experiments/README.md

Where it grows with the width, a rate that suits a narrow model is too high for a wide one; where it vanishes, parts of
the wide one stop learning; depth likewise. Text is drawn from a chain that is easy to learn a little of.
"""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from distill import AdamW, MaximalUpdate, WarmupCosine
from models.config import SCOUT_PICO, Config, Layer
from models.llama4 import Llama4

TABLE = Path(__file__).parent / "results" / "coordinates.csv"
ARMS = ("plain", "scaled")
SEEN = ("stream", "routers", "logits")
"""what is looked at: the stream after the last layer, what routers say, what the head says"""


def scout(width: int, layers: int = 2) -> Config:
    """A small Scout of this width, every second layer without positions."""
    return replace(
        SCOUT_PICO, vocab=64, width=width, layers=layers, heads=width // 16, expert_width=13 * width // 8,
        dense_width=13 * width // 4, experts=4, pattern=(Layer(rope=True, moe=True), Layer(rope=False, moe=True)),
    )  # fmt: skip


def rows(seed: int, vocab: int, count: int = 8, length: int = 33) -> Int[np.ndarray, "b t"]:
    """Rows in which most tokens follow from the one before, by a table, and one in five from none."""
    after = np.random.default_rng(0).permutation(vocab)
    random = np.random.default_rng(1 + seed)
    found = random.integers(0, vocab, (count, length), np.int32)
    follows = random.random((count, length)) < 0.8
    for t in range(1, length):
        found[:, t] = np.where(follows[:, t], after[found[:, t - 1]], found[:, t])
    return found


def changes(config: Config, optimizers: Sequence[AdamW], steps: int = 4) -> list[dict[str, float]]:
    """For each optimizer, how far `steps` steps from equal weights move what a row of text calls forth.

    Root mean squares of the differences, in the units of each. What the model computes is compiled once.
    """

    @jax.jit
    def look(model: Llama4, tokens: Int[Array, "b t"]) -> tuple[tuple[Array, ...], Llama4]:
        def loss(model: Llama4) -> tuple[Array, tuple[Array, ...]]:
            trace = model.trace(tokens[:, :-1])
            logits = model.logits(trace.hidden)
            per_token = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
            return jnp.mean(per_token), (trace.stream[-1], trace.routers, logits)

        gradient, seen = jax.grad(loss, has_aux=True)(model)
        return seen, gradient

    start: Any = Llama4(config, jax.random.key(0))
    probe, found = rows(99, config.vocab), []
    for optimizer in optimizers:
        move = jax.jit(optimizer.build(steps).update)
        model, state = start, optimizer.build(steps).init(start)
        for step in range(steps):
            updates, state = move(look(model, rows(step, config.vocab))[1], state, model)
            model = optax.apply_updates(model, updates)
        pairs = zip(look(start, probe)[0], look(model, probe)[0], strict=True)
        sizes = [float(jnp.sqrt(jnp.mean((after - before) ** 2))) for before, after in pairs]
        found.append(dict(zip(SEEN, sizes, strict=True)))
    return found


def arms(rate: float, width: int, layers: int) -> tuple[AdamW, AdamW]:
    """AdamW as it stands, and scaled from this width and depth; both at a rate that does not change."""
    plain = AdamW(rate=WarmupCosine(peak=rate, warmup=0.0, floor=1.0))
    return plain, replace(plain, scaling=MaximalUpdate(width=width, layers=layers))


def main(
    widths: tuple[int, ...] = (32, 64, 128, 256, 512), depths: tuple[int, ...] = (2, 4, 8, 16), rate: float = 6e-3
) -> None:
    """Prints, and writes into results/coordinates.csv, how far each width and each depth moves in both arms.

    Widths have 2 layers, depths are 64 wide; settings count as tuned at 64 and 2.
    """
    both, rows = arms(rate, 64, 2), []
    for kind, sizes in {"width": widths, "depth": depths}.items():
        print(f"\n| {kind} |" + "".join(f" {arm} {name} |" for arm in ARMS for name in SEEN))
        print("|---" * (1 + len(ARMS) * len(SEEN)) + "|")
        for size in sizes:
            found = changes(scout(size) if kind == "width" else scout(64, size), both)
            print(f"| {size} |" + "".join(f" {one[name]:.3f} |" for one in found for name in SEEN), flush=True)
            values = zip(ARMS, found, strict=True)
            rows += [(kind, size, arm, name, f"{one[name]:.3f}") for arm, one in values for name in SEEN]
    with TABLE.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("kind", "size", "arm", "what", "moved"), *rows])


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
