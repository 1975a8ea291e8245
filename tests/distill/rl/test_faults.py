"""What goes wrong between who learns and who draws: it is counted, tried again, and ends the run only if it goes on."""

import threading
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
import pytest

from distill.mesh import Mesh
from distill.rl import publisher as publication
from distill.rl.actor import Actor, Broken, Job
from distill.rl.books import Books
from distill.rl.journal import Journal
from distill.rl.publisher import Publisher
from distill.rl.record import Event
from distill.rl.rollouts import Rollouts
from distill.state import Weights
from models.request import Completion
from models.tokenizer import Bytes
from tests.distill.rl.begun import ASKED, STAGE

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
