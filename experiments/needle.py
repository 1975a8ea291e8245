"""Which parts of iRoPE let a model trained on short rows find a needle in long ones?

A document is a filler that repeats itself, with up to four needles in it, a letter and a digit each, and at its end the
letters again, twice each and in any order: whoever has found the needle knows the digit. Pico Scouts learn it on rows
of 64 tokens: as Scout is, without temperature on its NoPE layer, without NoPE layer, without chunks, and with neither
(which leaves plain rotary positions). Then they are asked in documents of 1 to 16 times that length.

    python -m experiments.needle --seeds 3      # the figure in docs/needle.png, the table in experiments/README.md
    python -m experiments.needle --tiny         # the same in a minute; it learns nothing

Cost and result: experiments/README.md.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Int
from matplotlib.figure import Figure

from distill import AdamW, Experiment, Learner, Stage, WarmupCosine, launch, load_weights
from distill.data.manifest import SPLITS, Count, Document, Documents, Manifest, Split, fingerprint
from distill.figures import STYLE, save
from distill.options import parse
from models.config import SCOUT_PICO, Config, Layer, Tempering
from models.llama4 import Llama4
from models.tokenizer import Bytes

LENGTH = 64
FACTORS = (1, 2, 4, 8, 16)
DEPTHS = 5
"""parts of a document that needles are counted by"""
NEEDLES = 4
KEYS, VALUES = b"ABCDEFGH", b"0123456789"
GUESS = "any digit finds 10 %, the digit of any needle 32.5 %"
FILLER = b"the grass is green, the sky is blue, the sun is yellow, here we go, there and back again; "


@dataclass(frozen=True)
class Haystack:
    """A document [t + 1 tokens]; of each needle the column where its letter is asked for, and how deep it lies."""

    tokens: Int[np.ndarray, " t1"]
    asked: Int[np.ndarray, " n"]
    depths: np.ndarray
    """0 is the beginning of the filler, 1 its end"""


def compose(random: np.random.Generator, tokens: int, needles: int) -> Haystack:
    """A document of so many tokens, the first and last of which are the specials around every document."""
    keys = random.permutation(np.frombuffer(KEYS, np.uint8))[:needles]
    pairs = np.stack([keys, random.choice(np.frombuffer(VALUES, np.uint8), needles)], axis=1)
    questions = np.concatenate([random.permutation(needles) for _ in range(2)])
    size = tokens - 2 - 2 * needles - 2 * len(questions)
    turn = random.integers(len(FILLER))
    filler = np.frombuffer((FILLER * (size // len(FILLER) + 2))[turn : turn + size], np.uint8)
    places = np.sort(random.integers(0, size + 1, needles))
    body = np.insert(filler, np.repeat(places, 2), rearrange(pairs, "n two -> (n two)"))
    text = np.concatenate([body, rearrange(pairs[questions], "n two -> (n two)")]).tobytes()
    columns = 1 + len(body) + 2 * np.arange(needles)
    return Haystack(Bytes().document(text), columns, places[questions[:needles]] / max(size, 1))


@dataclass(frozen=True)
class Haystacks:
    """A corpus of such documents, of 16 to `length` + 1 tokens, made as they are read.

    A row of the stage holds six or seven of them, each attending to itself alone, and cuts the last.
    """

    length: int = LENGTH
    count: int = 60000

    def documents(self, split: Split) -> Documents:
        """60000 to learn from, one in a hundred of that to look at."""
        return _Documents(self.length, self.count if split == "train" else self.count // 100, split == "train")

    def manifest(self) -> Manifest:
        """Counts; the hash is of the first hundred documents, of which the rest follow."""
        parts: dict[Split, Documents] = {split: self.documents(split) for split in SPLITS}
        sha256 = fingerprint(each[i]["text"] for each in parts.values() for i in range(100))
        return Manifest(
            name="haystacks",
            hash=sha256[:12],
            sha256=sha256,
            basis="the first hundred documents of each split",
            splits={split: {"text": Count(len(each))} for split, each in parts.items()},
        )


@dataclass(frozen=True)
class _Documents:
    length: int
    count: int
    train: bool

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Document:
        random = np.random.default_rng([index, self.train])
        tokens = int(random.integers(16, self.length + 2))
        needles = int(random.integers(1, min(NEEDLES, (tokens - 2) // 6) + 1))
        return {"text": bytes(compose(random, tokens, needles).tokens[1:-1].astype(np.uint8)), "domain": "text"}


FULL = replace(
    SCOUT_PICO, experts=4, chunk=16, tempering=Tempering(floor=16, scale=0.1), max_positions=LENGTH * FACTORS[-1]
)
ROTARY = (Layer(rope=True, moe=True),)
VARIANTS: dict[str, Config] = {
    "irope": FULL,
    "no-temperature": replace(FULL, tempering=None),
    "no-chunks": replace(FULL, chunk=FULL.max_positions),
    "no-nope": replace(FULL, pattern=ROTARY),
    "rope": replace(FULL, pattern=ROTARY, chunk=FULL.max_positions),
}
EXPERIMENT = Experiment(
    name="needle",
    stages=(
        Stage(
            name="learn",
            learners=tuple(
                Learner(name=name, model=config, optimizer=AdamW(rate=WarmupCosine(peak=6e-3)))
                for name, config in VARIANTS.items()
            ),
            steps=1500,
            rows=8,
            length=4 * LENGTH,
            save_every=500,
        ),
    ),
    corpus=Haystacks(),
    held_out=8,
)


@jax.jit
def answered(model: Llama4, tokens: Int[Array, "b t1"], asked: Int[Array, "b n"]) -> Bool[Array, "b n"]:
    """Whether the first choice after each letter is its digit."""
    hidden, _ = model(tokens[:, :-1])
    hidden = jnp.take_along_axis(hidden, asked[..., None], axis=1)
    return jnp.argmax(model.logits(hidden), axis=-1) == jnp.take_along_axis(tokens, asked + 1, axis=1)


def retrieval(model: Llama4, length: int, rows: int) -> list[float]:
    """Share of needles found in each fifth of documents of `length` tokens, the first fifth first."""
    random = np.random.default_rng(length)
    stacks = [compose(random, length + 1, NEEDLES) for _ in range(rows)]
    tokens, asked, depths = (np.stack([vars(each)[name] for each in stacks]) for name in ("tokens", "asked", "depths"))
    some = [slice(first, first + 16) for first in range(0, rows, 16)]  # at a time: whole rows of scores are large
    right = np.concatenate([answered(model, tokens[rows], asked[rows]) for rows in some])
    part = np.minimum(depths * DEPTHS, DEPTHS - 1).astype(int)
    return [float(right[part == i].mean()) for i in range(DEPTHS)]


def measure(folder: Path, experiment: Experiment, rows: int) -> dict[str, list[list[float]]]:
    """Retrieval [length, depth] of every variant of a finished run, also in its retrieval.json."""
    found = {}
    for learner in experiment.stages[0].learners:
        model = load_weights(folder, "learn", learner.name).model
        lengths = [LENGTH * factor for factor in FACTORS]
        found[learner.name] = [
            retrieval(model, length, rows) for length in lengths if length <= learner.model.max_positions
        ]
    (folder / "retrieval.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def draw(seeds: Sequence[dict[str, list[list[float]]]]) -> Figure:
    """Mean retrieval over seeds: a panel for each variant, length to the right, depth downwards."""
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(2.3 * len(seeds[0]), 2.9))
        panels = figure.subplots(1, len(seeds[0]), sharey=True, squeeze=False)[0]
        for panel, name in zip(panels, seeds[0], strict=True):
            shares = np.mean([each[name] for each in seeds], axis=0).T
            panel.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
            for (depth, length), share in np.ndenumerate(shares):
                ink = "white" if share > 0.6 else "black"
                panel.text(length, depth, f"{share:.0%}", ha="center", va="center", fontsize=7.5, color=ink)
            panel.set_title(name)
            panel.set_xticks(range(shares.shape[1]), [f"{factor}x" for factor in FACTORS[: shares.shape[1]]])
            panel.set_yticks([0, DEPTHS - 1], ["start", "end"])
        figure.supxlabel("length of the document, in those it was trained on", fontsize=9)
    return figure


def main(arguments: Sequence[str]) -> None:
    """Trains, then looks for needles; prints the mean over depths of every seed."""
    launch(EXPERIMENT, arguments)
    options = parse(EXPERIMENT, arguments)
    rows = 16 if "--tiny" in arguments else 128
    seeds = [measure(Path(folder), experiment, rows) for folder, experiment in options.seeded()]
    save(draw(seeds), Path(options.folder) / "figures" / "needle.png")
    print(f"\nneedles found at {', '.join(f'{factor}x' for factor in FACTORS)} the length; {GUESS}")
    for name in seeds[0]:
        means = np.mean([each[name] for each in seeds], axis=2).T
        print(f"{name:16}" + "".join(f"{one.mean():8.1%} ({one.min():.0%}-{one.max():.0%})" for one in means))
    print(f"figure: {options.folder / 'figures' / 'needle.png'}")


if __name__ == "__main__":
    main(sys.argv[1:])
