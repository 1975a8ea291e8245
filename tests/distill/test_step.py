"""The step is pure, sums before it divides, and hears its teacher once."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill import Mesh
from distill.optim import AdamW, Muon, WarmupCosine
from distill.step import Step
from distill.teacher import Silent
from losses import Distill, NoGate, RouterHealth
from models.execution import Execution
from tests.distill.small import LOSS, QUIET, WIDE, assert_close, batch, learner, states, take, teacher


@pytest.fixture(scope="module")
def voice():
    return teacher()


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_does_not_change_the_update(voice, parts):
    one = learner(router=QUIET)
    whole, _ = take([one], states(one), voice, [batch(parts=1)])
    cut, _ = take([one], states(one), voice, [batch(parts=parts)])
    assert_close(whole[0].weights, cut[0].weights)


def test_accumulation_takes_one_optimizer_step():
    one = learner()
    after, _ = take([one], states(one), batches=[batch(parts=4)])
    assert int(after[0].step) == 1


def test_students_side_by_side_learn_what_each_learns_alone(voice):
    scout, maverick = learner("scout"), learner("maverick", model=WIDE, loss=Distill(gate=NoGate(), chunk=5))
    together, _ = take([scout, maverick], states(scout, maverick), voice)
    for alone, each in zip((scout, maverick), together, strict=True):
        assert_close(take([alone], states(alone), voice)[0][0].weights, each.weights)


def test_the_teacher_is_asked_once_for_all_students():
    asked = []

    @jax.tree_util.register_dataclass
    @dataclass(frozen=True)
    class Counting:
        def signal(self, batch):
            asked.append(1)

    students = [learner(name) for name in "abc"]
    take(students, states(*students), Counting())
    assert len(asked) == 1


def test_another_teacher_gives_another_gradient():
    one = learner()
    first, _ = take([one], states(one), teacher(7))
    second, _ = take([one], states(one), teacher(8))
    assert not np.allclose(first[0].weights.model.head[...], second[0].weights.model.head[...], atol=1e-4)


def test_twins_of_one_name_start_equal_and_names_differ():
    twin, other = states(learner("a"))[0], states(learner("b"))[0]
    assert_close(states(learner("a"), seed=0)[0].weights, twin.weights, tolerance=0)
    assert not np.allclose(twin.weights.model.head[...], other.weights.model.head[...])


def test_two_steps_of_adam_on_eight_devices_equal_those_on_one(voice):
    """Of every other shape of a mesh: test_mesh_equality.py."""
    one, mesh = learner(router=RouterHealth(balance=0.01, z=1e-3, bias_rate=0.01)), Mesh(data=2, fsdp=4)
    batches = [batch(0), batch(1)]
    single, metrics = take([one], states(one), voice, batches, Mesh())
    many, split = take([one], states(one, mesh=mesh), teacher(mesh=mesh), batches, mesh)
    assert_close(jax.device_get(single[0].weights), jax.device_get(many[0].weights))
    assert metrics["student/loss"] == pytest.approx(split["student/loss"], abs=1e-5)


def poisoned(state):
    """The state with a NaN in the scale of the last norm."""
    model = jax.tree.map(lambda x: x, state.weights.model)  # a copy: modules are mutable
    model.norm.scale = model.norm.scale.replace(jnp.full_like(model.norm.scale[...], jnp.nan))
    return replace(state, weights=replace(state.weights, model=model))


def test_an_update_that_is_not_finite_is_not_made_and_is_counted():
    one = learner()
    start = poisoned(states(one)[0])
    (after,), metrics = take([one], (start,))
    assert_close(after.weights.model.head, start.weights.model.head, tolerance=0)
    assert_close(after.opt, start.opt, tolerance=0)
    assert (int(after.skipped), int(after.step), metrics["student/skipped"]) == (1, 1, 1.0)
    (again,), _ = take([one], (after,))
    assert int(again.skipped) == 2


def test_a_finite_gradient_is_not_enough_where_the_optimizer_makes_infinity_of_it():
    @dataclass(frozen=True)
    class Exploding:
        def build(self, steps):
            return optax.scale(jnp.inf)

    one = learner(optimizer=Exploding())
    start = states(one)[0]
    (after,), metrics = take([one], (start,))
    assert np.isfinite(metrics["student/grad_norm"])
    assert_close(after.weights, start.weights, tolerance=0)
    assert (int(after.skipped), metrics["student/skipped"]) == (1, 1.0)


def test_a_good_step_ends_a_row_of_bad_ones():
    one = learner()
    start = replace(states(one)[0], skipped=jnp.int32(2))
    (after,), _ = take([one], (start,))
    assert int(after.skipped) == 0


@pytest.mark.parametrize("optimizer", [AdamW(rate=WarmupCosine(peak=1e-2)), Muon(rate=WarmupCosine(peak=2e-2))])
def test_a_student_overfits_one_batch(optimizer):
    one = learner(optimizer=optimizer, loss=replace(LOSS, chunk=None))
    step = jax.jit(Step((one,), 10, Execution()))
    current, losses = states(one), []
    for _ in range(10):
        current, metrics = step(current, Silent(), batch())
        losses.append(float(metrics["student/hard"].mean()))
    assert losses[-1] < losses[0] - 0.5


def test_bfloat16_compute_keeps_float32_parameters(voice):
    one = learner()
    precise, metrics = take([one], states(one), voice)
    rough, others = take([one], states(one), voice, execution=Execution(dtype="bfloat16"))
    assert {x.dtype for x in jax.tree.leaves(rough[0].weights)} == {jnp.dtype("float32")}
    assert metrics["student/loss"] == pytest.approx(others["student/loss"], rel=0.02)
    assert precise[0].step == rough[0].step


def test_selection_bias_moves_towards_the_idle_experts():
    one = learner(router=RouterHealth(balance=0.0, bias_rate=0.05))
    (after,), _ = take([one], states(one))
    bias = np.asarray(after.weights.bias)
    assert bias.shape == (1, 1, 4) and np.abs(bias).max() > 0 and abs(bias.sum()) < 1e-6


def test_the_balance_loss_reaches_the_router():
    free, bound = learner(router=QUIET), learner(router=RouterHealth(balance=10.0))
    routers = [
        take([one], states(one))[0][0].weights.model.periods.blocks[0].feed_forward.router[...] for one in (free, bound)
    ]
    assert not np.allclose(*routers, atol=1e-5)
