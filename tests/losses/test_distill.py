from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import Constant, CrossEntropy, Dense, Distill, Evidence, Gate, Linear, NoGate, TeacherGold, Window
from losses.gate import Place
from tests.losses.worked import as_dense, assert_close, brier, call, case, kl, softmax, value_and_gradients

PLAIN = Distill(gate=NoGate())
NEAR = Evidence(scope=Window(size=3))  # within a piece of 4: a longer window would make the piece longer


def by_hand(arguments, alpha, temperature, window):
    """Mean loss and weights of a case with Evidence(kappa=.03, margin=-.03, window)."""
    teacher = np.asarray(as_dense(arguments["signal"]).logits, np.float64)
    student = np.einsum("btd,dv->btv", *(np.asarray(arguments[name], np.float64) for name in ("hidden", "head")))
    labels, mask, segments = (np.asarray(arguments[name]) for name in ("labels", "mask", "segments"))
    advantage = np.zeros(labels.shape)
    for b, t in np.ndindex(labels.shape):
        y = labels[b, t]
        advantage[b, t] = brier(softmax(teacher[b, t]), y) - brier(softmax(student[b, t]), y)
    total, weights = 0.0, np.zeros(labels.shape)
    for b, t in zip(*np.nonzero(mask), strict=True):
        near = [
            s
            for s in range(max(0, t - window), min(labels.shape[1], t + window + 1))
            if mask[b, s] and segments[b, s] == segments[b, t]
        ]
        weights[b, t] = alpha / (1 + np.exp(-(advantage[b, near].mean() + 0.03) / 0.03))
        soft = temperature**2 * kl(softmax(teacher[b, t], temperature), softmax(student[b, t], temperature))
        hard = -np.log(softmax(student[b, t])[labels[b, t]])
        total += weights[b, t] * soft + (1 - weights[b, t]) * hard
    return total / mask.sum(), weights[mask].mean()


@pytest.mark.parametrize("chunk", [None, 4])
def test_the_loss_is_the_one_written_out_in_float64(key, chunk):
    arguments = case(key)
    loss = Distill(alpha=Constant(0.8), temperature=Constant(1.5), gate=Evidence(scope=Window(size=3)), chunk=chunk)
    value, _, metrics = value_and_gradients(loss, **arguments)
    total, weight = by_hand(arguments, 0.8, 1.5, 3)
    np.testing.assert_allclose(value, total, rtol=1e-5)
    np.testing.assert_allclose(metrics["alpha"], weight, rtol=1e-4)


@pytest.mark.parametrize("chunk", [None, 4])
def test_the_gradient_is_the_students_word_minus_the_mixed_target(key, chunk):
    arguments = case(key, b=1, documents=False) | {"head": jnp.eye(11)}
    arguments["hidden"] = jax.random.normal(key, (1, 13, 11))
    loss = Distill(alpha=Constant(0.3), gate=NoGate(), chunk=chunk)
    _, (slope, _), _ = value_and_gradients(loss, **arguments)
    q = jax.nn.softmax(arguments["hidden"])
    p = jnp.exp(arguments["signal"].log_probs(jnp.float32(1.0)))
    target = 0.3 * p + 0.7 * jax.nn.one_hot(arguments["labels"], 11)
    mask = arguments["mask"][..., None]
    assert_close(slope, jnp.where(mask, q - target, 0.0) / mask.sum())


@pytest.mark.parametrize("chunk", [None, 4])
def test_alpha_zero_is_cross_entropy_exactly(key, chunk):
    arguments = case(key)
    soft_off = value_and_gradients(Distill(alpha=Constant(0.0), gate=NEAR, chunk=chunk), **arguments)
    no_teacher = value_and_gradients(Distill(chunk=chunk), **(arguments | {"signal": None}))
    jax.tree.map(np.testing.assert_array_equal, soft_off[:2], no_teacher[:2])
    np.testing.assert_allclose(no_teacher[0], no_teacher[2]["hard"], rtol=1e-6)


def test_alpha_one_without_a_gate_is_the_divergence_alone(key):
    value, _, metrics = value_and_gradients(PLAIN, **case(key))
    np.testing.assert_allclose(value, metrics["soft"], rtol=1e-6)


def test_the_metrics_say_what_happened(key):
    arguments = case(key)
    _, _, metrics = value_and_gradients(PLAIN, **arguments)
    mask, labels = np.asarray(arguments["mask"]), np.asarray(arguments["labels"])
    teacher = np.asarray(as_dense(arguments["signal"]).logits)
    student = np.einsum("btd,dv->btv", arguments["hidden"], arguments["head"])
    gold = np.mean([-np.log(softmax(z)[y]) for z, y in zip(teacher[mask], labels[mask], strict=True)])
    np.testing.assert_allclose(metrics["teacher_hard"], gold, rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], (student.argmax(-1) == labels)[mask].mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["agreement"], (student.argmax(-1) == teacher.argmax(-1))[mask].mean(), rtol=1e-6)
    scores = [
        brier(softmax(p), y) - brier(softmax(q), y)
        for p, q, y in zip(teacher[mask], student[mask], labels[mask], strict=True)
    ]
    np.testing.assert_allclose(metrics["evidence"], np.mean(scores), rtol=1e-4)


