"""What does a student lose when its teacher names few tokens: to the number of tokens, and to how the rest is treated?

One teacher, one pass of it a batch; students from the same initial weights, on the same batches, with no labels:

    live             the whole distribution
    rest-12, rest-3  the most probable tokens and, as one more outcome, the mass of the rest
    sampled-12       as many draws: right in expectation
    cut-12, cut-3    the same top tokens, renormalised to 1: biased, however much text there is
    both-3           teacher and student renormalised over the top tokens: blind to what the student leaks

    python -m distill.sweep experiments/top_k_bias.py --seeds 3 --against live    # experiments/README.md
    python -m distill.sweep experiments/top_k_bias.py --tiny --against live

Cost and result: experiments/README.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from distill import Experiment, Stage, Trained
from distill.sweep import shrunk
from experiments.divergences import prepare as prepare
from experiments.herd import SCOUT
from losses import Clear, Distill, Lens, NoGate, Sampled, Sides, Top, TopK, Whole
from losses.sparse import draw, top_k


def renormalised(top: TopK) -> Sampled:
    """The tokens that it names, as if there were no others."""
    known = jax.nn.log_softmax(top.log_probs)
    return Sampled(top.ids, jnp.exp(known), known, top.judged, top.vocab)


@dataclass(frozen=True, kw_only=True)
class Cut(Lens):
    """The most probable tokens, renormalised, as if there were no others."""

    k: int

    def __call__(self, signal: Whole, labels: Int[Array, "b t"]) -> Sampled:
        """Weights that add to 1 over k tokens; the student's probabilities are of all tokens."""
        return renormalised(top_k(signal, labels, self.k))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Blind(Sampled):
    """A top k on which the student is renormalised too."""

    def against(self, logits: Float[Array, "b t v"], temperature: Float[Array, ""]) -> Sides:
        """Both sides as if there were no other tokens."""
        sides = super().against(logits, temperature)
        return replace(sides, student=jax.nn.log_softmax(sides.student))


@dataclass(frozen=True, kw_only=True)
class Both(Lens):
    """The most probable tokens, both sides renormalised."""

    k: int

    def __call__(self, signal: Whole, labels: Int[Array, "b t"]) -> Blind:
        """What tunix, MaxText and NeMo-RL compute by default."""
        return Blind(**vars(Cut(k=self.k)(signal, labels)))


@dataclass(frozen=True, kw_only=True)
class Drawn(Lens):
    """Draws from the teacher; of a key that follows from the labels, as a loss has no randomness of its own."""

    draws: int

    def __call__(self, signal: Whole, labels: Int[Array, "b t"]) -> Sampled:
        """As many draws a position."""
        places = jnp.arange(labels.size, dtype=jnp.uint32) * jnp.uint32(2654435761)
        key = jax.random.key(jnp.sum(labels.ravel().astype(jnp.uint32) * places))
        return draw(signal, labels, self.draws, key)


LENSES = {
    "live": Clear(), "rest-12": Top(k=12), "rest-3": Top(k=3), "sampled-12": Drawn(draws=12), "cut-12": Cut(k=12),
    "cut-3": Cut(k=3), "both-3": Both(k=3),
}  # fmt: skip
STUDENTS = tuple(
    replace(SCOUT, name=name, twin="scout", loss=Distill(gate=NoGate(), lens=lens)) for name, lens in LENSES.items()
)


def sweep(folder: Path, tiny: bool) -> Iterator[Experiment]:
    """All students side by side."""
    teacher = Trained(name="behemoth", run=str(folder / "teacher"), stage="teach", learner="behemoth")
    distil = Stage(name="distil", learners=STUDENTS, teacher="behemoth", steps=150, stream=1)
    yield from shrunk(iter([Experiment(name="top_k_bias", stages=(distil,), given=(teacher,))]), tiny)
