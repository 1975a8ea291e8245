"""A batch: what a training step reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, PyTree

from losses import Anchor, Credit, Place, Signal
from models.layout import Layout
from models.moe import Bias, Routes


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Rows of documents. Arrays are [b, t], or [a, b, t] when a step accumulates over `a` micro-batches."""

    __no_type_check__ = True  # numpy from the loader, jax in a step; and jax rebuilds it with shardings at its leaves

    tokens: Int[Array, "... b t"]
    """ids that the model reads"""
    labels: Int[Array, "... b t"]
    """the id that follows each of `tokens`"""
    mask: Bool[Array, "... b t"]
    """True where the label counts: it belongs to the same document as its token, and neither is padding"""
    segments: Int[Array, "... b t"]
    """document of each token, numbered from 1 within a row; 0 is padding"""
    positions: Int[Array, "... b t"]
    """place of each token within the piece of its document that the row holds, from 0"""
    domains: Int[Array, "... b t"] | None = None
    """number of the domain of each token's document, in the order of the names; None: one domain"""
    images: Float[Array, "... b i c y x"] | None = None
    """pixels of i tiles a row, zeros behind those of rows that have fewer; None: text alone"""
    targets: Signal | Credit | Anchor | None = None
    """what a teacher said of these rows, where it comes from a store; what they earned, where they were drawn; or what
    a reference thinks of them, where they are pairs"""
    routes: Int[Array, "... b t l r"] | None = None
    """experts that each token was sent to by who drew it, by MoE layer, to be sent there again; None: by the routers"""
    heard: Float[Array, "... b t d"] | None = None
    """hidden states of a teacher that lives on a mesh of its own"""

    @classmethod
    def of_rows(cls, rows: Mapping[str, np.ndarray], pad: int) -> "Batch":
        """Cut rows of t + 1 tokens, as grain packs them, into tokens and the labels one place to their right.

        Args:
          rows: `tokens`, `tokens_segment_ids` (0 is padding) and `tokens_positions`, each [b, t + 1]; where there are
            several `domains` [b, t + 1]; with questions `answer` [b, t + 1], true where a token is to be learned; with
            images `images` [b, i, c, y, x].
          pad: the id to put where there is no text.
        """
        segments, positions = rows["tokens_segment_ids"], rows["tokens_positions"]
        tokens = np.where(segments > 0, rows["tokens"], np.int32(pad))
        known = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
        fields: dict[str, Any] = {
            "tokens": tokens[:, :-1],
            "labels": tokens[:, 1:],
            "mask": known & rows["answer"][:, 1:] if "answer" in rows else known,
            "segments": segments[:, :-1],
            "positions": positions[:, :-1],
            "domains": rows["domains"][:, :-1] if "domains" in rows else None,
            "images": rows.get("images"),
        }
        return cls(**fields)

    @classmethod
    def of_answers(
        cls, tokens: Int[np.ndarray, "b T"], starts: Int[np.ndarray, "b"], ends: Int[np.ndarray, "b"], pad: int
    ) -> "Batch":
        """Rows of t + 1 tokens, each a prompt and an answer to it; the answer's tokens are what counts.

        Args:
          tokens: anything behind the answers.
          starts: of each row, the place of its answer's first token.
          ends: the place behind its last; 0 for a row without anything.
          pad: the id to put where there is no text.
        """
        place = np.arange(tokens.shape[1], dtype=np.int32)
        given, there = place < starts[:, None], place < ends[:, None]
        packed = {
            "tokens": tokens,
            "tokens_segment_ids": there.astype(np.int32),
            "tokens_positions": np.where(there, place, 0).astype(np.int32),
            "answer": there & ~given,
        }
        return cls.of_rows(packed, pad)

    def place(self, memory: PyTree = (), names: tuple[str, ...] = ()) -> Place:
        """Where each label stands, for the loss; what the gate remembers and the names of the domains go with it."""
        domains = jnp.zeros_like(self.segments) if self.domains is None else self.domains
        return Place(self.mask, self.segments, domains, memory, names)

    def layout(self) -> Layout:
        """Where each token stands, for attention."""
        return Layout.packed(self.positions, self.segments)

    def bias(self, bias: Float[Array, "p m e"] | None, periods: int) -> Bias:
        """How experts are chosen for these rows: by who drew them, where that is known, or with this bias."""
        if self.routes is None:
            return bias
        return Routes(rearrange(self.routes, "b t (p m) r -> p m b t r", p=periods))
