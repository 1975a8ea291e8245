"""What the reference thinks of pairs: log-probabilities, computed once and kept as a file under its hash and theirs."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from distill import mesh as meshes
from distill.curriculum.record import number, read_record, several, text, write_record
from distill.data.batch import Batch
from distill.likelihood import label_logps
from distill.preference.pairs import Pairs
from distill.state import Weights
from models.execution import Execution

KIND = "reference's log-probabilities"
READERS = {"reference": text, "pairs": text, "logps": several(number)}

Anchors = Float[np.ndarray, "n 2"]
"""log-probability of the chosen and the rejected answer of every pair, nats, float32"""


@dataclass(frozen=True)
class Kept:
    """Anchors as files of a folder, one for each reference and each set of pairs. None is trusted: what is not whole,
    or of others, is computed anew, and replaced at once.
    """

    folder: Path

    def path(self, reference: str, pairs: Pairs) -> Path:
        """The file of a reference and these pairs."""
        return self.folder / f"{reference}-{pairs.fingerprint}.json"

    def __call__(self, reference: str, pairs: Pairs, ask: Callable[[], Anchors]) -> Anchors:
        """The anchors of the pairs: out of the file, or as `ask` finds them; they are in the file afterwards.

        Args:
          reference: hash of its weights.
          pairs: what is asked about.
          ask: computes them.

        Raises:
          ValueError: the reference gives an answer no finite log-probability.
        """
        path = self.path(reference, pairs)
        if path.exists():
            try:
                return _read(path, reference, pairs)
            except ValueError as error:
                warnings.warn(f"{error}; the reference is asked anew", RuntimeWarning, stacklevel=2)
        found = np.asarray(ask(), np.float32)
        bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if len(bad):
            raise ValueError(
                f"the reference {reference} gives {len(bad)} of {len(pairs)} pairs no finite log-probability, the "
                f"first to {pairs.items[bad[0]]!r}; start from a learner that is whole"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        logps = [float(logp) for logp in found.ravel()]  # float64 holds a float32 exactly, and so does JSON
        write_record(path, KIND, {"reference": reference, "pairs": pairs.fingerprint, "logps": logps})
        return found


def _read(path: Path, reference: str, pairs: Pairs) -> Anchors:
    def make(found: dict[str, Any]) -> Anchors:
        theirs = (found["reference"], found["pairs"], len(found["logps"]))
        if theirs != (reference, pairs.fingerprint, 2 * len(pairs)):
            raise ValueError(
                f"it is of the reference {theirs[0]} and {theirs[2]} answers, pairs {theirs[1]}; these are of "
                f"{reference} and {2 * len(pairs)} answers, pairs {pairs.fingerprint}"
            )
        return rearrange(np.array(found["logps"], np.float32), "(n two) -> n two", two=2)

    return read_record(path, KIND, READERS, make)


def ask(weights: Weights, pairs: Pairs, rows: int, pad: int, mesh: jax.sharding.Mesh, execution: Execution) -> Anchors:
    """What a model thinks of every answer.

    Args:
      weights: of the model.
      pairs: one at least.
      rows: that are asked about at a time, an even number that divides over the mesh.
      pad: the token where there is no text.
      mesh: where the weights are.
      execution: how they are used.
    """

    @jax.jit
    def think(weights: Weights, batch: Batch) -> Float[Array, " b"]:
        return jnp.sum(label_logps(weights, batch, execution), axis=1)

    size = rows // 2
    turns = -(-len(pairs) // size)
    # The last turn is filled up with the first pairs, so that all have one shape.
    which = np.split(np.resize(np.arange(len(pairs)), turns * size), turns)
    batches = (jax.device_put(pairs.batch(some, None, pad), meshes.rows(mesh)) for some in which)
    found = np.concatenate([jax.device_get(think(weights, batch)) for batch in batches])
    return rearrange(found, "(n two) -> n two", two=2)[: len(pairs)]
