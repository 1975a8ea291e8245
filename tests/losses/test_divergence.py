import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import Dense, Divergence, ForwardKL
from tests.losses.worked import kl, softmax

ONE = jnp.float32(1.0)


def gradient(teacher, student, temperature):
    def total(student):
        return ForwardKL()(Dense(teacher), student, jnp.float32(temperature)).sum()

    return jax.grad(total)(student)


def test_forward_kl_of_a_coin_is_what_one_works_out_by_hand():
    # teacher (3/4, 1/4), student (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2)
    value = ForwardKL()(Dense(jnp.log(jnp.array([[[3.0, 1.0]]]))), jnp.zeros((1, 1, 2)), ONE)
    np.testing.assert_allclose(value, [[0.75 * np.log(1.5) + 0.25 * np.log(0.5)]], rtol=1e-6)


def test_forward_kl_of_a_distribution_from_itself_is_zero(key):
    logits = jax.random.normal(key, (2, 3, 17)) * 5.0
    np.testing.assert_allclose(ForwardKL()(Dense(logits), logits, jnp.float32(2.0)), 0.0, atol=1e-6)


def test_forward_kl_weighs_by_the_teacher_and_not_by_the_student():
    sharp, flat = jnp.array([[[4.0, 0.0, 0.0]]]), jnp.zeros((1, 1, 3))
    p, q = softmax(sharp[0, 0]), softmax(flat[0, 0])
    np.testing.assert_allclose(ForwardKL()(Dense(sharp), flat, ONE), [[kl(p, q)]], rtol=1e-5)
    assert abs(kl(p, q) - kl(q, p)) > 0.1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_gradient_is_the_temperature_times_the_difference_of_probabilities(key, temperature):
    teacher, student = jax.random.normal(key, (2, 1, 1, 7))
    p, q = softmax(teacher[0, 0], temperature), softmax(student[0, 0], temperature)
    np.testing.assert_allclose(gradient(teacher, student, temperature)[0, 0], temperature * (q - p), atol=1e-6)


def test_the_size_of_the_gradient_does_not_fall_with_a_high_temperature(key):
    teacher, student = jax.random.normal(key, (2, 1, 1, 7))
    sizes = [float(jnp.linalg.norm(gradient(teacher, student, t))) for t in (20.0, 40.0, 80.0)]
    assert max(sizes) / min(sizes) < 1.1


def test_a_token_that_both_exclude_changes_nothing(key):
    teacher, student = jax.random.normal(key, (2, 1, 2, 7))
    excluded = jnp.full((1, 2, 3), -jnp.inf)
    padded = [jnp.concatenate([x, excluded], axis=-1) for x in (teacher, student)]
    np.testing.assert_allclose(ForwardKL()(Dense(padded[0]), padded[1], ONE), ForwardKL()(Dense(teacher), student, ONE))
    np.testing.assert_allclose(gradient(*padded, 1.0)[..., :7], gradient(teacher, student, 1.0), atol=1e-7)
    np.testing.assert_array_equal(gradient(*padded, 1.0)[..., 7:], 0.0)


def test_a_token_that_only_the_teacher_excludes_is_finite_and_pushed_down(key):
    teacher, student = jax.random.normal(key, (2, 1, 1, 7))
    teacher = teacher.at[..., 3].set(-jnp.inf)
    assert jnp.isfinite(ForwardKL()(Dense(teacher), student, ONE)).all()
    slope = gradient(teacher, student, 1.0)
    assert jnp.isfinite(slope).all() and slope[0, 0, 3] > 0


def test_a_small_divergence_of_bfloat16_logits_is_right_to_one_percent(key):
    noise, base = jax.random.normal(key, (2, 1, 64, 50))
    teacher = (1.0 * base).astype(jnp.bfloat16)
    student = (1.0 * base + 0.09 * noise).astype(jnp.bfloat16)
    want = np.mean([kl(softmax(p), softmax(q)) for p, q in zip(teacher[0], student[0], strict=True)])
    entropy = np.mean([-(softmax(p) * np.log(softmax(p))).sum() for p in teacher[0]])
    assert 3e-3 < want < 6e-3 and 3.2 < entropy < 3.7
    got = ForwardKL()(Dense(teacher), student.astype(jnp.float32), ONE).mean()
    np.testing.assert_allclose(got, want, rtol=0.01)


def test_another_divergence_is_any_callable_of_the_same_shape():
    def squared(signal, logits, temperature):
        return jnp.sum((jnp.exp(signal.log_probs(temperature)) - jax.nn.softmax(logits / temperature)) ** 2, -1)

    assert isinstance(squared, Divergence) and isinstance(ForwardKL(), Divergence)
