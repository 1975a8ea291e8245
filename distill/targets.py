"""How a teacher's word on a row of tokens is written into bytes, and read back as a batch with its targets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int

from distill.data.batch import Batch
from losses import Dense, Projected, Sampled, TopK
from losses.signal import FLOOR, Belief
from losses.sparse import draw, top_k

LEAST = -6e4
"""what stands for FLOOR in 16 bits"""
NOTES = ("gold", "square", "entropy")
PLACED = ("tokens", "labels", "mask", "segments", "positions", "domains")
"""the row itself: what is not the teacher's"""


@dataclass(frozen=True, kw_only=True)
class Form:
    """What is kept of every position, and how.

    Of a position: the `count` most probable tokens with their log-probabilities and that of the rest's mass, or the
    `known` most probable ones so and `count` draws from the rest; and what the whole distribution makes of the label
    (log p(y), |p|^2, entropy), so that every gate works without the teacher. All at temperature 1.
    """

    kind: Literal["top_k", "sampled"] = "top_k"
    count: int = 12
    """most probable tokens of a position, or draws"""
    known: int = 0
    """most probable tokens that are kept beside draws, so that these have to stand for the rest alone"""
    dtype: Literal["float16", "float32"] = "float16"
    """of log-probabilities and notes; in float16 a log-probability is right to a two-thousandth of itself"""
    vocab: int
    length: int
    """tokens of a row"""

    def __post_init__(self) -> None:
        if not 1 <= self.count <= self.vocab:
            raise ValueError(
                f"targets of {self.count} tokens a position; it must be 1 to the vocabulary's {self.vocab}"
            )
        if self.known and (self.kind == "top_k" or not 0 < self.known < self.vocab):
            raise ValueError(
                f"targets of kind {self.kind!r} with known={self.known}; it must be 0, or beside draws (sampled) below "
                f"the vocabulary's {self.vocab}"
            )
        if self.length < 1:
            raise ValueError(f"rows of {self.length} tokens; it must be at least 1")

    @property
    def told(self) -> int:
        """Tokens of a position whose log-probabilities are kept."""
        return self.count if self.kind == "top_k" else self.known

    @property
    def id_bytes(self) -> int:
        """Bytes that a token id takes."""
        return next(size for size in (1, 2, 3, 4) if self.vocab <= 256**size)

    @property
    def fields(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name, stored dtype (`id` for token ids) and shape of the arrays of a row, in the order they are written."""
        t, n = self.length, self.count if self.kind == "top_k" else self.known + self.count
        rows = {
            "tokens": ("id", (t,)), "labels": ("id", (t,)), "mask": ("uint8", (t,)), "segments": ("uint16", (t,)),
            "positions": ("uint32", (t,)), "domains": ("uint16", (t,)), "ids": ("id", (t, n)),
        }  # fmt: skip
        if self.told:
            rows |= {"log_probs": (self.dtype, (t, self.told)), "rest": (self.dtype, (t,))}
        return rows | {name: (self.dtype, (t,)) for name in NOTES} | {"top": ("id", (t,))}

    @property
    def record_bytes(self) -> int:
        """Bytes of a row before compression."""
        return sum(self._size(dtype) * int(np.prod(shape)) for dtype, shape in self.fields.values())

    @property
    def target_bytes(self) -> float:
        """Bytes a token of what the teacher said, tokens and their places aside, before compression."""
        size = sum(self._size(d) * int(np.prod(s)) for name, (d, s) in self.fields.items() if name not in PLACED)
        return size / self.length

    def pack(self, row: dict[str, np.ndarray]) -> bytes:
        """A row's arrays as bytes.

        Raises:
            ValueError: a number does not fit, or what the teacher says is not finite.
        """
        parts = []
        for name, (dtype, shape) in self.fields.items():
            array = np.asarray(row[name])
            assert array.shape == shape, (name, array.shape, shape)
            if dtype == self.dtype:
                if not np.isfinite(array).all():
                    raise ValueError(f"the teacher's {name} is not finite; look at its weights before it is captured")
            else:
                most = self.vocab - 1 if dtype == "id" else np.iinfo(dtype).max
                if array.min() < 0 or array.max() > most:
                    raise ValueError(f"{name} from {array.min()} to {array.max()}; a store takes 0 to {most}")
            parts.append(self._ids(array) if dtype == "id" else array.astype(f"<{np.dtype(dtype).str[1:]}").tobytes())
        return b"".join(parts)

    def unpack(self, raw: bytes) -> dict[str, np.ndarray]:
        """Inverse of `pack`, up to the precision of `dtype`.

        Raises:
            ValueError: these are not the bytes of a row of this form.
        """
        if len(raw) != self.record_bytes:
            raise ValueError(f"a row of {len(raw)} bytes, where {self.record_bytes} were expected")
        row, start = {}, 0
        for name, (dtype, shape) in self.fields.items():
            size = self._size(dtype) * int(np.prod(shape))
            part = np.frombuffer(raw[start : start + size], np.uint8)
            start += size
            row[name] = self._whole(part, shape) if dtype == "id" else part.view(np.dtype(dtype)).reshape(shape)
        if max(int(row[name].max()) for name, (dtype, _) in self.fields.items() if dtype == "id") >= self.vocab:
            raise ValueError(f"a token id beyond the vocabulary of {self.vocab}")
        return row

    def batch(self, rows: Sequence[dict[str, np.ndarray]]) -> Batch:
        """Rows as a batch [b, t] whose targets are a Signal."""
        at = {name: np.stack([row[name] for row in rows]) for name in self.fields}
        wide: dict[str, Any] = {
            name: _wide(at[name]) for name, (dtype, _) in self.fields.items() if dtype == self.dtype
        }
        whole: dict[str, Any] = {name: at[name].astype(np.int32) for name in ("ids", "top")}
        judged = Belief(gold=wide["gold"], square=wide["square"], entropy=wide["entropy"], top=whole["top"])
        known = {"ids": whole["ids"], "judged": judged, "vocab": self.vocab}
        if self.told:  # 16 bits leave a total that is not quite 1, which would pull at the student
            total = np.logaddexp(np.logaddexp.reduce(wide["log_probs"], axis=-1), wide["rest"])
            best: Any = np.maximum(wide["log_probs"] - total[..., None], FLOOR)
            rest: Any = np.maximum(wide["rest"] - total, FLOOR)
        else:
            best, rest = np.zeros((*at["top"].shape, 0), np.float32), np.zeros(at["top"].shape, np.float32)
        if self.kind == "top_k":
            targets: Any = TopK(log_probs=best, rest=rest, **known)
        else:
            targets = self._drawn(best, rest, **known)
        kept: Any = {name: at[name].astype(np.int32) for name in PLACED}
        return Batch(**(kept | {"mask": at["mask"] > 0}), targets=targets)

    def rows(self, batch: Batch, signal: TopK | Sampled) -> list[dict[str, np.ndarray]]:
        """A batch [b, t] on the host and what the teacher says of it, row by row."""
        domains = np.zeros_like(batch.segments) if batch.domains is None else batch.domains
        arrays: dict[str, Any] = {
            "tokens": batch.tokens, "labels": batch.labels, "mask": batch.mask, "segments": batch.segments,
            "positions": batch.positions, "domains": domains, "ids": signal.ids, "top": signal.judged.top,
        }  # fmt: skip
        arrays |= {name: vars(signal.judged)[name] for name in NOTES}
        if isinstance(signal, TopK):
            arrays |= {"log_probs": signal.log_probs, "rest": signal.rest}
        else:  # the order of draws says nothing, and sorted they compress
            ids, rest = np.array(signal.ids), np.sum(signal.weights[..., self.known :], axis=-1)
            ids[..., self.known :].sort(axis=-1)
            arrays |= {"ids": ids, "log_probs": signal.log_probs[..., : self.known]}
            arrays |= {"rest": np.log(np.maximum(rest, np.finfo(np.float32).tiny))}
        floats = {"log_probs", "rest", *NOTES}
        host = {name: np.asarray(array) for name, array in arrays.items()}
        host = {name: np.maximum(array, LEAST) if name in floats else array for name, array in host.items()}
        return [{name: array[b] for name, array in host.items()} for b in range(len(host["tokens"]))]

    def coarsen(self, signal: Projected | Dense, batch: Batch, keys: Array) -> TopK | Sampled:
        """What is kept of a teacher's word on a batch [b, t], a piece of the time axis at a time; traceable.

        Draws follow from a key for each row, so that it does not matter which rows are captured together.
        """

        def piece(start: Array, size: int) -> TopK | Sampled:
            part, here = signal.slice(start, size), _labels(batch, start, size)
            if self.kind == "top_k":
                return top_k(part, here, self.count)
            drawn = jax.vmap(
                lambda logits, labels, key: draw(Dense(logits[None]), labels[None], self.count, key, self.known)
            )
            rows = drawn(part.logits, here, jax.vmap(jax.random.fold_in, (0, None))(keys, start))
            return jax.tree.map(lambda x: rearrange(x, "b one ... -> (b one) ..."), rows)

        pieces = self._by_pieces(piece)
        return jax.tree.map(lambda x: rearrange(x, "p b t ... -> b (p t) ..."), pieces)

    def distance(self, signal: Projected | Dense, batch: Batch) -> Float[Array, ""]:
        """Largest difference between what a batch [b, t] has of its teacher and what the teacher says; traceable.

        Of the probabilities of the label and of the first choice, the sum of squares, the entropy (as a share of the
        largest there is), and, of the most probable tokens, their probabilities and the mass beside them. Draws are for
        `Capture.verify`.
        """
        said: Any = batch.targets

        def piece(start: Array, size: int) -> Float[Array, ""]:
            part, here = signal.slice(start, size), _labels(batch, start, size)
            kept, fresh = said.slice(start, size), part.belief(here)
            pairs = [(jnp.exp(fresh.gold), jnp.exp(kept.judged.gold)), (fresh.square, kept.judged.square)]
            pairs += [(fresh.entropy / np.log(self.vocab), kept.judged.entropy / np.log(self.vocab))]
            whole = part.log_probs(jnp.float32(1.0))
            choice = jnp.take_along_axis(whole, kept.judged.top[..., None], axis=-1)[..., 0]
            pairs += [(jnp.exp(whole.max(-1)), jnp.exp(choice))]
            if self.told:
                known = jnp.take_along_axis(whole, kept.ids[..., : self.told], axis=-1)
                rest = jnp.exp(kept.rest) if isinstance(kept, TopK) else kept.weights[..., self.told :].sum(-1)
                pairs += [(jnp.exp(known), jnp.exp(kept.log_probs[..., : self.told]))]
                pairs += [(jnp.exp(top_k(part, here, self.told).rest), rest)]
            return jnp.stack([jnp.abs(one - other).max() for one, other in pairs]).max()

        return self._by_pieces(piece).max()

    def _drawn(self, best: np.ndarray, rest: np.ndarray, ids: Any, judged: Belief, vocab: int) -> Sampled:
        """Draws [b, t, n] that stand for the mass exp(rest), after those whose log-probabilities are known.

        What a draw's log-probability is in expectation is known, and exact: what the known leave of minus the entropy.
        """
        left = -judged.entropy - np.sum(np.exp(best) * best, axis=-1)
        mean = np.clip(left / np.maximum(np.exp(rest), np.finfo(np.float32).tiny), FLOOR, np.minimum(rest, 0.0))
        shape = (*rest.shape, self.count)
        weights = np.concatenate([np.exp(best), np.broadcast_to(np.exp(rest)[..., None] / self.count, shape)], axis=-1)
        log_probs = np.concatenate([best, np.broadcast_to(mean[..., None], shape)], axis=-1)
        return Sampled(ids=ids, weights=weights, log_probs=log_probs, judged=judged, vocab=vocab)  # pyright: ignore[reportArgumentType]

    def _by_pieces(self, piece: Callable[[Array, int], Any]) -> Any:
        size = max(size for size in range(1, min(self.length, 64) + 1) if self.length % size == 0)
        return jax.lax.map(lambda start: piece(start, size), jnp.arange(0, self.length, size))

    def _size(self, dtype: str) -> int:
        return self.id_bytes if dtype == "id" else np.dtype(dtype).itemsize

    def _ids(self, ids: np.ndarray) -> bytes:
        octets = ids.astype("<u4").reshape(-1, 1).view(np.uint8)  # numpy: bytes of an integer, low ones first
        return octets[:, : self.id_bytes].tobytes()

    def _whole(self, part: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        octets = np.zeros((int(np.prod(shape)), 4), np.uint8)
        octets[:, : self.id_bytes] = part.reshape(-1, self.id_bytes)
        return octets.view("<u4").reshape(shape)


def _labels(batch: Batch, start: Array, size: int) -> Int[Array, "b t"]:
    """Of a piece; 0 where they do not count."""
    return jax.lax.dynamic_slice_in_dim(jnp.where(batch.mask, batch.labels, 0), start, size, axis=1)


def _wide(values: np.ndarray) -> np.ndarray:
    wide = values.astype(np.float32)
    return np.where(wide <= LEAST, np.float32(FLOOR), wide)
