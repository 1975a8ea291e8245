"""What goes wrong between who learns and who draws: it is counted, tried again, and ends the run only if it goes on."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from distill.mesh import Mesh
from distill.rl import publisher as publication
from distill.rl import ray_worker
from distill.rl.actor import Actor, Broken, Job
from distill.rl.actors import Threads
from distill.rl.books import Books
from distill.rl.journal import Journal
from distill.rl.on_disk import OnDisk
from distill.rl.part import Part
from distill.rl.publisher import Publisher
from distill.rl.publishing import Across, Form
from distill.rl.record import Event
from distill.rl.rollouts import Rollouts
from distill.state import Weights
from models.request import Completion
from models.sampler import Sampler
from models.tokenizer import Bytes
from tests.distill.rl.begun import ASKED, MODEL, STAGE

WEIGHTS = Weights(model={"w": jnp.ones(3)}, bias=None)


def job(uid, version=0, retries=0):
    return Job(uid, f"item {uid}", version, np.arange(2, dtype=np.int32), retries)


@dataclass
class Drawing:
    """Stands in for a sampler: two tokens a completion, and a fault where and when it is told."""

    faults: dict[int, list] = field(default_factory=dict)
    """by uid what becomes of it, one draw after the other; then it goes well"""
    calls: list[list[int]] = field(default_factory=list)
    """uids that were drawn together"""

    def __call__(self, model, requests, bias):
        requests = list(requests)
        self.calls.append(list(dict.fromkeys(one.prompt for one in requests)))
        for one in requests:
            left = self.faults.get(one.prompt, [])
            fault = left.pop(0) if one.sample == 0 and left else None
            if isinstance(fault, BaseException):
                raise fault
            logps = np.array([-1.0, np.nan if fault == "nan" else -2.0], np.float32)
            yield Completion(
                prompt=one.prompt,
                sample=one.sample,
                tokens=np.array([5, 6], np.int32),
                logprobs=logps,
                stopped=True,
                routes=None,
            )


@pytest.fixture
def drawing():
    """From faults to the actor that suffers them, with versions 0 and 1 to draw with."""
    made = []

    def make(**faults):
        publisher = Publisher(Mesh().build())
        for version in (0, 1):
            publisher.publish(version, WEIGHTS)
        actor = Actor(Drawing({int(uid[1:]): list(what) for uid, what in faults.items()}), publisher, 2, 8)
        made.append(actor)
        return actor

    yield make
    for actor in made:
        actor.stop()


def ask(actor, *jobs):
    """What comes of jobs that wait together, by uid."""
    for one in jobs:
        actor.inbox.put(one)
    if not hasattr(actor, "_thread"):
        actor.start()
    found = [actor.outbox.get(timeout=10) for _ in jobs]
    return {one.job.uid if isinstance(one, Broken) else one.uid: one for one in found}


def test_a_completion_without_a_finite_log_probability_is_never_handed_out_and_its_group_is_drawn_again(drawing):
    actor = drawing(u7=["nan"])
    found = ask(actor, job(6), job(7))
    assert isinstance(found[6], Rollouts)
    assert found[7] == Broken(found[7].job, "1 of 2 completions have log-probabilities without value")
    assert isinstance(ask(actor, job(7, retries=1))[7], Rollouts)
    assert actor.faults == {"groups_unsound": 1}


def test_of_groups_that_failed_together_each_is_tried_again_alone(drawing):
    actor = drawing(u2=[ValueError("two"), ValueError("two again")])
    found = ask(actor, job(1), job(2), job(3))
    assert isinstance(found[1], Rollouts) and "two" in found[2].reason and "two" in found[3].reason
    again = ask(actor, job(3, retries=1), job(2, retries=1), job(4))
    assert {uid: type(one) for uid, one in again.items()} == {2: Broken, 3: Rollouts, 4: Rollouts}
    assert actor.sampler.calls[0] == [1, 2, 3] and [2] in actor.sampler.calls and [3] in actor.sampler.calls
    assert actor.faults["draws_failed"] == 2


def test_an_actor_that_falls_gets_up_and_draws_what_it_had_with_the_version_it_was_to_have(drawing):
    actor = drawing(u1=[SystemExit("a library ends its thread")])
    found = ask(actor, job(1, version=0), job(2, version=1))
    assert {uid: one.version for uid, one in found.items()} == {1: 0, 2: 1}
    assert actor.faults["actor_restarted"] == 1


def test_an_actor_that_only_falls_says_of_what_and_stays_down(drawing):
    actor = drawing(u1=[SystemExit("no way")] * 4)
    actor.inbox.put(job(1))
    actor.start()
    error = actor.outbox.get(timeout=10)
    assert str(error) == "the actor fell 4 times in a row, the last time of SystemExit('no way'); mend that"
    assert isinstance(error.__cause__, SystemExit) and actor.faults["actor_restarted"] == 3


def test_an_actor_that_drew_a_group_since_it_fell_may_fall_again(drawing):
    actor = drawing(**{f"u{uid}": [SystemExit("a library ends its thread")] for uid in range(5)})
    for uid in range(5):
        assert isinstance(ask(actor, job(uid))[uid], Rollouts)
    assert actor.faults == {"actor_restarted": 5}


class Way(Publisher):
    """A way to the actor's devices on which something happens, copy after copy; then it goes well."""

    happens = ()

    def copy(self, weights):
        what, *self.happens = [*self.happens, None]
        if isinstance(what, threading.Event):
            what.wait()
        elif isinstance(what, Exception):
            raise what
        copied = super().copy(weights)
        return Weights(model={"w": copied.model["w"].at[1].set(jnp.nan)}, bias=None) if what == "nan" else copied


