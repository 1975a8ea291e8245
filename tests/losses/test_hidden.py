"""Hidden and RouterMatch beside their statement in float64, and where states are odd."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import Angle, Cosine, Hidden, Linear, RouterMatch, Squared
from losses.hidden import Distance
from tests.losses import formulas

RNG = np.random.default_rng(0)
L, B, T, D, WIDE = 2, 2, 5, 4, 6
STUDENT, TEACHER = RNG.normal(size=(L, B, T, D)), 5.0 * RNG.normal(size=(L, B, T, WIDE))
MAPS = RNG.normal(size=(L, D, WIDE)) / D**0.5
MASK = np.arange(T)[None] < np.array([[T], [T - 2]])
ROUTERS = 2.0 * RNG.normal(size=(2, L, B, T, D))
PAIRS = [(Squared(), formulas.squared), (Angle(), formulas.angle)]
CASES = {
    "random": (STUDENT, TEACHER),
    "zeros": (0.0 * STUDENT, TEACHER),
    "teacher of zeros": (STUDENT, 0.0 * TEACHER),
    "1e4": (1e4 * STUDENT, 1e4 * TEACHER),
    "small": (1e-3 * STUDENT, 1e-3 * TEACHER),
    "one channel at 1e4": (STUDENT + 1e4 * (np.arange(D) == 1), TEACHER + 1e4 * (np.arange(WIDE) == 2)),
}


def call(term, *arrays):
    """The term of numpy's arrays."""
    return term(*(x if x is None else jnp.asarray(x) for x in arrays))


def ours(term, student, teacher, *maps):
    """Mean, and its gradients in the student's side and the maps."""

    def mean(student, *maps):
        return term(student, jnp.asarray(teacher), *(maps or (None,)), jnp.asarray(MASK)).mean()

    value, slopes = jax.value_and_grad(mean, tuple(range(1 + len(maps))))(jnp.asarray(student), *map(jnp.asarray, maps))
    return float(value), [np.asarray(slope, np.float64) for slope in slopes]


def differences(function, *arrays):
    """Central differences of a function in every entry of every array."""
    slopes = []
    for n, array in enumerate(arrays):
        step, slope = 1e-6 * max(np.abs(array).max(), 1e-2), np.zeros(array.shape)
        for at in np.ndindex(array.shape):
            moved = [np.array(x) for x in arrays]
            moved[n][at] += step
            up = function(*moved)
            moved[n][at] -= 2 * step
            slope[at] = (up - function(*moved)) / (2 * step)
        slopes.append(slope)
    return slopes


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("distance", "formula"), PAIRS, ids=["squared", "angle"])
def test_value_and_gradients_are_the_formulas(distance, formula, case):
    student, teacher = CASES[case]
    stated = lambda student, maps: formulas.hidden(formula, student, teacher, maps, MASK)  # noqa: E731
    value, slopes = ours(Hidden(distance=distance), student.astype(np.float32), teacher.astype(np.float32), MAPS)
    np.testing.assert_allclose(value, stated(student, MAPS), rtol=2e-5, atol=1e-6)
    for slope, want in zip(slopes, differences(stated, student, MAPS), strict=True):
        np.testing.assert_allclose(slope, want, atol=5e-4 * np.abs(want).max() + 1e-9)
    if case not in ("teacher of zeros", "1e4"):
        assert np.abs(slopes[0]).max() > 1e-6


@pytest.mark.parametrize(("distance", "formula"), PAIRS, ids=["squared", "angle"])
def test_without_a_map_states_of_one_width_are_compared_as_they_are(distance, formula):
    teacher, maps = TEACHER[..., :D], np.broadcast_to(np.eye(D), (L, D, D))
    value, (slope,) = ours(Hidden(distance=distance, project=False), STUDENT.astype(np.float32), teacher)
    stated = lambda student: formulas.hidden(formula, student, teacher, maps, MASK)  # noqa: E731
    np.testing.assert_allclose(value, stated(STUDENT), rtol=2e-5)
    np.testing.assert_allclose(slope, differences(stated, STUDENT)[0], atol=1e-5)


def test_without_a_map_the_squared_distance_is_twice_the_angle():
    squared, angle = (ours(Hidden(distance=one), STUDENT, TEACHER[..., :D])[0] for one in (Squared(), Angle()))
    np.testing.assert_allclose(squared, 2.0 * angle, rtol=1e-4)


@pytest.mark.parametrize("distance", [Squared(), Angle()], ids=str)
def test_states_that_agree_are_at_no_distance_and_states_twice_as_wide_are_no_farther(distance):
    assert isinstance(distance, Distance)
    assert abs(ours(Hidden(distance=distance), STUDENT, 7.0 * STUDENT)[0]) < 1e-5
    twice = [np.concatenate([x, x], axis=-1) for x in (STUDENT, TEACHER[..., :D])]
    once = ours(Hidden(distance=distance), STUDENT, TEACHER[..., :D])[0]
    np.testing.assert_allclose(ours(Hidden(distance=distance), *twice)[0], once, rtol=1e-6)


def test_a_student_that_says_nothing_is_at_distance_one():
    assert ours(Hidden(), STUDENT, TEACHER, np.zeros_like(MAPS))[0] == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("term", [Hidden(), Hidden(distance=Angle()), RouterMatch()], ids=str)
