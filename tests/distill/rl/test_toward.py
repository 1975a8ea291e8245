"""A stage of reinforcement learning that is drawn toward its teacher, on models that have hardly begun."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill import AdamW, Experiment, Stage, WarmupCosine
from distill.data.batch import Batch
from distill.hold import AsItIs
from distill.loop import Interrupted
from distill.mesh import Mesh
from distill.options import parse
from distill.reading import put
from distill.rl.hearing import Hearing, think
from distill.rl.loop import run_reinforcement
from distill.rl.rollouts import Rollouts
from distill.rl.rows import to_batch
from distill.rl.stage import Reinforcement
from distill.rl.updates import Updates
from distill.tasks.source import Questions
from losses import ForwardKL, RouterHealth, Toward
from models.tokenizer import Bytes
from tests.distill.rl.begun import ASKED, LEARNER, MODEL, ONE, STAGE, finish, opened


@dataclass(frozen=True)
class Nothing:
    """No answer has earned anything: the teacher alone moves the learner."""

    def __call__(self, rewards: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Advantages [g n]."""
        return np.zeros_like(rewards)


NEW = replace(STAGE.learner, start=None, optimizer=AdamW(rate=WarmupCosine(peak=3e-2)))
PULLED = replace(
    STAGE, learner=NEW, teacher="begun", toward=Toward(weight=3.0), filtered=False, steps=4, updates=2, accumulate=2,
    max_policy_lag=3, save_every=1, policy=replace(STAGE.gradient, advantage=Nothing()),
)  # fmt: skip
"""of a learner that knows nothing, and a teacher that knows a little"""
RNG = np.random.default_rng(0)


def group(uid: int) -> Rollouts:
    """Answers of chance to a prompt, and experts of chance that they were drawn with."""
    n, p, m = STAGE.samples, 5, 6
    return Rollouts(
        uid=uid,
        item=str(uid),
        version=0,
        prompt=RNG.integers(1, 200, p).astype(np.int32),
        tokens=RNG.integers(1, 200, (n, m)).astype(np.int32),
        logps=RNG.normal(size=(n, m)).astype(np.float32) - 4,
        lengths=RNG.integers(1, m + 1, n).astype(np.int32),
        stopped=np.ones(n, bool),
        rewards=np.zeros(n, np.float32),
        outcomes=np.zeros(n, bool),
        routes=RNG.integers(0, MODEL.experts, (n, p + m, MODEL.periods * MODEL.moe_per_period, 1)).astype(np.int16),
    )


GROUPS = [group(uid) for uid in range(STAGE.groups)]


def right() -> Batch:
    """Questions with their right answers, in rows."""
    items = ASKED().items[:16]
    asked, given = (
        [Bytes().encode(text) for text in texts] for texts in ([x.prompt for x in items], [x.answer for x in items])
    )
    starts = np.array([len(one) for one in asked])
    ends = starts + [len(one) for one in given]
    tokens = np.zeros((len(items), STAGE.length + 1), np.int32)
    for row, line in enumerate(zip(asked, given, strict=True)):
        tokens[row, : ends[row]] = np.concatenate(line)
    return jax.tree.map(jnp.asarray, Batch.of_answers(tokens, starts, ends, Bytes().pad))


def by_hand(learner, teacher, batch, stage, execution):
    """The term by plain autodiff over all logits at once: its mean over tokens, the loss, its gradient's norm.

    Only the learner's tokens go where they were sent when they were drawn.
    """

    def log_probs(model, bias):
        hidden, _ = model(batch.tokens, batch.layout(), bias, execution)
        return jax.nn.log_softmax(hidden @ model.head[...] / stage.temperature)

    @jax.jit
    def found(model):
        q, p = log_probs(model, batch.bias(None, MODEL.periods)), log_probs(teacher.model, None)
        apart = jnp.sum(jnp.where(batch.mask, jnp.sum(jnp.exp(q) * (q - p), axis=-1), 0.0))
        loss = stage.toward.weight * apart / (stage.rows * stage.tokens)
        return loss, apart / jnp.sum(batch.mask)

    (loss, mean), slope = jax.value_and_grad(found, has_aux=True)(learner.model)
    return [mean, loss, optax.tree.norm(slope)]


