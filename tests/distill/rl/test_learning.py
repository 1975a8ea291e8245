"""What the learner's side does between two updates, each part by itself: what it hears, waits for, says and cuts."""

import queue
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from distill.curriculum.pacing import Pacing, check_pacing
from distill.curriculum.sampler import Learnability
from distill.mesh import Mesh
from distill.rl import learning
from distill.rl.books import Books
from distill.rl.journal import Journal
from distill.rl.learning import Learning
from distill.rl.order import EarliestDeadline
from distill.rl.rollouts import Rollouts
from distill.rl.updates import Updates
from distill.state import State
from distill.teacher import StoredTeacher
from losses.tally import Tally
from models.request import Completion
from models.tokenizer import Bytes
from tests.distill.rl.begun import ASKED, STAGE


@pytest.fixture
def open_books(tmp_path):
    """Books of a stage, with a journal of this name."""
    opened = []

    def make(name, stage=STAGE):
        opened.append(Journal(tmp_path / name))
        return Books(stage, ASKED().select(split="train"), None, Bytes(), opened[-1], 0)

    yield make
    for journal in opened:
        journal.close()


def learner(**parts) -> Learning:
    """The learner's side, of which only these parts are there."""
    made = object.__new__(Learning)
    vars(made).update(parts)
    return made


class Deaf:
    """Nobody is heard."""

    voice = StoredTeacher()

    def __call__(self, batch, weights):
        return batch


def answered(job, *rewards: float) -> Rollouts:
    """What was drawn for a job, and judged."""
    drawn = [
        Completion(prompt=0, sample=n, tokens=np.array([5]), logprobs=np.array([-1.0]), stopped=True, routes=None)
        for n in range(STAGE.samples)
    ]
    given = np.resize(np.array(rewards, np.float32), STAGE.samples)
    return replace(Rollouts.of(job.uid, job.item, job.version, job.prompt, drawn), rewards=given, outcomes=given >= 1.0)


def test_after_a_restart_all_are_admitted_that_may_be_before_a_batch_is_taken(open_books, monkeypatch):
    before, again = open_books("before"), open_books("again")
    again.kept = {job.uid: answered(job, 0.0) for job in before.admit(0)}
    one = learner(books=again, actor=SimpleNamespace(inbox=queue.Queue()))
    monkeypatch.setattr(again, "take", lambda version: [] if again.controller.may_admit(version) == 0 else None)
    assert one._wait(0) == []
    assert one.actor.inbox.qsize() == 8, "kept ones taught nothing, and as many others are drawn"


def test_after_a_restart_answers_are_used_again_that_are_asked_for_again_and_of_weights_that_are_there(open_books):
    stage = replace(STAGE, order=EarliestDeadline(), filtered=False)
    books = open_books("journal", stage)

    def judge(*jobs):
        for job in jobs:
            books.judged(answered(job, 1.0, 0.0))

    books.begin()
    drawn = books.admit(0)
    judge(*drawn[:5])
    assert len(books.take(0)) == 4
    state = books.state()
    judge(*drawn[5:], *books.admit(1)[:1])
    assert len(books.take(1)) == 4
    judge(*books.admit(2)[:1])
    books.journal.close()
    again = open_books("journal", stage)
    again.restore(state)
    assert again.groups.keys() == {4}, "learned from are 0 to 3"
    assert again.kept.keys() == {5, 6, 7, 8}, "12 is of version 2, which may become another one"


def test_kinds_that_are_to_be_drawn_alike_have_to_be_known():
    with pytest.raises(ValueError, match="the tracker has no kinds to draw alike; set by_kind, or even to False"):
        replace(STAGE, sampler=Learnability(even=True), by_kind=False)
    with pytest.raises(ValueError, match="or even to False"):
        check_pacing("paced", Pacing(by="student", sampler=Learnability(even=True)), ("student",), frozen=True)


def test_a_journal_of_prompts_that_were_drawn_by_kind_is_of_other_terms(open_books):
    one, other = open_books("one"), open_books("other", replace(STAGE, by_kind=False))
    assert one.tracker.kinds is not None and other.tracker.kinds is None
    assert {name for name in one.terms if one.terms[name] != other.terms[name]} == {"by_kind"}


def test_it_says_once_a_minute_that_nothing_is_drawn(open_books, monkeypatch):
    now, said = [0.0], []

    class Silent:
        """Nothing comes for 200 seconds, then what ends it."""

        def get(self, timeout):
            now[0] += timeout
            if now[0] > 200:
                return KeyboardInterrupt()
            raise queue.Empty

    monkeypatch.setattr(learning, "time", SimpleNamespace(monotonic=lambda: now[0]))
    one = learner(
        stage=STAGE,
        books=open_books("journal"),
        actor=SimpleNamespace(inbox=queue.Queue()),
        grading=SimpleNamespace(found=Silent()),
        room=SimpleNamespace(say=said.append),
    )
    with pytest.raises(KeyboardInterrupt):
        one._wait(0)
    assert [line.partition("; ")[0] for line in said] == [
        f"rl: nothing was drawn for {seconds} s" for seconds in (61, 122, 183)
    ]
    assert said[0].endswith("8 groups are on their way, the oldest [(0, 0)], 8 wait for the actor")


def test_a_line_of_a_sampler_that_differs_from_the_learner_warns(open_books):
    one = learner(
        stage=STAGE,
        books=open_books("journal"),
        grading=SimpleNamespace(found=queue.Queue()),
        room=SimpleNamespace(
            experiment=SimpleNamespace(execution=SimpleNamespace(dtype="float32")),
            metrics=SimpleNamespace(write=lambda *_, **__: None, time=lambda *_, **__: None),
        ),
    )
    with pytest.warns(RuntimeWarning, match="stage 'rl', update 3: sampler and learner differ by 2.0e-03 nats"):
        one._write(3, {}, {"student/mismatch/0": Tally(np.float32(4e-3), np.float32(2.0))}, {})


def test_of_several_updates_of_a_batch_each_is_of_a_share_of_its_own_the_oldest_first(open_books):
    stage = replace(STAGE, updates=2, accumulate=2, max_policy_lag=3)
    groups = [replace(answered(job, 1.0, 0.0), version=job.uid // 2) for job in open_books("journal").admit(0)[:4]]
    made, ages = object.__new__(Updates), []

    def step(states, teacher, batch):
        ages.append(np.asarray(batch.targets.age).tolist())
        return states, {"loss": Tally(np.float32(3.0), np.float32(1.0))}

    made._stage, made._pad, made._mesh, made._step = stage, Bytes().pad, Mesh().build(), step
    made._hear = Deaf()
    state = object.__new__(State)
    object.__setattr__(state, "weights", None)
    _, told = made(state, groups, np.ones((4, STAGE.samples), np.float32), 1)
    assert ages == [[[1] * 4, [1] * 4], [[0] * 4, [0] * 4]] and told["loss"].count == 2