def test_without_a_teacher_nothing_is_said_of_one(key):
    _, _, metrics = value_and_gradients(PLAIN, **(case(key) | {"signal": None}))
    assert set(metrics) == {"loss", "hard", "accuracy"}


def test_the_z_loss_is_in_the_loss_and_not_in_the_reported_cross_entropy(key):
    arguments = case(key) | {"signal": None}
    plain = value_and_gradients(PLAIN, **arguments)
    weighted = value_and_gradients(replace(PLAIN, hard=CrossEntropy(z_weight=0.1)), **arguments)
    assert weighted[0] > plain[0]
    np.testing.assert_allclose(weighted[2]["hard"], plain[2]["hard"], rtol=1e-6)


def test_a_student_that_copies_its_input_has_a_high_hard_loss():
    # Labels come shifted: at position t stands the token that follows. Copying the token at t is no prediction.
    tokens = jnp.array([[0, 1, 2, 3, 4, 5, 6, 7, 0]])
    arguments = {
        "head": jnp.eye(8) * 20.0,
        "signal": None,
        "labels": tokens[:, 1:],
        "mask": jnp.ones((1, 8), bool),
        "segments": jnp.ones((1, 8), jnp.int32),
    }
    copies, _, _ = value_and_gradients(PLAIN, hidden=jax.nn.one_hot(tokens[:, :-1], 8), **arguments)
    predicts, _, _ = value_and_gradients(PLAIN, hidden=jax.nn.one_hot(tokens[:, 1:], 8), **arguments)
    assert copies > 19.0 and predicts < 1e-3


def test_a_schedule_is_read_at_the_progress(key):
    arguments = case(key)
    loss = Distill(alpha=Linear(start=1.0, end=0.0), gate=NoGate())
    for progress, alpha in ((0.0, 1.0), (0.5, 0.5), (jnp.float32(1.0), 0.0)):
        value, _, metrics = value_and_gradients(loss, progress=progress, **arguments)
        np.testing.assert_allclose(value, alpha * metrics["soft"] + (1 - alpha) * metrics["hard"], rtol=1e-5)


@pytest.mark.parametrize("gate", [NoGate(), Evidence()])
def test_another_teacher_gives_another_gradient(key, gate):
    arguments = case(key)
    other = arguments | {"signal": case(jax.random.key(1))["signal"]}
    one, two = (value_and_gradients(Distill(gate=gate), **a)[1][0] for a in (arguments, other))
    assert jnp.abs(one - two).max() > 1e-3


@pytest.mark.parametrize("chunk", [None, 4])
def test_no_gradient_enters_the_teacher(key, chunk):
    arguments = case(key)

    def total(signal):
        return call(Distill(gate=NEAR, chunk=chunk), **(arguments | {"signal": signal}))[0].total

    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0.0), jax.grad(total)(arguments["signal"]))


@pytest.mark.parametrize("chunk", [None, 4])
def test_a_padded_vocabulary_changes_nothing(key, chunk):
    arguments = case(key)
    v, excluded = 11, jnp.full((2, 13, 3), -jnp.inf)
    # A column of infinities times a positive feature: the student's padded logits are -inf as well.
    one = jnp.ones((2, 13, 1))
    arguments["hidden"] = jnp.concatenate([arguments["hidden"], one], -1)
    arguments["head"] = jnp.concatenate([arguments["head"], jnp.zeros((1, v))], 0)
    arguments["signal"] = as_dense(arguments["signal"])
    head = jnp.pad(arguments["head"], ((0, 0), (0, 3))).at[-1, v:].set(-1e38)
    padded = arguments | {"head": head, "signal": Dense(jnp.concatenate([arguments["signal"].logits, excluded], -1))}
    want, got = (value_and_gradients(Distill(gate=NEAR, chunk=chunk), **a) for a in (arguments, padded))
    assert_close(want[0], got[0])
    assert_close(want[1][0], got[1][0])
    assert_close(want[1][1], got[1][1][:, :v])
    np.testing.assert_array_equal(got[1][1][:, v:], 0.0)


def test_a_loss_in_bfloat16_is_close_and_reported_in_float32(key):
    narrow = case(key, dtype=jnp.bfloat16)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, narrow)
    for chunk in (None, 4):
        value, slopes, _ = value_and_gradients(Distill(gate=NEAR, chunk=chunk), **narrow)
        want, want_slopes, _ = value_and_gradients(Distill(gate=NEAR, chunk=chunk), **wide)
        assert value.dtype == jnp.float32 and {g.dtype for g in slopes} == {jnp.dtype(jnp.bfloat16)}
        np.testing.assert_allclose(value, want, rtol=1e-4)
        assert_close([g.astype(jnp.float32) for g in slopes], list(want_slopes), rtol=0.05, atol=2e-3)