@pytest.fixture(scope="module")
def pulled(begun, tmp_path_factory):
    """A run that is drawn toward its teacher: its folder, its weights and its lines."""
    folder = tmp_path_factory.mktemp("toward")
    return folder, *finish(begun, folder, PULLED)


def test_the_learner_comes_closer_to_its_teacher(begun, pulled):
    folder, _, lines = pulled
    with opened(begun, folder, PULLED) as room:
        (teacher,), after = room.teachers(("begun",), AsItIs()), run_reinforcement(room, PULLED)
        newborn = room.newborn(PULLED.learners[0], PULLED.optimizer_steps)
    found = [by_hand(one.weights, teacher.weights, right(), PULLED, teacher.execution)[0] for one in (newborn, after)]
    assert found[1] < found[0] - 0.5, "nats a token, of right answers that it never saw"
    assert all(line["student/toward"] > 0 for line in lines)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(begun, pulled, tmp_path):
    _, weights, lines = pulled
    with opened(begun, tmp_path, PULLED) as room, pytest.raises(Interrupted, match="after update 1 of 4"):
        room.stop.set()
        run_reinforcement(room, PULLED)
    again, same = finish(begun, tmp_path, PULLED)
    for mine, its in zip(weights, again, strict=True):
        np.testing.assert_array_equal(mine, its)
    assert lines == same


def test_an_update_in_parts_on_two_devices_is_that_of_the_whole_vocabulary(begun, tmp_path):
    learner = replace(NEW, router=RouterHealth(balance=0.0))
    stage = replace(PULLED, learner=learner, updates=1, temperature=0.8)
    nothing = np.zeros((STAGE.groups, STAGE.samples), np.float32)
    with opened(begun, tmp_path, stage, Mesh(data=2)) as room:
        updates, state = Updates(room, stage), room.newborn(stage.learners[0], stage.steps)
        rows = jax.tree.map(jnp.asarray, to_batch(GROUPS, nothing, 0, stage.rows, stage.length, Bytes().pad))
        (teacher,) = room.teachers(("begun",), AsItIs())
        wanted = by_hand(state.weights, teacher.weights, rows, stage, room.experiment.execution)
        _, told = updates(state, GROUPS, nothing, 0)
    names = ("toward", "loss", "grad_norm")
    np.testing.assert_allclose([told[f"student/{name}"].mean() for name in names], wanted, rtol=1e-4)


def test_answers_of_several_updates_are_heard_in_one_pass(begun, tmp_path):
    with opened(begun, tmp_path, PULLED) as room:
        nothing = np.zeros((STAGE.groups, STAGE.samples), np.float32)
        rows = to_batch(GROUPS, nothing, 0, PULLED.rows, PULLED.length, Bytes().pad)
        batch, (teacher,) = put(rows, 4, ONE.build()), room.teachers(("begun",), AsItIs())
        heard = Hearing(room, PULLED)(batch, teacher.weights)
    assert heard.heard.shape == (4, PULLED.rows // 4, PULLED.length, MODEL.width)
    free = think(teacher.weights, replace(batch, routes=None), room.experiment.execution, PULLED.temperature)
    np.testing.assert_allclose(heard.targets.teacher, free, atol=1e-6)
    assert jnp.abs(heard.targets.proximal - free).max() > 1e-3, "the learner's tokens go where they were sent"


def test_a_teacher_of_another_vocabulary_is_refused_at_the_door():
    other = Stage(name="other", learners=(replace(LEARNER, name="teacher", model=replace(MODEL, vocab=300)),), steps=1)
    with pytest.raises(ValueError, match="teacher 'teacher' has a vocabulary of 300, student 'student' of 272"):
        Experiment(name="rl", stages=(other, replace(PULLED, teacher="teacher")), corpus=Questions(ASKED))


def test_the_term_is_set_on_the_command_line():
    base = Stage(name="base", learners=(replace(LEARNER, name="begun"),), steps=1)
    made = Experiment(name="rl", stages=(base, PULLED), corpus=Questions(ASKED))
    found = parse(made, ["--stages.1.toward.weight", "0.25", "stages.1.toward.divergence:forward-kl"]).experiment
    assert isinstance(found.stages[1], Reinforcement)
    assert found.stages[1].toward == Toward(weight=0.25, divergence=ForwardKL())
