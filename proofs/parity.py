"""How far Herd is from transformers on the checkpoints in tests/data/llama4: the largest difference of each kind.

    python proofs/parity.py      # needs no torch: what transformers computed lies beside the checkpoints

float32, a minute. Fails where a difference is above 1e-4 or a greedy token differs.
"""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from models import huggingface
from models.cache import Cache, extend
from models.dispatch import Dense
from models.execution import Execution
from models.layout import Layout
from models.llama4 import Llama4

DATA = Path(__file__).parents[1] / "tests" / "data" / "llama4"
PLAIN = Execution(dispatch=Dense())
BAR = 1e-4


@jax.jit
def run(model: Llama4, tokens: jax.Array, layout: Layout | None, images: jax.Array | None) -> jax.Array:
    """Logits of whole rows."""
    return model.logits(model(tokens, layout, None, PLAIN, images)[0])


@partial(jax.jit, donate_argnums=3)
def read(model: Llama4, x: jax.Array, layout: Layout, cache: Cache) -> tuple[jax.Array, Cache]:
    """Logits of a piece, and the cache after it."""
    hidden, cache, *_ = extend(model, x, layout, cache, execution=PLAIN)
    return model.logits(hidden), cache


def tiles_of(expected: dict, tokens: jax.Array, model: Llama4) -> jax.Array | None:
    """The images of every row, zeros behind those of rows that have fewer."""
    vision = model.config.vision
    if vision is None:
        return None
    counts = np.asarray((tokens == vision.patch_token).sum(axis=1)) // vision.tokens
    tiles = np.zeros((len(tokens), int(counts.max()), *expected["pixel_values"].shape[1:]), np.float32)
    tiles[np.arange(tiles.shape[1]) < counts[:, None]] = expected["pixel_values"]
    return jnp.asarray(tiles)


def apart(one: object, other: object) -> float:
    """The largest difference."""
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).max())


def greedy(model: Llama4, expected: dict) -> tuple[float, int]:
    """Largest difference of the logits while decoding what transformers chose, and how many choices differ."""
    prompt, chosen = jnp.asarray(expected["gen.prompt"]), np.asarray(expected["gen.tokens"])
    rows, length = prompt.shape
    images = tiles_of(expected, prompt, model)
    features = None if images is None else model.look(images, PLAIN)
    cache, found = Cache.create(model.config, rows, length + chosen.shape[1]), []
    layout = cache.place(jnp.full(rows, length), length)
    x = model.read(prompt, Layout.left_padded(jnp.ones(prompt.shape, bool)), PLAIN, features)
    for step in range(chosen.shape[1]):
        logits, cache = read(model, x, layout, cache)
        found.append(logits[:, -1])
        layout = cache.place(jnp.ones(rows, jnp.int32), 1)
        x = model.read(jnp.asarray(chosen[:, step : step + 1]), layout, PLAIN, None)
    stacked = np.stack(found)
    return apart(stacked, expected["gen.logits"]), int((chosen != stacked.argmax(-1).T).sum())


def compare(case: str) -> dict[str, float]:
    """Largest differences by kind."""
    model, expected = huggingface.load(DATA / case), dict(np.load(DATA / case / "expected.npz"))
    tokens = jnp.asarray(expected["full.input_ids"])
    images = tiles_of(expected, tokens, model)
    found = {}
    if images is not None:
        hidden, inputs = model.vision.encode(expected["pixel_values"])
        found["vision, every layer"] = apart(inputs, expected["vision.hidden_states"][:-1])
        found["vision, adapter"] = apart(model.vision.adapt(hidden, PLAIN), expected["vision.adapter_out"])
        found["vision, projected"] = apart(model.vision(expected["pixel_values"]), expected["vision.projected"])
    whole = run(model, tokens, None, images)
    found["logits"] = apart(whole, expected["full.logits"])
    for side in ("leftpad", "rightpad"):
        mask = expected[f"{side}.attention_mask"].astype(bool)
        layout = Layout.left_padded(jnp.asarray(mask), huggingface=True)
        padded = np.asarray(run(model, jnp.asarray(expected[f"{side}.input_ids"]), layout, images))
        found[f"logits, {side}"] = apart(padded[mask], expected[f"{side}.logits"][mask])
    found["logits while decoding"], found["greedy tokens that differ"] = greedy(model, expected)
    return found


def main() -> int:
    """Prints the table; 1 where a bar is missed."""
    worst = 0.0
    for case in ("scout_tiny", "maverick_tiny", "mm_tiny"):
        for kind, size in compare(case).items():
            print(f"{case:16}{kind:28}{size:10.2g}", flush=True)
            worst = max(worst, size)
    print(f"worst {worst:.2g}, allowed {BAR:g}")
    return int(worst > BAR)


if __name__ == "__main__":
    sys.exit(main())
