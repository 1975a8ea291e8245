"""The distillation loss written out in float64 numpy, a position at a time, to check the real one against."""

import jax
import jax.numpy as jnp
import numpy as np

from losses import Dense, Place, Projected


def softmax(logits, temperature=1.0):
    scaled = np.asarray(logits, np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return weights / weights.sum()


def kl(p, q):
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def brier(p, label):
    return 2 * p[label] - (p**2).sum()


def case(key, b=2, t=13, d=5, v=11, documents=True, dtype=jnp.float32):
    """Arguments of Distill but the progress: a ragged mask, and rows of two documents and padding."""
    keys = jax.random.split(key, 6)

    def normal(key, *shape):
        return jax.random.normal(key, shape).astype(dtype)

    column = jnp.arange(t)[None] + jnp.zeros((b, 1), jnp.int32)
    segments = jnp.where(column < t // 3, 1, jnp.where(column < t - 2, 2, 0)) if documents else column * 0 + 1
    return {
        "hidden": normal(keys[0], b, t, d),
        "head": normal(keys[1], d, v),
        "signal": Projected(normal(keys[2], b, t, d + 2), normal(keys[3], d + 2, v)),
        "labels": jax.random.randint(keys[4], (b, t), 0, v),
        "mask": (jax.random.uniform(keys[5], (b, t)) < 0.7) & (segments > 0),
        "segments": segments,
    }


def call(loss, hidden, head, signal, labels, mask, segments, progress=0.0, memory=()):
    """The loss and its metrics, of one domain."""
    return loss(hidden, head, signal, labels, Place(mask, segments, jnp.zeros_like(segments), memory), progress)[:2]


def value_and_gradients(loss, progress=0.0, **arguments):
    """Mean loss, its gradients in hidden and head, and the metrics' means."""

    def mean(hidden, head):
        tally, metrics = call(loss, **(arguments | {"hidden": hidden, "head": head}), progress=progress)
        return tally.mean(), metrics

    (value, metrics), gradients = jax.jit(jax.value_and_grad(mean, (0, 1), has_aux=True))(
        arguments["hidden"], arguments["head"]
    )
    return value, gradients, {name: tally.mean() for name, tally in metrics.items()}


def as_dense(signal):
    return Dense(jnp.einsum("btd,dv->btv", signal.hidden, signal.head))


def assert_close(one, other, rtol=2e-5, atol=2e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), one, other)
