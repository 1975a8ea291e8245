"""Policy-gradient losses as their papers have them, in float64 numpy, a completion and a token at a time.

Each takes `logp`, which is differentiated, and `fixed`, the same numbers where a paper holds them: its stop-gradient.
`behaviour` drew the tokens, `proximal` is the learner at the start of the update. They are losses, so the papers'
negatives. Log-ratios are bounded at 20, which no paper says and float32 needs. They take complex numbers, and compare
the real parts.
"""

import numpy as np


def within(low, x, high):
    return low if x.real < low else high if x.real > high else x


def least(*values):
    return min(values, key=lambda x: x.real)


def ratio(upper, lower):
    return np.exp(within(-20.0, upper - lower, 20.0))


def ppo(rho, advantage, low, high):
    return least(rho * advantage, within(1.0 - low, rho, 1.0 + high) * advantage)


def rows(mask):
    return [row for row in range(len(mask)) if mask[row].any()]


def own(mask, row):
    return np.flatnonzero(mask[row])


def grpo(logp, fixed, proximal, behaviour, advantages, mask):
    total = 0.0
    for i in rows(mask):
        tokens = own(mask, i)
        terms = [ppo(ratio(logp[i, t], behaviour[i, t]), advantages[i], 0.2, 0.2) for t in tokens]
        total += sum(terms) / len(tokens)
    return -total / len(rows(mask))


def dr_grpo(logp, fixed, proximal, behaviour, advantages, mask, length=9):
    total = 0.0
    for i in rows(mask):
        total += sum(ppo(ratio(logp[i, t], behaviour[i, t]), advantages[i], 0.2, 0.2) for t in own(mask, i))
    return -total / (len(rows(mask)) * length)


def dapo(logp, fixed, proximal, behaviour, advantages, mask):
    terms = [
        ppo(ratio(logp[i, t], behaviour[i, t]), advantages[i], 0.2, 0.28) for i in rows(mask) for t in own(mask, i)
    ]
    return -sum(terms) / len(terms)


def gspo(logp, fixed, proximal, behaviour, advantages, mask):
    total = 0.0
    for i in rows(mask):
        steps = [within(-20.0, logp[i, t] - behaviour[i, t], 20.0) for t in own(mask, i)]
        total += ppo(np.exp(sum(steps) / len(steps)), advantages[i], 3e-4, 4e-4)
    return -total / len(rows(mask))


def cispo(logp, fixed, proximal, behaviour, advantages, mask):
    terms = [
        min(ratio(fixed[i, t], behaviour[i, t]), 5.0) * advantages[i] * logp[i, t]
        for i in rows(mask)
        for t in own(mask, i)
    ]
    return -sum(terms) / len(terms)


def decoupled_ppo(logp, fixed, proximal, behaviour, advantages, mask, length=9):
    total = 0.0
    for i in rows(mask):
        for t in own(mask, i):
            weight = ratio(proximal[i, t], behaviour[i, t])
            weight = min(weight, 2.0) if 0.2 <= weight <= 5.0 else 0.0
            total += weight * ppo(ratio(logp[i, t], proximal[i, t]), advantages[i], 0.2, 0.28)
    return -total / (len(rows(mask)) * length)


def slope(loss, logp, *rest):
    """The gradient of a loss in its first argument, where its stop-gradients hold.

    By a step along the imaginary axis, which subtracts nothing: a loss of 1e9 does not hide a slope of 1e-3.
    """
    found = np.zeros(logp.shape)
    for at in np.ndindex(logp.shape):
        moved = logp.astype(complex)
        moved[at] += 1e-30j
        found[at] = loss(moved, logp, *rest).imag / 1e-30
    return found


def dpo(chosen, rejected, references, beta, normalised, nll, smoothing, ipo):
    """Mean over pairs; chosen and rejected are lists of the log-probabilities of a completion's tokens."""
    total = 0.0
    for good, bad, (good_reference, bad_reference) in zip(chosen, rejected, references, strict=True):
        up, down = sum(good) - good_reference, sum(bad) - bad_reference
        margin = up / len(good) - down / len(bad) if normalised else up - down

        def loss(m):
            return (m - 1 / (2 * beta)) ** 2 if ipo else np.log1p(np.exp(-beta * m))

        total += (1 - smoothing) * loss(margin) + smoothing * loss(-margin) - nll * sum(good) / len(good)
    return total / len(chosen)
