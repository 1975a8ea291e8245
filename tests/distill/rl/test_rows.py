"""Rows of drawn groups: what is learned, from whom, and where it was sent."""

import queue
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.mesh import Mesh
from distill.rl.grading import Grading
from distill.rl.publisher import Publisher
from distill.rl.record import Event, decode, encode
from distill.rl.rollouts import Rollouts
from distill.rl.rows import to_batch
from distill.tasks.item import Item
from models.request import Completion
from models.tokenizer import Bytes
from tests.distill.small import learner, states

PAD, END = 99, Bytes().end
ITEM = Item(id="a/0/0", capability="strings", task="a", level=0, prompt="ab", answer="ba")


def completion(text, sample, stopped=True, logp=-0.5):
    """A completion of some text, with routes of one layer."""
    tokens = [*text, END] if stopped else [*text]
    return Completion(
        prompt=7,
        sample=sample,
        tokens=np.array(tokens),
        logprobs=np.full(len(tokens), logp, np.float32),
        stopped=stopped,
        routes=np.arange(3 + len(tokens))[:, None, None],
    )


DRAWN = [completion(b"ba", 1), completion(b"cab", 0, stopped=False)]
GROUP = Rollouts.of(7, ITEM.id, 3, np.array([1, 2, 3]), DRAWN)
JUDGED = replace(GROUP, rewards=np.array([0.0, 1.0], np.float32), outcomes=np.array([False, True]))


def test_completions_lie_in_the_order_of_their_samples_whoever_came_first():
    np.testing.assert_array_equal(GROUP.tokens, [[*b"cab"], [*b"ba", END]])
    assert not GROUP.valid.any() and GROUP.sound.all()


def test_a_group_comes_back_from_the_journal_as_it_was():
    data = encode(JUDGED.record())
    again = Rollouts.from_record(decode(data[16:]))
    for name, value in vars(JUDGED).items():
        np.testing.assert_array_equal(vars(again)[name], value)


def test_what_is_no_groups_record_is_refused():
    record = replace(JUDGED.record(Event.ADMITTED), arrays={})
    with pytest.raises(ValueError, match=r"the journal's record admitted of \(7,\) lacks \['lengths', 'logps'"):
        Rollouts.from_record(record)


def test_labels_are_the_tokens_that_were_drawn_and_their_credit_lies_with_them():
    batch = to_batch([JUDGED], np.array([[-0.5, 0.5]], np.float32), version=4, rows=3, length=8, pad=PAD)
    np.testing.assert_array_equal(batch.tokens[1], [1, 2, 3, *b"ba", END, PAD, PAD])
    np.testing.assert_array_equal(batch.mask, [[0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0, 0, 0], [0] * 8])
    np.testing.assert_array_equal(batch.labels[1][batch.mask[1]], [*b"ba", END])
    np.testing.assert_array_equal(batch.targets.advantages[:2], np.outer([-0.5, 0.5], batch.mask[1]))
    np.testing.assert_array_equal(batch.targets.behaviour[batch.mask], -0.5)
    np.testing.assert_array_equal(batch.targets.age, [1, 1, 0])


def test_tokens_are_sent_where_they_were_and_what_is_not_read_goes_nowhere():
    batch = to_batch([JUDGED], np.zeros((1, 2), np.float32), version=4, rows=3, length=8, pad=PAD)
    np.testing.assert_array_equal(batch.routes[1, :, 0, 0], [0, 1, 2, 3, 4, -1, -1, -1])
    assert (batch.routes[2] == -1).all()
    assert batch.bias(None, 1).ids.shape == (1, 1, 3, 8, 1)


def test_an_answer_that_nobody_could_judge_is_not_learned_from():
    unknown = replace(JUDGED, rewards=np.array([np.nan, 1.0], np.float32))
    batch = to_batch([unknown], np.array([[np.nan, 0.5]], np.float32), version=4, rows=2, length=8, pad=PAD)
    assert not batch.mask[0].any() and batch.mask[1].sum() == 3
    assert np.isfinite(batch.targets.advantages).all()


def test_an_update_without_groups_has_rows_that_count_nothing():
    batch = to_batch([], np.zeros((0, 2), np.float32), version=4, rows=2, length=8, pad=PAD)
    assert batch.tokens.shape == (2, 8) and not batch.mask.any()


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"1 groups of 2 completions, 6 tokens with their prompts, do not fit 1 rows"):
        to_batch([JUDGED], np.zeros((1, 2), np.float32), version=4, rows=1, length=8, pad=PAD)
    with pytest.raises(ValueError, match="do not fit 2 rows of 4 tokens and a label"):
        to_batch([JUDGED], np.zeros((1, 2), np.float32), version=4, rows=2, length=4, pad=PAD)


def judge(group, grade):
    """The group as it is graded."""
    return Grading(queue.Queue(), lambda uid: ITEM, grade, Bytes()).judge(group)


def test_answers_that_ended_are_judged_and_others_are_wrong():
    asked = []

    def grade(answers):
        asked.extend(answers)
        return [1.0 for _ in answers]

    found = judge(GROUP, grade)
    assert asked == [(ITEM, "ba")]
    np.testing.assert_array_equal(found.rewards, [0.0, 1.0])
    np.testing.assert_array_equal(found.outcomes, [False, True])


def test_a_reward_that_failed_masks_its_answer():
    found = judge(GROUP, lambda answers: [float("nan")])
    np.testing.assert_array_equal(found.valid, [True, False])


def test_a_published_version_is_a_copy_and_survives_the_learners_buffers():
    (state,) = states(learner())
    publisher = Publisher(Mesh().build())
    publisher.publish(0, state.weights)
    before = np.array(jax.tree.leaves(state.weights)[0])  # a view would keep the buffer from being used again
    jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)(state.weights)
    np.testing.assert_array_equal(jax.tree.leaves(publisher.get(0))[0], before)


def test_versions_that_are_not_there_are_waited_for_and_forgotten_ones_refused():
    (state,) = states(learner())
    publisher = Publisher(Mesh().build())
    publisher.publish(1, state.weights)
    with pytest.raises(TimeoutError, match=r"version 2 was not published within 0.01 seconds; there are \[1\]"):
        publisher.get(2, patience=0.01)
    publisher.publish(2, jax.tree.map(jnp.copy, state.weights))
    publisher.forget(2)
    with pytest.raises(KeyError, match="version 1 was forgotten"):
        publisher.get(1)
    assert list(publisher.versions) == [2]
