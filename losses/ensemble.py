"""Several teachers as one, and a teacher that is put right where it errs."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from losses.refusal import as_whole
from losses.signal import FLOOR, Belief, Dense, Sides, Whole, cut, pick


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ensemble:
    """The mean of several teachers' probabilities, each at the temperature asked for.

    Attributes:
      members: at least one, over one vocabulary.
      shares: their weights, which add to 1.
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    members: tuple[Whole, ...]
    shares: Float[Array, " m"]

    @property
    def vocab(self) -> int:
        """Size of the vocabulary, padding included. ValueError: the members' differ."""
        sizes = [each.vocab for each in self.members]
        if len(set(sizes)) != 1:
            raise ValueError(f"an Ensemble of vocabularies {sizes}; there must be members, of one tokenizer")
        return sizes[0]

    @property
    def tempers(self) -> bool:
        """Any temperature."""
        return True

    def slice(self, start: Int[Array, ""], size: int) -> "Ensemble":
        """The positions [start, start + size) of every row."""
        return Ensemble(tuple(each.slice(start, size) for each in self.members), self.shares)

    def log_probs(self, temperature: Float[Array, ""]) -> Float[Array, "b t v"]:
        """Log of the mean probability; -inf where all say 0. ValueError: a member does not know every token."""
        # Two by two, which fuses with what reads it: stacked, XLA:CPU takes several times as long.
        members = [as_whole(each, "an Ensemble") for each in self.members]
        parts = [jnp.log(share) + each.log_probs(temperature) for share, each in zip(self.shares, members, strict=True)]
        return functools.reduce(jnp.logaddexp, parts)

    def against(self, logits: Float[Array, "b t v"], temperature: Float[Array, ""]) -> Sides:
        """Both sides over the vocabulary."""
        student = Dense(logits).log_probs(temperature)
        return Sides(jnp.maximum(self.log_probs(temperature), FLOOR), jnp.maximum(student, FLOOR))

    def belief(self, labels: Int[Array, "b t"]) -> Belief:
        """What the mean thinks of the labels, at temperature 1."""
        return Dense(self.log_probs(jnp.float32(1.0))).belief(labels)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Corrected:
    """A teacher whose distribution is mixed with the label where its first choice is wrong, just so far that it is not.

    p' = (1 - m) p + m e_y with the least m at which p'(y) exceeds every other token by `lead`; 0 where it already does
    or is right. A baseline: it trusts every label and not the teacher, token by token (the idea of MFTLoss in NVIDIA's
    Model-Optimizer, in a form of our own).
    """

    __no_type_check__ = True  # jax rebuilds a pytree through __init__ with anything at its leaves

    signal: Whole
    labels: Int[Array, "b t"]
    lead: Float[Array, ""]

    @property
    def vocab(self) -> int:
        """Size of the vocabulary, padding included."""
        return self.signal.vocab

    @property
    def tempers(self) -> bool:
        """Any temperature; it is put right at that temperature."""
        return True

    def slice(self, start: Int[Array, ""], size: int) -> "Corrected":
        """The positions [start, start + size) of every row."""
        return Corrected(self.signal.slice(start, size), cut(self.labels, start, size), self.lead)

    def log_probs(self, temperature: Float[Array, ""]) -> Float[Array, "b t v"]:
        """Log of the corrected probability; -inf where it is 0."""
        log_probs = self.signal.log_probs(temperature)
        gold, best = jnp.exp(pick(log_probs, self.labels)), jnp.exp(jnp.max(log_probs, axis=-1))
        # (1 - m) gold + m = (1 - m) best + lead, solved for m
        share = jnp.where(best > gold, (best - gold + self.lead) / (1.0 + best - gold), 0.0)
        mixed = rearrange(jnp.log1p(-share), "b t -> b t 1") + log_probs
        right = rearrange(jnp.log((1.0 - share) * gold + share), "b t -> b t 1")
        return jnp.where(jax.nn.one_hot(self.labels, self.vocab, dtype=bool), right, mixed)

    def against(self, logits: Float[Array, "b t v"], temperature: Float[Array, ""]) -> Sides:
        """Both sides over the vocabulary."""
        student = Dense(logits).log_probs(temperature)
        return Sides(jnp.maximum(self.log_probs(temperature), FLOOR), jnp.maximum(student, FLOOR))

    def belief(self, labels: Int[Array, "b t"]) -> Belief:
        """What the corrected teacher thinks of the labels, at temperature 1."""
        return Dense(self.log_probs(jnp.float32(1.0))).belief(labels)