@pytest.fixture
def way(monkeypatch):
    monkeypatch.setattr(publication, "PATIENCE", 0.2)
    return Way(Mesh().build())


@pytest.mark.parametrize("what", [threading.Event(), OSError("a cable"), "nan"], ids=["stuck", "raises", "damages"])
def test_a_copy_that_hangs_raises_or_is_damaged_is_made_again_and_counted(way, what):
    way.happens = [what]
    way.publish(3, WEIGHTS)
    np.testing.assert_array_equal(way.get(3).model["w"], np.ones(3))
    assert way.faults == {"publications_failed": 1}
    if isinstance(what, threading.Event):
        what.set()


def test_a_copy_that_is_damaged_on_one_of_the_meshes_is_made_again(monkeypatch):
    damaged, real = [Weights(model={"w": jnp.full(3, jnp.nan)}, bias=None)], Publisher._placed

    def placed(publisher, weights):
        first, second = real(publisher, weights)
        return [first, damaged.pop() if damaged else second]

    monkeypatch.setattr(Publisher, "_placed", placed)
    publisher = Publisher(Mesh().build(), Mesh(first=1).build())
    publisher.publish(3, WEIGHTS)
    np.testing.assert_array_equal(publisher.get(3, place=1).model["w"], np.ones(3))
    assert publisher.faults == {"publications_failed": 1}


def test_a_publication_that_cannot_be_made_says_why_and_nobody_sees_the_version(way):
    stuck = threading.Event()
    way.happens = [stuck, OSError("a cable"), "nan"]
    message = (
        r"version 3 could not be published in 3 tries \(TimeoutError: no copy after 0.2 seconds; OSError: a cable; "
        r"FloatingPointError: the copy has weights that are not finite\); look at the actor's devices"
    )
    with pytest.raises(RuntimeError, match=message):
        way.publish(3, WEIGHTS)
    assert way.versions == {} and way.faults == {"publications_failed": 3}
    stuck.set()


def test_groups_that_cannot_be_drawn_are_given_up_and_stop_the_stage_when_they_are_more_than_a_fifth(tmp_path):
    with Journal(tmp_path / "journal") as journal:
        books = Books(STAGE, ASKED().select(split="train"), None, Bytes(), journal, 0)
        given_up, version = 0, 0
        with pytest.raises(
            RuntimeError, match=r"stage 'rl': 50 of 50 groups could not be drawn, in 3 tries each; .*: no"
        ):
            while True:
                jobs = books.admit(version)
                version += books.take(version) is not None
                for one in jobs:
                    while one is not None:
                        one = books.retry(Broken(one, "no"))
                    given_up += 1
        assert given_up == 49, "the fiftieth"
        assert [one.event for _, one in journal.read()].count(Event.POISONED) == 50


