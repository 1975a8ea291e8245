"""transformers computes with what we write what we compute ourselves, and we read what transformers writes.

    make proofs            # or: .venv-proofs/bin/python proofs/huggingface.py --cases 36; about 10 minutes

Draws configurations at random: heads, key/value heads, head size, experts, top-k, layers with experts, NoPE layers,
chunk, rotary scaling, tempering, eps, query/key norm, shards; every third with a vision tower and images, rows with
different numbers of them. For each, our random weights are written by `models.huggingface.save`; transformers must
load them without a missing or unexpected tensor, agree in every logit of full rows and of left-padded ones within 1e-4,
and decode greedily the tokens that are our first choices. It then writes them by `save_pretrained` in many shards; we
must read back our own weights and configuration, bit for bit. Prints a line a case.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"  # both sides in float32 on the same kind of machine
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # many small programs, each run twice

import jax
import jax.numpy as jnp
import numpy as np

from models import huggingface
from models.config import Config, Layer, RopeScaling, Tempering, interleave, shortest
from models.layout import Layout
from models.llama4 import Llama4
from models.tower import Vision

ROOT = Path(__file__).parents[1]
ROWS, LENGTH, NEW = 2, 40, 8
BOUND = 1e-4


def draw_layers(random: np.random.Generator, layers: int) -> tuple[Layer, ...]:
    """By intervals, as Llama 4 has them, or without any order."""
    if random.random() < 0.5:
        pattern = interleave(nope=int(random.integers(2, 5)), moe=int(random.integers(1, 4)))
        return (pattern * layers)[:layers]
    return tuple(Layer(rope=bool(random.integers(2)), moe=bool(random.integers(2))) for _ in range(layers))


def draw_vision(random: np.random.Generator) -> Vision:
    """A small tower."""
    width = 4 * int(random.integers(1, 4)) * (heads := int(random.integers(1, 5)))
    block = int(random.integers(1, 3))
    patch = int(random.integers(2, 5))
    return Vision(
        width=width,
        layers=int(random.integers(1, 4)),
        heads=heads,
        hidden=width * block**2,
        image=patch * block * int(random.integers(1, 4)),
        patch=patch,
        channels=int(random.choice([1, 3])),
        ratio=1 / block,
        output=int(random.integers(5, 40)),
        rope_theta=float(random.choice([100.0, 10000.0])),
        patch_token=7,
    )


def draw(random: np.random.Generator, seeing: bool) -> Config:
    """Any configuration that is one, small."""
    kv_heads, experts, layers = (int(random.integers(1, high)) for high in (4, 10, 7))
    original = int(random.integers(8, 64))
    low = float(random.choice([1.0, 1.5]))
    scaling = RopeScaling(
        factor=float(random.uniform(1, 16)), low=low, high=low * int(random.integers(1, 4)), original=original
    )
    tempering = Tempering(floor=int(random.integers(1, 12)), scale=float(random.uniform(0.05, 0.5)))
    return Config(
        vocab=int(random.integers(60, 200)),
        width=int(random.integers(8, 48)),
        layers=layers,
        heads=kv_heads * int(random.integers(1, 6)),
        kv_heads=kv_heads,
        head_dim=2 * int(random.integers(1, 12)),
        expert_width=int(random.integers(5, 40)),
        dense_width=int(random.integers(5, 40)),
        experts=experts,
        top_k=int(random.integers(1, min(experts, 3) + 1)),
        pattern=shortest(draw_layers(random, layers)),
        chunk=int(random.integers(2, 48)),
        rope_theta=float(random.choice([100.0, 10000.0, 500000.0])),
        rope_scaling=scaling if random.random() < 0.5 else None,
        qk_norm=bool(random.integers(2)),
        tempering=tempering if random.random() < 0.7 else None,
        eps=float(10.0 ** -random.integers(3, 7)),
        max_positions=256,
        vision=draw_vision(random) if seeing else None,
    )


def fill(config: Config, random: np.random.Generator) -> Llama4:
    """Random weights in all places: no scale is 1 and no bias 0, so that none can be forgotten."""

    def one(path: object, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path)
        drawn = random.standard_normal(leaf.shape, np.float32)
        inputs = config.width if leaf.ndim > 2 else max(leaf.shape[0], 1)
        return jnp.asarray(1 + 0.3 * drawn if "scale" in name else drawn * (0.1 if "bias" in name else inputs**-0.5))

    return jax.tree_util.tree_map_with_path(one, jax.eval_shape(lambda: Llama4(config, jax.random.key(0))))


def ask(config: Config, random: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What transformers is asked, and the images as we take them."""
    tokens = random.integers(8, config.vocab, (ROWS, LENGTH))
    mask = np.arange(LENGTH)[None] >= random.integers(0, LENGTH - 12, (ROWS, 1))
    padded = np.where(mask, random.integers(8, config.vocab, (ROWS, LENGTH)), 0)
    question = {"new": np.asarray(NEW), "suppressed": np.zeros(0, int), "mask": mask.astype(int)}
    images = {}
    if config.vision is not None:
        vision = config.vision
        most = max(1, 10 // vision.tokens)
        for name, rows, end in (("tiles", tokens, LENGTH - NEW), ("padded_tiles", padded, LENGTH)):
            counts = random.integers(1, most + 1, ROWS)
            sides = (vision.channels, vision.image, vision.image)
            images[name] = random.standard_normal((ROWS, most, *sides), np.float32)
            for row, count in enumerate(counts):
                images[name][row, count:] = 0
                rows[row, end - count * vision.tokens - 1 : end - 1] = vision.patch_token
            question[name] = np.concatenate([images[name][row, :count] for row, count in enumerate(counts)])
        question["suppressed"] = np.asarray([vision.patch_token])
    return question | {"tokens": tokens, "padded": padded, "prompt": tokens[:, : LENGTH - NEW]}, images


def compare(folder: Path, config: Config, images: dict[str, np.ndarray]) -> dict[str, float]:
    """Our answers beside theirs: the worst difference of each kind."""
    question, answer = (dict(np.load(folder / name)) for name in ("question.npz", "answer.npz"))
    model = huggingface.load(folder / "ours", dtype=None)
    run = jax.jit(lambda model, tokens, layout, images: model.logits(model(tokens, layout, images=images)[0]))
    whole = images.get("tiles")
    mask = question["mask"].astype(bool)
    full = run(model, question["tokens"], None, whole)
    left = run(
        model, question["padded"], Layout.left_padded(jnp.asarray(mask), huggingface=True), images.get("padded_tiles")
    )
    made = np.array(run(model, answer["made"], None, whole)[:, LENGTH - NEW - 1 : -1])
    made[..., question["suppressed"]] = -np.inf
    chosen = made.argmax(-1) == answer["made"][:, LENGTH - NEW :]
    theirs = huggingface.load(folder / "theirs", dtype=None)
    assert theirs.config == config == model.config, f"{folder}: transformers wrote another configuration"
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and bool((a == b).all()), model, theirs)
    assert all(jax.tree.leaves(same)), f"{folder}: transformers wrote other weights"
    return {
        "full": float(np.abs(full - answer["full"]).max()),
        "left": float(np.abs(left - answer["left"])[mask].max()),
        "greedy": float((~chosen).sum()),
    }


