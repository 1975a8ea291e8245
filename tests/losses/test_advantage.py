"""Advantages of groups, on numbers one can check by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from losses import (
    BatchScaled,
    Centred,
    GroupScaled,
    LeaveOneOut,
    NoClip,
    PolicyLoss,
    ReverseKL,
    TokenMean,
    credited,
    decoupled_ppo,
    informative,
)
from losses.signal import Dense

KINDS = [Centred(), GroupScaled(), BatchScaled(), LeaveOneOut()]
# Two groups; the second has a completion that does not count.
REWARDS = np.array([[1.0, 0.0, 0.0, 3.0], [2.0, 4.0, 6.0, np.nan]])
VALID = np.array([[True] * 4, [True, True, True, False]])


def test_centred_is_above_the_mean_of_the_group():
    np.testing.assert_array_equal(Centred()(REWARDS, VALID), [[0.0, -1.0, -1.0, 2.0], [-2.0, 0.0, 2.0, 0.0]])


def test_group_scaled_divides_by_the_groups_spread():
    spread = np.array([[(6 / 4) ** 0.5], [(8 / 3) ** 0.5]])
    want = np.array([[0.0, -1.0, -1.0, 2.0], [-2.0, 0.0, 2.0, 0.0]]) / (spread + 1e-4)
    np.testing.assert_allclose(GroupScaled()(REWARDS, VALID), want, rtol=1e-12)


def test_batch_scaled_divides_by_one_spread_for_all():
    want = np.array([[0.0, -1.0, -1.0, 2.0], [-2.0, 0.0, 2.0, 0.0]]) / ((14 / 7) ** 0.5 + 1e-4)
    np.testing.assert_allclose(BatchScaled()(REWARDS, VALID), want, rtol=1e-12)


def test_leave_one_out_is_above_the_mean_of_the_others():
    want = [[1 - 3 / 3, 0 - 4 / 3, 0 - 4 / 3, 3 - 1 / 3], [2 - 10 / 2, 4 - 8 / 2, 6 - 6 / 2, 0.0]]
    np.testing.assert_allclose(LeaveOneOut()(REWARDS, VALID), want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_jax_gives_what_numpy_gives(kind):
    one = kind(REWARDS.astype(np.float32), VALID)
    other = jax.jit(kind)(jnp.asarray(REWARDS, jnp.float32), jnp.asarray(VALID))
    assert isinstance(one, np.ndarray) and one.dtype == np.float32 and isinstance(other, jax.Array)
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_rewards_have_advantages_of_exactly_zero(kind, precision):
    rewards = np.repeat(np.array([[0.1], [1 / 3], [7.7]], precision), 7, axis=1)
    assert not np.any(kind(rewards, np.ones((3, 7), bool)))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("kind", KINDS)
def test_a_completion_that_does_not_count_has_no_part_in_any_mean(kind, odd):
    rewards = np.where(VALID, REWARDS, odd)
    np.testing.assert_array_equal(kind(rewards, VALID), kind(np.where(VALID, REWARDS, 0.0), VALID))
    assert kind(rewards, VALID)[1, 3] == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_one_or_none_learns_nothing(kind):
    valid = np.array([[True, False], [False, False]])
    assert not np.any(kind(np.array([[3.0, 1.0], [2.0, np.nan]]), valid))


@pytest.mark.parametrize("kind", KINDS)
def test_an_offset_of_a_groups_rewards_changes_nothing(kind):
    moved = REWARDS + np.array([[8.0], [-16.0]])
    np.testing.assert_allclose(kind(moved, VALID), kind(REWARDS, VALID), rtol=1e-12, atol=1e-12)


def test_a_group_teaches_where_some_completions_solved_the_task_and_some_did_not():
    outcomes = np.array([[1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]], float)
    everyone = np.ones((4, 4), bool)
    assert informative(outcomes, everyone).tolist() == [True, False, False, True]
    assert informative(jnp.asarray(outcomes == 1.0), jnp.asarray(everyone)).tolist() == [True, False, False, True]


def test_a_group_of_which_less_than_half_counts_teaches_nothing():
    outcomes = np.tile([1.0, 0.0, np.nan, np.nan, np.nan], (3, 1))
    counts = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    assert informative(outcomes[:2, :4], counts[:2, :4]).tolist() == [True, True]  # half
    assert informative(outcomes, counts).tolist() == [False, False, False]


def test_a_masked_outcome_does_not_make_a_group_informative():
    outcomes = np.array([[1.0, 1.0, 1.0, 0.0]])
    assert informative(outcomes, np.array([[True, True, True, False]])).tolist() == [False]


def test_a_shaped_reward_is_refused_as_an_outcome():
    with pytest.raises(ValueError, match="outcome is 0.98, and must be 0 or 1.*not the shaped reward"):
        informative(np.array([[1.0, 0.98]]), np.ones((1, 2), bool))


def test_rounding_of_an_outcome_is_neither_refused_nor_taken_for_a_difference():
    assert informative(np.array([[1.0, 1.0 - 5e-7]]), np.ones((1, 2), bool)).tolist() == [False]


def test_credit_is_the_advantage_less_what_the_teacher_dislikes():
    logp, teacher = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.25, 1.0]]))
    found = credited(jnp.array([3.0]), logp, teacher, 2.0)
    np.testing.assert_allclose(found, [[3 - 2 * np.log(2), 3 + 2 * np.log(2)]], rtol=1e-6)


def test_credit_is_bounded_where_the_teacher_excludes_a_token():
    found = credited(jnp.array([[1.0, 2.0]]), jnp.zeros((1, 2)), jnp.full((1, 2), -jnp.inf), 0.5)
    np.testing.assert_array_equal(found, [[1 - 10, 2 - 10]])


def test_no_gradient_enters_the_credit():
    slope = jax.grad(lambda x: credited(jnp.zeros(1), x, jnp.zeros((1, 2)), 1.0).sum())(jnp.ones((1, 2)))
    assert not np.any(slope)


STUDENT, TEACHER = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)


def expected(credit):
    """The gradient in the student's logits, averaged over what it might draw, of what `credit` makes of log q and p."""
    q, p = (jax.nn.log_softmax(x)[:, None] for x in (STUDENT, TEACHER))

    def mean(logits):
        logp = jax.nn.log_softmax(logits)[:, None]
        chances = jnp.exp(q) * credit(logp, p)  # the loss is linear in advantages
        return PolicyLoss(aggregation=TokenMean(), clip=NoClip())(logp, q, chances, q == q)[0].total

    return jax.jit(jax.grad(mean))(jnp.asarray(STUDENT))