class Falling(Sampler):
    """A sampler that ends its thread, for the group 1; others get a log-probability that is not a number."""

    def __call__(self, model, requests, bias):
        for one in requests:
            if one.prompt == 1:
                raise SystemExit("no way")
            tokens, logps = np.array([5], np.int32), np.array([np.nan], np.float32)
            yield Completion(
                prompt=one.prompt, sample=one.sample, tokens=tokens, logprobs=logps, stopped=True, routes=None
            )


PART = Part(model=MODEL, biased=False, sampler=Falling(slots=4), samples=2, groups=4, limit=4, home=Mesh())


def test_a_team_of_which_one_fell_for_good_says_of_what_and_all_count_their_faults_together():
    faults = Counter()
    team = Threads().team(replace(PART, own=Mesh(data=2, first=1)), Path(), faults)
    team.publisher.publish(0, WEIGHTS)
    team.inbox.put(job(1))
    team.start()
    assert str(team.outbox.get(timeout=10)).startswith("the actor fell 4 times in a row")
    team.inbox.put(job(2))
    assert team.outbox.get(timeout=10).reason == "2 of 2 completions have log-probabilities without value"
    assert sorted(actor.alive for actor in team._actors) == [False, True]
    team.stop()
    assert faults == {"actor_restarted": 3, "groups_unsound": 1} and team.publisher.faults is faults


def test_a_worker_tells_of_its_faults_with_each_group_and_raises_what_its_actor_fell_of(monkeypatch):
    monkeypatch.setattr(ray_worker, "settle", lambda: None)
    publisher = Publisher(Mesh().build())
    publisher.publish(0, WEIGHTS)
    worker = ray_worker.Worker(PART, Mesh())
    ((broken, tokens, faults),) = worker.draw([job(2)], {0: publisher}, 0)
    assert (broken.job.uid, tokens, faults) == (2, 2, {"groups_unsound": 1})
    with pytest.raises(RuntimeError, match="the actor fell 4 times in a row"):
        list(worker.draw([job(1)], {}, 0))
    assert not worker.ready()


class Gated(Sampler):
    """A sampler that waits between its first group and the others."""

    def __call__(self, model, requests, bias):
        for one in requests:
            if one.prompt > 2:
                GATE.wait(10)
            tokens, logps = np.array([5], np.int32), np.array([-1.0], np.float32)
            yield Completion(
                prompt=one.prompt, sample=one.sample, tokens=tokens, logprobs=logps, stopped=True, routes=None
            )


GATE = threading.Event()


def test_what_a_worker_draws_while_nobody_asks_is_told_with_the_next_group(monkeypatch):
    monkeypatch.setattr(ray_worker, "settle", lambda: None)
    publisher = Publisher(Mesh().build())
    publisher.publish(0, WEIGHTS)
    worker = ray_worker.Worker(replace(PART, sampler=Gated(slots=4)), Mesh())
    told = worker.draw([job(2), job(3)], {0: publisher}, 0)
    assert next(told)[1:] == (2, {})
    GATE.set()
    while worker._actor.outbox.empty():
        time.sleep(0.01)
    assert next(told)[1:] == (2, {})
    worker._actor.stop()


def test_a_copy_that_is_made_again_is_counted_on_the_way_to_other_processes_too(tmp_path, monkeypatch):
    faults, real, left = Counter(), Publisher.copy, [OSError("a cable")]

    def copy(publisher, weights):
        if left:
            raise left.pop()
        return real(publisher, weights)

    monkeypatch.setattr(Publisher, "copy", copy)
    form = Form(model=MODEL, biased=False, dtype="float32", mesh=Mesh())
    Across(Mesh().build(), "float32", OnDisk().begin(form, tmp_path), faults).publish(0, WEIGHTS)
    assert faults == {"publications_failed": 1}
