"""Divergences and gates as their papers have them, in float64 numpy, one position at a time."""

import numpy as np

FLOOR = -1e30


def log_softmax(logits, temperature=1.0):
    """Log-probabilities; a token at -inf has FLOOR."""
    scaled = np.asarray(logits, np.float64) / temperature
    top = scaled.max()
    return np.maximum(scaled - top - np.log(np.exp(scaled - top).sum()), FLOOR)


def kl(p, q):
    """KL of two log-distributions."""
    return (np.exp(p) * (p - q)).sum()


def mix(p, q, share):
    with np.errstate(divide="ignore"):
        m = np.log(share * np.exp(p) + (1 - share) * np.exp(q))
    # Where both are too small for float64, the larger of the two scaled logarithms.
    return np.where(np.isfinite(m), m, np.maximum(np.log(share) + p, np.log(1 - share) + q))


def forward_kl(p, q):
    return kl(p, q)


def reverse_kl(p, q):
    return kl(q, p)


def jensen_shannon(p, q, beta=0.5, normalise=False):
    m = mix(p, q, beta)
    value = beta * kl(p, m) + (1 - beta) * kl(q, m)
    return value / (beta * (1 - beta)) if normalise else value


def skew_kl(p, q, share=0.1):
    return kl(p, mix(p, q, share))


def skew_reverse_kl(p, q, share=0.1):
    return kl(q, mix(p, q, 1 - share))


def alpha_beta(p, q, a=0.2, b=0.7):
    p, q = np.exp(p), np.exp(q)
    terms = p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)
    return -terms.sum() / (a * b)


def total_variation(p, q):
    return 0.5 * np.abs(np.exp(p) - np.exp(q)).sum()


def adaptive_kl(p, q, mass=0.5):
    order = np.argsort(-p, kind="stable")
    before = np.cumsum(np.exp(p[order])) - np.exp(p[order])
    head = np.zeros(len(p), bool)
    head[order[before < mass]] = True
    gap = np.abs(np.exp(p) - np.exp(q))
    share = gap[head].sum() / gap.sum() if gap.sum() > 0 else 0.5
    return share * kl(p, q) + (1 - share) * kl(q, p), share


def todi(p, q):
    """The value, and the weights that carry no gradient."""
    w = 1 / (1 + np.exp(np.clip(q - p, -700, 700)))
    return (w * np.exp(p) * (p - q) + (1 - w) * np.exp(q) * (q - p)).sum(), w


def unit(x):
    """A state by its root mean square, with the millionth that keeps a state of zeros."""
    return x / np.sqrt((x**2).mean() + 1e-6)


def squared(u, v):
    return ((u - v) ** 2).mean()


def angle(u, v):
    return 1 - (unit(u) * v).mean()


def hidden(distance, student, teacher, maps, mask):
    """Mean over pairs and positions that count."""
    values = [
        distance(unit(student[n][b, t]) @ maps[n], unit(teacher[n][b, t]))
        for n in range(len(maps))
        for b, t in zip(*np.nonzero(mask), strict=True)
    ]
    return np.mean(values)


def routing(student, teacher, mask):
    """Mean over layers and positions that count of the KL of softmaxes."""
    places = list(zip(*np.nonzero(mask), strict=True))
    return np.mean(
        [
            kl(log_softmax(p[b, t]), log_softmax(q[b, t]))
            for p, q in zip(teacher, student, strict=True)
            for b, t in places
        ]
    )


def sampled_reverse_kl(p, q, labels, discount=0.0, centred=False):
    """Of one completion, p and q [t, v]: the values r_t, and the gradient in the student's logits [t, v]."""
    steps = np.arange(len(labels))
    ratio = q[steps, labels] - p[steps, labels]
    slope = np.zeros_like(q)
    for t in steps:
        advantage = sum(discount ** (later - t) * ratio[later] for later in steps[t:])
        advantage -= kl(q[t], p[t]) if centred else 0.0
        slope[t] = advantage * (np.eye(q.shape[1])[labels[t]] - np.exp(q[t]))
    return ratio, slope
