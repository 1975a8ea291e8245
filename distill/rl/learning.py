"""Learning: the updates of a stage of reinforcement learning, each of the groups that are due to it."""

import queue
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from distill.checkpoint import Checkpoints
from distill.loop import Interrupted, check_finite
from distill.rl.actor import Broken
from distill.rl.actors import Drawing
from distill.rl.books import Books
from distill.rl.grading import Grading
from distill.rl.lines import Pace, check_mismatch, describe
from distill.rl.rollouts import Rollouts
from distill.rl.stage import Reinforcement
from distill.rl.updates import Updates
from distill.rl.view import View
from distill.room import Room
from distill.state import State, parts
from distill.step import Metrics

LONG = 60.0
"""seconds without anything drawn after which the learner says what it waits for, and as often again"""


@dataclass
class Learning:
    """Waits for groups, learns from them, publishes what it has become, and saves it.

    Args:
      room, stage: what is trained, and where.
      books: say what to draw and what to learn from.
      checkpoints: where it is saved.
      actor, grading: who draws, and is given its weights; who judges.
    """

    room: Room
    stage: Reinforcement
    books: Books
    checkpoints: Checkpoints
    actor: Drawing
    grading: Grading

    def run(self, state: State, start: int) -> State:
        """The updates."""
        stage, updates, pace = self.stage, Updates(self.room, self.stage), Pace(self.actor)
        publisher = self.actor.publisher
        publisher.publish(start, state.weights)
        for job in self.books.again():
            self._ask([job])
        with View(stage.steps, stage.name, start, quiet=self.room.quiet) as view, self.room.traced(stage) as trace:
            for version in range(start, stage.steps):
                trace(version + 1, state)
                with pace.waiting:
                    groups = self._wait(version)
                lags, accounts = stage.lags([one.version for one in groups], version), self.books.accounts()
                assert max(lags, default=0) <= stage.max_policy_lag, f"{lags} steps old, {stage.max_policy_lag} allowed"
                state, metrics = updates(state, groups, self.books.advantages(groups), version)
                check_finite(stage.name, stage.learner.name, int(state.skipped))
                number, tokens = version + 1, int(sum(one.lengths[one.valid].sum() for one in groups))
                if number < stage.steps:
                    publisher.publish(number, state.weights)
                    publisher.forget(self.books.controller.oldest)
                pace.learned(tokens)
                if number % stage.log_every == 0 or number in (1, stage.steps):
                    said = describe(lags, self.books.used, stage.max_policy_lag) | accounts
                    view.update(number, *self._write(number, said, metrics, pace.line()))
                asked = self.room.stop.is_set()
                if number % stage.save_every == 0 or number == stage.steps:
                    self.room.glance(stage, number, stage.learner.name, state.weights)
                    self._save(number, state)
                elif asked:
                    self._save(number, state)
                if asked and number < stage.steps:
                    self.checkpoints.wait()
                    raise Interrupted(f"stopped in stage {stage.name} after update {number} of {stage.steps}")
        return state

    def _write(
        self, number: int, said: Mapping[str, float], metrics: Metrics, pace: Mapping[str, float]
    ) -> tuple[dict[str, float | int], dict[str, float | int]]:
        """Writes the lines of an update, of what it learned and of how long it took; returns both."""
        stage, books, found = self.stage, self.books, jax.device_get(metrics)
        values = {name: float(tally.mean()) if tally.count else float("nan") for name, tally in sorted(found.items())}
        same = values[f"{stage.learner.name}/mismatch/0"]
        check_mismatch(stage.name, number, same, self.room.experiment.execution.dtype)
        self.room.metrics.write(stage.name, number, kind="train", **values, **said)
        judged, faults = self.grading.found.qsize(), {f"faults/{name}": count for name, count in books.faults.items()}
        queues = {"ready": books.controller.ready + judged, "under_way": len(books.controller.out) - judged}
        timed = {**pace, **queues, **faults}
        self.room.metrics.time(stage.name, number, **timed)
        return {**values, **said}, timed

    def _wait(self, version: int) -> list[Rollouts]:
        """The groups of an update, once they are there."""
        last = told = time.monotonic()
        while True:
            while jobs := self.books.admit(version):  # answers that were kept may make room for more
                self._ask(jobs)
            groups = self.books.take(version)
            if groups is not None:
                return groups
            try:
                one = self.grading.found.get(timeout=1.0)
                last = told = time.monotonic()
            except queue.Empty:
                if time.monotonic() - told > LONG:
                    told = time.monotonic()
                    self._tell(told - last)
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

    def _tell(self, seconds: float) -> None:
        out = self.books.controller.out
        self.room.say(
            f"{self.stage.name}: nothing was drawn for {seconds:.0f} s; {len(out)} groups are on their way, the oldest "
            f"{out[:1]}, {self.actor.inbox.qsize()} wait for the actor"
        )

    def _save(self, number: int, state: State) -> None:
        name = self.stage.learner.name
        self.room.metrics.flush()
        versions = {v: w for v, w in self.actor.publisher.versions.items() if v < number}
        trees: dict[str, Mapping[str, Any]] = {name: parts(state)}
        trees |= {f"{name}-{version}": {"weights": weights} for version, weights in versions.items()}
        meta = {"books": self.books.state(), "versions": sorted(versions)}
        self.checkpoints.save(number, trees, meta=meta)
