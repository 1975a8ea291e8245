"""The loop of a stage of reinforcement learning: draw, judge, learn, publish, all at once, and nothing is lost."""

import queue
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from distill.checkpoint import Checkpoints
from distill.data.batch import Batch
from distill.hold import AsItIs
from distill.loop import Interrupted, go_back
from distill.progress import Progress
from distill.reading import put
from distill.rl.actor import Actor, Broken
from distill.rl.books import Books
from distill.rl.examiner import Failed
from distill.rl.grading import Grade, Grading
from distill.rl.journal import Journal
from distill.rl.publisher import Publisher
from distill.rl.reward import Rewards
from distill.rl.rollouts import Rollouts
from distill.rl.rows import to_batch
from distill.rl.stage import Reinforcement
from distill.room import Room
from distill.selecting import chosen
from distill.state import State, Weights, abstract, parts, whole
from distill.step import Step
from distill.tasks.item import Item
from distill.teacher import LiveTeacher, StoredTeacher
from losses import Credit, token_logps
from models.sampler import Sampler
from models.sampling import Sampling

LONG = 60.0
"""seconds without anything drawn after which the learner says what it waits for"""


def run_reinforcement(room: Room, stage: Reinforcement) -> State:
    """Trains the stage's learner to its last update, from wherever an earlier process left it.

    Raises:
      Interrupted: asked to stop; a checkpoint of this very update is on disk.
      RuntimeError: the actor is dead, or so many groups failed that it cannot be an accident.
    """
    seed = zlib.crc32(f"{room.experiment.seed} {stage.stream}".encode()) & 0x7FFFFFFF
    folder = room.run.checkpoints(stage.name)
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(room.run.path / "journal" / stage.name))
        books = Books(stage, *chosen(room, stage, stage.corpus), room.experiment.tokenizer, journal, seed)
        stage.check_questions(books.longest)
        checkpoints = stack.enter_context(Checkpoints(folder, room.experiment.retention))
        state, start, published = _begin(room, stage, books, checkpoints)
        if start == stage.steps:
            return state
        publisher = Publisher(room.experiment.mesh.build())
        for version, weights in published.items():
            publisher.publish(version, weights)
        actor = Actor(_sampler(room, stage, seed), publisher, stage.samples, stage.tokens)
        rewards = stack.enter_context(Rewards([stage.reward], timeout=stage.patience))
        grading = Grading(actor.outbox, books.item, grades(rewards, stage.reward.name), room.experiment.tokenizer,
                          None if stage.latency is None else partial(stage.latency, seed))  # fmt: skip
        actor.start()
        stack.callback(actor.stop)
        grading.start()
        stack.callback(grading.stop)
        return _Learning(room, stage, books, checkpoints, publisher, actor, grading).run(state, start)


def grades(rewards: Rewards, name: str) -> Grade:
    """Has answers graded by a reward; NaN where it failed."""

    def grade(answers: Sequence[tuple[Item, str]]) -> list[float]:
        graded = rewards.grade_all((name, item.question, answer) for item, answer in answers)
        return [float("nan") if isinstance(one, Failed) else one for one in graded]

    return grade


def hearing(room: Room, stage: Reinforcement) -> Callable[[Batch], Batch]:
    """Adds what the teacher thinks of every token that was drawn to a batch [a b t]; nothing without one."""
    if stage.teacher is None:
        return lambda batch: batch
    (teacher,) = room.teachers((stage.teacher,), AsItIs())

    @jax.jit
    def hear(teacher: LiveTeacher, batch: Batch) -> Batch:
        def judge(part: Batch) -> Array:
            model, bias = teacher.weights.model, teacher.weights.bias
            hidden, _ = model(part.tokens, part.layout(), bias, teacher.execution)
            head = model.head[...].astype(hidden.dtype)
            return token_logps(hidden, head, part.labels, part.mask, stage.temperature)[0]

        assert isinstance(batch.targets, Credit)
        return replace(batch, targets=replace(batch.targets, teacher=jax.lax.map(judge, batch)))

    return lambda batch: hear(teacher, batch)


def _sampler(room: Room, stage: Reinforcement, seed: int) -> Sampler:
    return Sampler(
        slots=stage.slots,
        capacity=stage.length + 1,
        piece=min(stage.length + 1, 16),
        stride=stage.tokens,
        sampling=Sampling(temperature=stage.temperature),
        stop=(room.experiment.tokenizer.end,),
        seed=seed,
        routes=stage.replayed and stage.learner.model.moe_per_period > 0,
        execution=room.experiment.execution,
    )


def _begin(
    room: Room, stage: Reinforcement, books: Books, checkpoints: Checkpoints
) -> tuple[State, int, dict[int, Weights]]:
    """The state, the updates already made, and the versions that groups are still drawn with."""
    learner, mesh = stage.learners[0], room.experiment.mesh.build()
    if not checkpoints.steps():
        books.journal.truncate(0)
        go_back(room, stage, -1)
        state = room.newborn(learner, stage.steps)
        return state, 0, {}
    shapes = {learner.name: parts(abstract(learner, stage.steps, mesh))}
    found = checkpoints.restore(shapes)
    versions = found.meta["versions"]
    older = {f"{learner.name}-{version}": {"weights": shapes[learner.name]["weights"]} for version in versions}
    drawn = checkpoints.restore(older, step=found.step).trees if older else {}
    books.restore(found.meta["books"])
    if found.step < stage.steps:
        go_back(room, stage, found.step)
    published = {version: drawn[f"{learner.name}-{version}"]["weights"] for version in versions}
    return whole(found.trees[learner.name]), found.step, published


