"""One loss of many weightings is each of them, by number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import (
    WSD,
    WSLD,
    Balance,
    Constant,
    Dense,
    Distill,
    Evidence,
    ForwardKL,
    Gap,
    NoGate,
    Pick,
    Place,
    ReverseKL,
    Window,
)

LOSSES = (
    Distill(alpha=Constant(0.25), gate=NoGate(), chunk=None),
    Distill(alpha=WSD(), gate=Gap(), chunk=None),
    Distill(gate=Evidence(scope=Window(size=3)), chunk=None),
    Distill(gate=Balance(), chunk=None),
)


def ask(loss, number, memory=(), progress=0.4):
    keys = jax.random.split(jax.random.key(0), 4)
    hidden, head, teacher = (
        jax.random.normal(k, s) for k, s in zip(keys, [(2, 9, 4), (4, 7), (2, 9, 7)], strict=False)
    )
    labels = jax.random.randint(keys[3], (2, 9), 0, 7)
    ones = jnp.ones((2, 9), jnp.int32)
    place = Place(ones > 0, ones, 0 * ones, memory, number=jnp.float32(number))

    @jax.jit
    def value(hidden):
        tally, metrics, seen = loss(hidden, head, Dense(teacher), labels, place, progress)
        return tally.total, (metrics["alpha"].total, loss.gate.update(memory or loss.gate.init(), seen))

    (total, rest), slope = jax.value_and_grad(value, has_aux=True)(hidden)
    return total, slope, *rest


@pytest.mark.parametrize("number", range(len(LOSSES)))
def test_the_loss_of_a_number_is_the_loss_of_its_place(number):
    one, many = LOSSES[number], Pick.among(LOSSES)
    first, chosen = ask(one, 0), ask(many, number)
    for mine, wanted in zip(chosen[:3], first[:3], strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, chosen[3][number], first[3])
    again, told = ask(one, 0, first[3]), ask(many, number, chosen[3])  # with what each remembers
    np.testing.assert_allclose(told[1], again[1], rtol=1e-6)


def test_it_reaches_as_far_as_the_farthest():
    assert Pick.among(LOSSES).gate.reach == 3
    assert Pick.among([*LOSSES, Distill(gate=WSLD(), chunk=None)]).gate.numbers == 5


def test_losses_that_differ_in_more_than_their_weighting_are_refused():
    with pytest.raises(ValueError, match="differ in more than alpha and gate; compare them one by one"):
        Pick.among([Distill(soft=ForwardKL()), Distill(soft=ReverseKL())])
