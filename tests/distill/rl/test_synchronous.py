"""The loop without lag, held against the plainest that does the same: one thread, one thing after another."""

import zlib
from dataclasses import replace

import jax
import numpy as np

from distill.rl.books import Books
from distill.rl.journal import Journal
from distill.rl.loop import part_of
from distill.rl.rollouts import Rollouts
from distill.rl.updates import Updates
from models.request import Request
from models.tokenizer import Bytes
from tests.distill.rl.begun import ASKED, STAGE, finish, opened
from tests.distill.rl.rewards import Even


def judged(group: Rollouts) -> Rollouts:
    """An answer is right that has ended and has an even number of characters."""
    texts = [Bytes().decode(group.completion(sample)[:-1]) for sample in range(len(group.lengths))]
    rewards = np.array([ended * Even()(None, text) for ended, text in zip(group.stopped, texts, strict=True)])
    return replace(group, rewards=rewards.astype(np.float32), outcomes=rewards >= 1.0)


def test_without_lag_it_is_bit_for_bit_what_one_thread_does_in_turn(begun, tmp_path):
    """Draw with the learner's own weights, judge, learn: no actor, no copy, no process that grades, no queue."""
    stage = replace(STAGE, steps=3, max_policy_lag=0, pipeline_depth=0)
    wanted, _ = finish(begun, tmp_path / "loop", stage)
    with opened(begun, tmp_path / "turn", stage) as room, Journal(tmp_path / "journal") as journal:
        seed = zlib.crc32(b"0 0") & 0x7FFFFFFF
        books = Books(stage, ASKED().select(split="train"), None, room.experiment.tokenizer, journal, seed)
        state, updates = room.newborn(stage.learners[0], stage.optimizer_steps), Updates(room, stage)
        sampler = part_of(room.experiment, stage, seed).sampler
        for version in range(stage.steps):
            while (groups := books.take(version)) is None:
                for job in books.admit(version):
                    asked = (
                        Request(prompt=job.uid, sample=sample, tokens=job.prompt, limit=stage.tokens)
                        for sample in range(stage.samples)
                    )
                    drawn = list(sampler(state.weights.model, asked, state.weights.bias))
                    books.judged(judged(Rollouts.of(job.uid, job.item, version, job.prompt, drawn)))
            state, _ = updates(state, groups, books.advantages(groups), version)
        for one, other in zip(wanted, jax.device_get(jax.tree.leaves(state.weights)), strict=True):
            np.testing.assert_array_equal(one, other)