@dataclass(frozen=True)
class Gold(Gate):
    """The probability that the teacher gives the label."""

    def __call__(self, look, place):
        return jnp.exp(look.teacher.gold)


@dataclass(frozen=True)
class Mean(Gate):
    """The teacher's mean probability of a label, over everything that it is shown."""

    def __call__(self, look, place):
        return jnp.full(place.mask.shape, jnp.exp(look.teacher.gold).mean())


def test_a_gate_is_shown_finite_numbers_where_labels_do_not_count(key):
    arguments = case(key)
    arguments["labels"] = jnp.where(arguments["mask"], arguments["labels"], -100)
    value, slopes, _ = value_and_gradients(Distill(gate=Mean()), **arguments)
    assert jnp.isfinite(value) and all(jnp.isfinite(g).all() for g in slopes)


@dataclass(frozen=True)
class Squared:
    """Squared distance of the probabilities."""

    def __call__(self, signal, logits, temperature):
        return jnp.sum((jnp.exp(signal.log_probs(temperature)) - jax.nn.softmax(logits / temperature)) ** 2, axis=-1)


def test_a_gate_and_a_divergence_of_ones_own_need_no_change_here(key):
    arguments = case(key)
    loss = Distill(soft=Squared(), gate=Gold())
    value, slopes, metrics = value_and_gradients(loss, **arguments)
    gold = jnp.exp(arguments["signal"].belief(arguments["labels"]).gold)
    np.testing.assert_allclose(metrics["alpha"], gold[arguments["mask"]].mean(), rtol=1e-5)
    assert_close((value, slopes), value_and_gradients(replace(loss, chunk=4), **arguments)[:2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": Constant(1.5)}, "must stay within 0 and 1"),
        ({"alpha": Linear(start=0.0, end=-1.0)}, "must stay within 0 and 1"),
        ({"temperature": Constant(0.0)}, "must stay above 0"),
        ({"chunk": 0}, "at least 1 position"),
    ],
)
def test_an_impossible_setting_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Distill(**change)


def test_a_teacher_of_another_vocabulary_is_refused(key):
    arguments = case(key)
    with pytest.raises(ValueError, match="teacher's vocabulary has 12 tokens and the student's 11"):
        call(Distill(), **(arguments | {"signal": Dense(jnp.zeros((2, 13, 12)))}))


def test_what_is_logged_of_a_teacher_is_how_far_it_is_ahead_and_how_its_evidence_is_spread(key):
    arguments = case(key)
    _, metrics = call(Distill(gate=NoGate()), **arguments)
    counted, labels = np.asarray(arguments["mask"]), np.asarray(arguments["labels"])
    teacher = np.asarray(jax.nn.log_softmax(as_dense(arguments["signal"]).logits), np.float64)
    student = np.asarray(jax.nn.log_softmax(arguments["hidden"] @ arguments["head"]), np.float64)
    gold = [np.take_along_axis(x, labels[..., None], -1)[..., 0][counted] for x in (teacher, student)]
    square = [(np.exp(x) ** 2).sum(-1)[counted] for x in (teacher, student)]
    evidence = (2 * np.exp(gold[0]) - square[0]) - (2 * np.exp(gold[1]) - square[1])
    mean = {name: float(tally.mean()) for name, tally in metrics.items()}
    np.testing.assert_allclose(mean["ahead"], (gold[0] - gold[1]).mean(), rtol=1e-4)
    np.testing.assert_allclose(mean["ahead"], mean["hard"] - mean["teacher_hard"], rtol=1e-4)
    np.testing.assert_allclose(mean["evidence"], evidence.mean(), rtol=1e-4)
    for percent in (10, 50, 90):
        np.testing.assert_allclose(mean[f"evidence_p{percent}"], np.quantile(evidence, percent / 100), rtol=1e-4)


def test_the_weight_of_a_domain_is_the_mean_over_its_labels_that_count(key):
    arguments = case(key)
    mask, segments = arguments["mask"], arguments["segments"]
    domains = jnp.arange(mask.size).reshape(mask.shape) % 3  # of which the third has no name
    asked = Distill(alpha=Constant(0.7), gate=TeacherGold())
    place = Place(mask, segments, domains, (), ("even", "odd"))
    signal = arguments["signal"]
    _, found, _ = asked(arguments["hidden"], arguments["head"], signal, arguments["labels"], place, 0.0)
    weights = 0.7 * np.exp(np.asarray(as_dense(signal).belief(jnp.where(mask, arguments["labels"], 0)).gold))
    for number, name in enumerate(place.names):
        counted = np.asarray(mask & (domains == number))
        assert 0 < counted.sum() < np.asarray(mask).sum()
        np.testing.assert_allclose(found[f"alpha_{name}"].mean(), weights[counted].mean(), rtol=1e-5)
    np.testing.assert_allclose(found["alpha"].mean(), weights[np.asarray(mask)].mean(), rtol=1e-5)