def test_over_what_might_be_drawn_the_credits_gradient_is_that_of_the_reverse_kl():
    def kl(logits):
        return ReverseKL()(Dense(jnp.asarray(TEACHER)[None, None]), logits[None, None], jnp.float32(1.0)).sum()

    found = expected(lambda logp, p: credited(jnp.zeros(5), logp, p, 0.7))
    np.testing.assert_allclose(found, 0.7 * jax.jit(jax.grad(kl))(jnp.asarray(STUDENT)), atol=1e-6)
    assert np.abs(found).max() > 0.05


def test_a_kl_over_the_vocabulary_is_no_credit():
    def whole(logp, p):
        return jnp.full((5, 1), -jax.lax.stop_gradient(jnp.sum(jnp.exp(logp) * (logp - p))))

    np.testing.assert_allclose(expected(whole), np.zeros(5), atol=1e-6)


def test_groups_that_teach_nothing_may_be_left_out_or_left_in():
    rng = np.random.default_rng(0)
    rewards, valid = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], np.float32), np.ones((3, 2), bool)
    advantages = rearrange(Centred()(rewards, valid), "g n -> (g n)")
    logp, behaviour = np.float32(-rng.exponential(size=(2, 6, 4)))
    keep = np.repeat(informative(rewards, valid), 2)
    assert keep.tolist() == [True, True, False, False, True, True]

    @jax.jit
    def slope(logp, behaviour, advantages):
        loss = decoupled_ppo(4).loss
        return jax.grad(lambda x: loss(x, behaviour, advantages, x == x)[0].total)(logp)

    whole = slope(logp, behaviour, advantages)
    np.testing.assert_array_equal(slope(logp[keep], behaviour[keep], advantages[keep]), whole[keep])
    assert not np.any(whole[~keep]) and np.any(whole[keep])


@pytest.mark.parametrize("kind", [*KINDS, informative])
def test_a_mask_of_another_shape_is_refused(kind):
    with pytest.raises(ValueError, match=r"shape \(2, 4\) and valid \(2, 3\); both must be groups by completions"):
        call = kind if kind is informative else type(kind).__call__
        call = getattr(call, "__wrapped__", call)  # past the types that tests check and runs do not
        call(*(() if kind is informative else (kind,)), np.ones((2, 4)), VALID[:, :3])


@pytest.mark.parametrize(("build", "message"), [
    (lambda: GroupScaled(epsilon=0.0), "epsilon=0.0.* above 0, or a group of equal rewards divides by 0"),
    (lambda: BatchScaled(epsilon=-1.0), "epsilon=-1.0.* above 0"),
    (lambda: credited(jnp.zeros(1), jnp.zeros((1, 1)), jnp.zeros((1, 1)), -0.1), "beta=-0.1.* must be 0 or more"),
])  # fmt: skip
def test_a_setting_without_meaning_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