def tell(found: dict[str, float]) -> str:
    """Differences in a line."""
    return f"full {found['full']:.1e}  left {found['left']:.1e}  greedy {found['greedy']:.0f}"


def describe(config: Config) -> str:
    """A line that tells configurations apart."""
    layers = "".join("dm"[layer.moe] if layer.rope else "DM"[layer.moe] for layer in config.pattern * config.periods)
    rope = "" if config.rope_scaling is None else f" scaled {config.rope_scaling.factor:.1f}"
    tempering = "" if config.tempering is None else f" floor {config.tempering.floor}"
    vision = config.vision
    tower = (
        ""
        if vision is None
        else f" | {vision.image} px/{vision.patch}, {vision.heads}x{vision.head_dim}, {vision.ratio}"
    )
    return (
        f"d {config.width} h {config.heads}/{config.kv_heads}x{config.head_dim} e {config.experts} top {config.top_k} "
        f"{layers} chunk {config.chunk}{rope}{tempering}{' qk' if config.qk_norm else ''} eps {config.eps:.0e}{tower}"
    )


def main() -> None:
    """Draws, writes, asks, compares; fails on the first kind of disagreement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=36)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--python", default=sys.executable, help="one that has torch and transformers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        cases = []
        for number in range(options.cases):
            random = np.random.default_rng([options.seed, number])
            config, folder = draw(random, seeing=number % 3 == 2), Path(home) / f"{number:03}"
            huggingface.save(folder / "ours", fill(config, random), shard_bytes=float(random.choice([3e4, 5e9])))
            question, images = ask(config, random)
            np.savez(folder / "question.npz", **question)
            cases.append((folder, config, images))
        peer = ROOT / "proofs" / "peers" / "reference.py"
        subprocess.run([options.python, peer, home], check=True, stdout=subprocess.DEVNULL)
        print("layers: m experts, d dense; capitals: NoPE. Worst difference in logits; tokens decoded otherwise")
        worst = {"full": 0.0, "left": 0.0, "greedy": 0.0}
        for folder, config, images in cases:
            found = compare(folder, config, images)
            worst = {name: max(worst[name], value) for name, value in found.items()}
            print(f"{folder.name}  {tell(found)}  {describe(config)}", flush=True)
    print(f"{len(cases)} configurations: {tell(worst)}")
    if max(worst["full"], worst["left"]) > BOUND or worst["greedy"]:
        sys.exit(f"error: ours and transformers' differ by more than {BOUND:g}")


if __name__ == "__main__":
    main()
