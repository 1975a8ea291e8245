"""What does a student lose when its teacher names few tokens: to the number of tokens, and to how the rest is treated?

One teacher; students from the same initial weights, on the same batches, with the teacher alone (no labels):

    live             the whole distribution
    rest-12, rest-3  the most probable tokens and, as one more outcome, the mass of the rest
    sampled-12       as many draws: right in expectation
    cut-12, cut-3    the same top tokens, renormalised to 1: biased, however much text there is
    both-3           teacher and student renormalised over the top tokens: blind to what the student leaks

    python -m experiments.top_k_bias --seeds 3      # the table in experiments/README.md
    python -m experiments.top_k_bias --tiny

Cost and result: experiments/README.md.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from distill import Experiment, Stage, launch
from experiments.herd import BEHEMOTH, SCOUT
from losses import Distill, NoGate, Sampled, Sides, Top, Whole
from losses.sparse import draw, top_k


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The most probable tokens, renormalised, as if there were no others."""

    k: int

    def __call__(self, signal: Whole, labels: Int[Array, "b t"]) -> Sampled:
        """Weights that add to 1 over k tokens; the student's probabilities are of all tokens."""
        top = top_k(signal, labels, self.k)
        known = jax.nn.log_softmax(top.log_probs)
        return Sampled(top.ids, jnp.exp(known), known, top.judged, top.vocab)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Blind(Sampled):
    """A top k on which the student is renormalised too."""

    def against(self, logits: Float[Array, "b t v"], temperature: Float[Array, ""]) -> Sides:
        """Both sides as if there were no other tokens."""
        sides = super().against(logits, temperature)
        return replace(sides, student=jax.nn.log_softmax(sides.student))


@dataclass(frozen=True, kw_only=True)
class Both:
    """The most probable tokens, both sides renormalised."""

    k: int

    def __call__(self, signal: Whole, labels: Int[Array, "b t"]) -> Blind:
        """What tunix, MaxText and NeMo-RL compute by default."""
        return Blind(**vars(Cut(k=self.k)(signal, labels)))


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Draws from the teacher; of a key that follows from the labels, as a loss has no randomness of its own."""

    draws: int

    def __call__(self, signal: Whole, labels: Int[Array, "b t"]) -> Sampled:
        """As many draws a position."""
        places = jnp.arange(labels.size, dtype=jnp.uint32) * jnp.uint32(2654435761)
        key = jax.random.key(jnp.sum(labels.ravel().astype(jnp.uint32) * places))
        return draw(signal, labels, self.draws, key)


LENSES = {
    "rest-12": Top(k=12), "rest-3": Top(k=3), "sampled-12": Drawn(draws=12), "cut-12": Cut(k=12), "cut-3": Cut(k=3),
    "both-3": Both(k=3),
}  # fmt: skip
PLAIN = Distill(gate=NoGate())
LIVE = Stage(name="live", learners=(replace(SCOUT, loss=PLAIN),), teacher="behemoth", steps=300, stream=1)
EXPERIMENT = Experiment(
    name="top_k_bias",
    stages=(
        Stage(name="teach", learners=(BEHEMOTH,), steps=800),
        LIVE,
        *(
            replace(LIVE, name=name, learners=(replace(SCOUT, loss=replace(PLAIN, lens=lens)),))
            for name, lens in LENSES.items()
        ),
    ),
    compare=("rest-12", "live"),
)

if __name__ == "__main__":
    launch(EXPERIMENT)