@dataclass
class _Learning:
    room: Room
    stage: Reinforcement
    books: Books
    checkpoints: Checkpoints
    publisher: Publisher
    actor: Actor
    grading: Grading

    def run(self, state: State, start: int) -> State:
        """The updates."""
        stage, learner = self.stage, self.stage.learners[0]
        step = jax.jit(Step((learner,), stage.steps, self.room.experiment.execution), donate_argnums=0)
        mesh, pad = self.room.experiment.mesh.build(), self.room.experiment.tokenizer.pad
        hear = hearing(self.room, stage)
        self.publisher.publish(start, state.weights)
        for job in self.books.again(start):
            self._ask([job])
        with Progress(stage.steps, stage.name, start, quiet=self.room.quiet) as bar:
            for version in range(start, stage.steps):
                began = time.monotonic()
                groups = self._wait(version)
                idle = time.monotonic() - began
                advantages = self.books.advantages(groups)
                rows = to_batch(groups, advantages, stage.rows, stage.length, pad)
                batch = hear(put(rows, stage.accumulate, mesh))
                (state,), metrics = step((state,), StoredTeacher(), batch)
                number = version + 1
                if number < stage.steps:
                    self.publisher.publish(number, state.weights)
                    self.publisher.forget(self.books.controller.oldest)
                if number % stage.log_every == 0 or number in (1, stage.steps):
                    values = {name: float(tally.mean()) for name, tally in sorted(jax.device_get(metrics).items())}
                    said = describe(groups, self.books.used, version)
                    self.room.metrics.write(stage.name, number, kind="train", **values, **said)
                    seconds = time.monotonic() - began
                    self.room.metrics.time(stage.name, number, seconds=seconds, idle=idle, drawn=self.actor.drawn)
                    bar.update(number, loss=said["reward"], tokens=int(sum(one.lengths.sum() for one in groups)))
                asked = self.room.stop.is_set()
                if number % stage.save_every == 0 or number == stage.steps or asked:
                    self._save(number, state)
                if asked and number < stage.steps:
                    self.checkpoints.wait()
                    raise Interrupted(f"stopped in stage {stage.name} after update {number} of {stage.steps}")
        self.books.controller.check()
        return state

    def _wait(self, version: int) -> list[Rollouts]:
        """The groups of an update, once they are there."""
        last = time.monotonic()
        while True:
            self._ask(self.books.admit(version))
            groups = self.books.take(version)
            if groups is not None:
                return groups
            try:
                one = self.grading.found.get(timeout=1.0)
                last = time.monotonic()
            except queue.Empty:
                self._check(last)
                continue
            self._hear(one)

    def _hear(self, one: "Rollouts | Broken | BaseException") -> None:
        if isinstance(one, BaseException):
            raise one
        if isinstance(one, Rollouts):
            return self.books.judged(one)
        job = self.books.retry(one)
        if job is not None:
            self.actor.inbox.put(job)

    def _ask(self, jobs: Sequence[Any]) -> None:
        """Has groups drawn, but for those whose answers are in the journal from before a restart."""
        for job in jobs:
            kept = self.books.kept.pop(job.uid, None)
            if kept is not None and (kept.version, kept.item) == (job.version, job.item):
                self.books.judged(kept)
            else:
                self.actor.inbox.put(job)

    def _check(self, last: float) -> None:
        if not self.actor.alive:
            raise RuntimeError(f"stage {self.stage.name}: the actor has ended, and groups are missing; start again")
        if time.monotonic() - last > LONG:
            out = self.books.controller.out
            self.room.say(
                f"{self.stage.name}: nothing was drawn for {time.monotonic() - last:.0f} s; {len(out)} groups are on "
                f"their way, the oldest {out[:1]}, {self.actor.inbox.qsize()} wait for the actor"
            )

    def _save(self, number: int, state: State) -> None:
        name = self.stage.learner.name
        self.room.glance(self.stage, number, name, state.weights)
        self.room.metrics.flush()
        trees: dict[str, Mapping[str, Any]] = {name: parts(state)}
        versions = {v: w for v, w in self.publisher.versions.items() if v < number}
        trees |= {f"{name}-{version}": {"weights": weights} for version, weights in versions.items()}
        meta = {"books": self.books.state(), "versions": sorted(versions)}
        self.checkpoints.save(number, trees, meta=meta)


def describe(groups: Sequence[Rollouts], used: Sequence[Rollouts], version: int) -> dict[str, float]:
    """What to log of an update: of the groups that it learned from, and of those it passed over for them."""
    solved = [float(one.outcomes[one.valid].mean()) for one in used if one.valid.any()]
    lags = [version - one.version for one in groups]
    lengths = np.concatenate([one.lengths for one in used]) if used else np.zeros(1)
    return {
        "reward": float(np.mean(solved)) if solved else float("nan"),
        "groups": float(len(groups)),
        "all_right": float(np.mean([rate == 1.0 for rate in solved])) if solved else float("nan"),
        "all_wrong": float(np.mean([rate == 0.0 for rate in solved])) if solved else float("nan"),
        "lag": float(np.mean(lags)) if lags else float("nan"),
        "lag_max": float(max(lags, default=0)),
        "length": float(lengths.mean()),
        "masked": float(sum((~one.valid).sum() for one in used)),
    }
