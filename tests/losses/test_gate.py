import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import Belief, Evidence, Gate, Look, NoGate, Place, Window


def belief(brier):
    """A belief of the given Brier scores: all on the label costs nothing but its square."""
    brier = jnp.asarray(brier, jnp.float32)
    zeros = jnp.zeros_like(brier)
    return Belief(gold=zeros, square=2.0 - brier, entropy=zeros, top=zeros.astype(jnp.int32))


def weigh(gate, advantage, mask=None, segments=None):
    advantage = jnp.asarray(advantage, jnp.float32)
    mask = jnp.ones(advantage.shape, bool) if mask is None else jnp.asarray(mask)
    segments = jnp.ones(advantage.shape, jnp.int32) if segments is None else jnp.asarray(segments)
    place = Place(mask, segments, jnp.zeros_like(segments), gate.init())
    return np.asarray(gate(Look(belief(advantage), belief(0 * advantage), 0 * advantage), place))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_equals_keep_most_of_the_teachers_weight():
    np.testing.assert_allclose(weigh(Evidence(), [[0.0] * 5]), sigmoid(1.0), rtol=1e-6)


def test_a_better_teacher_opens_the_gate_and_a_worse_one_closes_it():
    np.testing.assert_allclose(weigh(Evidence(), [[0.15] * 5]), sigmoid(6.0), rtol=1e-5)
    np.testing.assert_allclose(weigh(Evidence(), [[-0.21] * 5]), sigmoid(-6.0), rtol=1e-4)


def test_a_margin_demands_that_the_teacher_is_clearly_ahead():
    np.testing.assert_allclose(weigh(Evidence(margin=0.06), [[0.0] * 5]), sigmoid(-2.0), rtol=1e-5)


def test_the_mean_is_over_the_window_to_either_side():
    gate = Evidence(kappa=1.0, margin=0.0, scope=Window(size=1))
    want = [np.mean(x) for x in ([0.0, 1.0], [0.0, 1.0, 0.5], [1.0, 0.5, -1.0], [0.5, -1.0])]
    np.testing.assert_allclose(weigh(gate, [[0.0, 1.0, 0.5, -1.0]]), [sigmoid(np.array(want))], rtol=1e-6)


def test_only_labels_that_count_are_averaged():
    gate = Evidence(kappa=1.0, margin=0.0, scope=Window(size=1))
    weights = weigh(gate, [[0.4, 9.0, 0.2]], mask=[[True, False, True]])
    np.testing.assert_allclose(weights, [sigmoid(np.array([0.4, 0.3, 0.2]))], rtol=1e-6)


def test_the_window_does_not_cross_into_the_next_document():
    segments = [[1, 1, 2, 2]]
    before = weigh(Evidence(), [[0.1, 0.1, 0.0, 0.0]], segments=segments)
    after = weigh(Evidence(), [[0.1, 0.1, -0.5, -0.5]], segments=segments)
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert (after[:, 2:] < 0.01).all()


def test_a_window_without_a_label_is_finite():
    assert np.isfinite(weigh(Evidence(), [[0.0, 0.0]], mask=[[False, False]])).all()


def test_the_weight_stays_between_zero_and_one(key):
    weights = weigh(Evidence(kappa=1e-3), jax.random.normal(key, (4, 50)))
    assert (weights >= 0.0).all() and (weights <= 1.0).all()


def test_no_gradient_flows_through_the_gate():
    def total(square):
        student = Belief(gold=-square, square=square, entropy=square, top=jnp.zeros((1, 3), jnp.int32))
        ones = jnp.ones((1, 3), jnp.int32)
        return Evidence()(
            Look(belief([[0.1] * 3]), student, square), Place(ones > 0, ones, ones, Evidence().init())
        ).sum()

    np.testing.assert_array_equal(jax.grad(total)(jnp.full((1, 3), 0.5)), 0.0)


def test_no_gate_is_one_everywhere():
    np.testing.assert_array_equal(weigh(NoGate(), [[0.5, -0.5]]), 1.0)


def test_shipped_gates_are_gates():
    assert isinstance(Evidence(), Gate) and isinstance(NoGate(), Gate)
    assert (Evidence(scope=Window(size=3)).reach, NoGate().reach) == (3, 0)


def test_a_gate_without_width_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        Evidence(kappa=0.0)


def test_a_negative_window_is_refused():
    with pytest.raises(ValueError, match="0 or more tokens"):
        Window(size=-1)
