"""Workers of Ray's, on a cluster of this machine's own: what they draw, and what becomes of one that is killed."""

import os
import signal
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest

from distill.mesh import Mesh
from distill.rl.actor import Actor, Broken, Job
from distill.rl.part import Part
from distill.rl.publisher import Publisher
from distill.rl.ray_actors import RayActors
from distill.state import Weights
from models.llama4 import Llama4
from models.sampler import Sampler
from tests.distill.rl.begun import MODEL

pytest.importorskip("ray")
PART = Part(
    model=MODEL, biased=False, sampler=Sampler(slots=8, capacity=16, piece=8, stride=8, stop=(257,)), samples=2,
    groups=4, limit=8, home=Mesh(),
)  # fmt: skip
JOBS = [Job(uid, f"item {uid}", uid // 4, np.array([256, 65 + uid], np.int32)) for uid in range(8)]


@contextmanager
def running(team):
    """Workers, until the block ends."""
    team.start()
    try:
        yield team
    finally:
        team.stop()


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_worker_that_is_killed_is_replaced_and_every_group_is_what_a_thread_draws(key, tmp_path):
    weights, publisher, faults = Weights(Llama4(MODEL, key), None), Publisher(Mesh().build()), Counter()
    alone = Actor(PART.sampler, publisher, PART.samples, PART.limit)
    with running(alone), running(RayActors(deaths=5).team(PART, tmp_path, faults)) as team:
        for version in (0, 1):
            publisher.publish(version, weights)
            team.publisher.publish(version, weights)
        for job in JOBS[:4]:
            team.inbox.put(job)
        found = [team.outbox.get(timeout=200.0)]
        (worker,) = team.workers
        os.kill(team._ray.get(worker.process.remote()), signal.SIGKILL)
        for job in JOBS[4:]:
            team.inbox.put(job)
        found += [team.outbox.get(timeout=200.0) for _ in JOBS[1:]]
        assert faults["actor_restarted"] >= 1 and team.drawn > 0
        for job in JOBS:
            alone.inbox.put(job)
        wanted = [alone.outbox.get(timeout=100.0) for _ in JOBS]
    assert not any(isinstance(one, Broken) for one in found)
    for mine, its in zip(*(sorted(each, key=lambda one: one.uid) for each in (found, wanted)), strict=True):
        assert (mine.uid, mine.item, mine.version) == (its.uid, its.item, its.version)
        np.testing.assert_array_equal(mine.tokens, its.tokens)
        np.testing.assert_array_equal(mine.logps, its.logps)
