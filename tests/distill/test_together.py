"""Learners that differ in a number alone are computed together, and each learns what it learns alone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.together import alike
from losses import Constant, Distill, Evidence, NoGate, Pick, RouterHealth, Window
from models.dispatch import Dense, Ragged, Together
from models.moe import Blocks
from tests.distill.small import RATE, WIDE, assert_close, batch, experiment, learner, stage, states, take, teacher

BIASED = RouterHealth(balance=0.01, bias_rate=0.01)
EVIDENCE = Distill(gate=Evidence(scope=Window(size=3)), chunk=5)
METHODS = (EVIDENCE, Distill(gate=NoGate(), alpha=Constant(0.0), chunk=5))
PICK = Pick.among(METHODS)


def pair(**changes):
    """Two learners that differ in their names and numbers."""
    return [learner(name, loss=PICK, number=number, **changes) for number, name in enumerate("ab")]


def test_learners_are_grouped_by_all_but_names_and_numbers():
    a, b = pair()
    slow, wide = replace(b, optimizer=replace(RATE, clip=0.5)), learner("wide", loss=PICK, model=WIDE)
    assert alike((a, wide, b, slow, learner()), None) == [[0, 2], [1], [3], [4]]
    assert alike((a, b), "b") == [[0], [1]]  # whoever teaches beside the others is alone


def test_a_number_that_no_option_has_is_refused():
    with pytest.raises(ValueError, match="'a' has number 2, and its gate picks among 2; it must be 0 to 1"):
        experiment(stages=(stage(learner("a", loss=PICK, number=2)),))


def test_learners_together_learn_what_each_learns_alone_by_the_loss_of_its_number():
    ones, voice, batches = pair(router=BIASED), teacher(), [batch(0, parts=2), batch(1, parts=2)]
    together, metrics = take(ones, states(*ones), voice, batches)
    for one, loss, found in zip(ones, METHODS, together, strict=True):
        single = replace(one, loss=loss)
        (alone,), figures = take([single], states(single), voice, batches)
        assert_close(alone.weights, found.weights)
        assert_close(alone.opt, found.opt)
        for name, value in figures.items():
            assert metrics[name] == pytest.approx(value, abs=1e-4), name


def test_where_one_update_is_not_finite_the_others_are_made():
    ones = pair()
    good, bad = states(*ones)
    model = jax.tree.map(lambda x: x, bad.weights.model)
    model.head = model.head.replace(jnp.full_like(model.head[...], jnp.nan))
    bad = replace(bad, weights=replace(bad.weights, model=model))
    (first, second), _ = take(ones, (good, bad))
    assert (int(first.skipped), int(second.skipped)) == (0, 1)
    assert not np.allclose(first.weights.model.head[...], good.weights.model.head[...])
    assert_close(second.opt, bad.opt, tolerance=0)


@pytest.mark.parametrize("dispatch", [Dense(), Ragged(), Blocks(), Blocks(first=0)], ids=str)
def test_under_vmap_every_model_gets_what_its_own_experts_answer(dispatch):
    random = np.random.default_rng(0)
    models, tokens, experts, width, inner = 3, 10, 4, 6, 5
    x = random.normal(size=(models, tokens, width)).astype(np.float32)
    ids = jnp.asarray(random.integers(0, experts + 1, (models, tokens, 2)), jnp.int32)  # the last goes nowhere
    scores = random.random((models, tokens, 2)).astype(np.float32)
    gate_up = random.normal(size=(models, experts, width, 2, inner)).astype(np.float32)
    down = random.normal(size=(models, experts, inner, width)).astype(np.float32)

    def total(call, x, scores, gate_up, down):
        return jnp.sum(jnp.sin(jax.vmap(call)(x, ids, scores, gate_up, down)))

    def slopes(call):
        return jax.jit(jax.grad(lambda *a: total(call, *a), argnums=(0, 1, 2, 3)))(x, scores, gate_up, down)

    assert_close(slopes(dispatch.stacked()), slopes(Dense()), tolerance=1e-4)


def test_a_single_model_is_dispatched_as_ever():
    x, ids = jnp.ones((4, 6)), jnp.array([[0], [1], [0], [2]])
    arrays = (x, ids, jnp.ones((4, 1)), jnp.ones((2, 6, 2, 5)), jnp.ones((2, 5, 6)))
    np.testing.assert_array_equal(Together(Dense())(*arrays), Dense()(*arrays))