def test_what_does_not_count_may_hold_anything_and_gets_no_gradient(term):
    routers = isinstance(term, RouterMatch)
    student, teacher = ROUTERS if routers else (STUDENT, TEACHER)
    maps = () if routers else (MAPS,)
    told = (lambda s, t, _, mask: term(s, t, mask)) if routers else term
    odd = [np.where(MASK[None, ..., None], x, bad) for x, bad in ((student, np.nan), (teacher, np.inf))]
    (value, slopes), (want, wanted) = ours(told, *odd, *maps), ours(told, student, teacher, *maps)
    assert value == want and np.isfinite(value)
    np.testing.assert_array_equal(slopes[0], wanted[0])
    assert (slopes[0][:, ~MASK] == 0.0).all() and np.abs(slopes[0]).max() > 1e-3


@pytest.mark.parametrize("term", [Hidden(), Hidden(distance=Angle()), RouterMatch()], ids=str)
def test_totals_and_counts_of_parts_add_up_and_an_empty_part_is_nothing(term):
    if isinstance(term, RouterMatch):
        tally = lambda rows, mask: call(term, *ROUTERS[:, :, rows], mask)  # noqa: E731
    else:
        tally = lambda rows, mask: call(term, STUDENT[:, rows], TEACHER[:, rows], MAPS, mask)  # noqa: E731
    whole, parts = tally(slice(0, 2), MASK), tally(slice(0, 1), MASK[:1]) + tally(slice(1, 2), MASK[1:])
    np.testing.assert_allclose([parts.total, parts.count], [whole.total, whole.count], rtol=1e-6)
    assert whole.count == MASK.sum() and tally(slice(0, 2), np.zeros_like(MASK)).mean() == 0.0


def test_bfloat16_states_are_taken_as_they_are_and_summed_in_float32():
    narrow = [jnp.asarray(x, jnp.bfloat16) for x in (STUDENT, TEACHER)]
    tally = Hidden()(*narrow, jnp.asarray(MAPS), jnp.asarray(MASK))
    want = ours(Hidden(), *(np.asarray(x.astype(jnp.float32)) for x in narrow), MAPS)
    np.testing.assert_allclose(tally.mean(), want[0], rtol=1e-6)
    assert tally.total.dtype == jnp.float32


@pytest.mark.parametrize("term", [Hidden(project=False), RouterMatch()], ids=str)
def test_no_gradient_enters_the_teacher_and_another_teacher_gives_another(term):
    sides = (MASK,) if isinstance(term, RouterMatch) else (None, MASK)
    slope = lambda s, t: jax.grad(lambda s, t: call(term, s, t, *sides).total, (0, 1))(s, t)  # noqa: E731
    one, other = slope(ROUTERS[0], ROUTERS[1]), slope(ROUTERS[0], -ROUTERS[1])
    assert (one[1] == 0.0).all() and not np.allclose(one[0], other[0], atol=1e-3)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_router_term_is_the_mean_kl_of_the_layers(scale):
    student, teacher = scale * ROUTERS
    told = lambda s, t, _, mask: RouterMatch()(s, t, mask)  # noqa: E731
    value, (slope,) = ours(told, student.astype(np.float32), teacher.astype(np.float32))
    stated = partial(formulas.routing, teacher=teacher, mask=MASK)
    np.testing.assert_allclose(value, stated(student), rtol=1e-5)
    p, q = (np.asarray(jax.nn.softmax(x)) for x in (teacher, student))
    np.testing.assert_allclose(slope, (q - p) * MASK[None, ..., None] / (L * MASK.sum()), atol=1e-6)


def test_layers_are_matched_as_far_up_and_the_last_with_the_last():
    assert Hidden().matched(4, 4) == ((1, 1), (2, 2), (3, 3), (4, 4))
    assert Hidden().matched(4, 8) == ((1, 2), (2, 4), (3, 6), (4, 8))
    assert Hidden().matched(4, 6) == ((1, 2), (2, 3), (3, 5), (4, 6))
    assert Hidden().matched(4, 2) == ((1, 1), (2, 1), (3, 2), (4, 2))


def test_pairs_say_which_layers_are_compared():
    got = call(Hidden(pairs=((2, 1),)), STUDENT, TEACHER, MAPS[:1], MASK)
    want = call(Hidden(), STUDENT[1:], TEACHER[:1], MAPS[:1], MASK)
    assert got.mean() == want.mean()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hidden(pairs=()), "must name at least one pair of layers, counted from 1"),
        (lambda: Hidden(pairs=((0, 1),)), "must name at least one pair of layers, counted from 1"),
        (lambda: Hidden(pairs=((3, 1),)).matched(2, 4), "layers of a student with 2 and a teacher with 4"),
        (lambda: Hidden(pairs=((1, 5),)).matched(2, 4), "layers of a student with 2 and a teacher with 4"),
        (lambda: Hidden(weight=Linear(start=1.0, end=-1.0)), "must not have a negative weight"),
        (lambda: RouterMatch(weight=Cosine(start=-1.0)), "must not have a negative weight"),
        (lambda: RouterMatch().check((2, 4), (2, 8)), "the student has 2 layers of 4, the teacher 2 of 8"),
        (lambda: RouterMatch().check((2, 4), (4, 4)), "needs the same MoE layers and experts on both sides"),
        (lambda: RouterMatch().check((0, 4), (0, 4)), "the student has 0 layers"),
        (lambda: call(RouterMatch(), ROUTERS[0], ROUTERS[1, :1], MASK), "2 layers of 4, the teacher 1 of 4"),
    ],
)
def test_an_impossible_comparison_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
