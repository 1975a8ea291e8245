"""The actor: draws groups of completions on its own devices, in a thread of its own, while the learner learns."""

import queue
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Int

from distill.rl.rollouts import Rollouts
from distill.rl.stopwatch import Stopwatch
from distill.state import Weights
from models.request import Completion, Request

Draw = Callable[[Any, Iterable[Request], Any], Iterable[Completion]]
"""from a model, requests and the routers' bias to completions: a `models.sampler.Sampler`, or what stands for one"""

PATIENCE = 600.0
"""seconds that it waits for a version to be published"""
FALLS = 3
"""times in a row that it gets up again after it fell, with no group in between"""
COUNTING = threading.Lock()
"""of whoever counts a fault: actors may count into the same counter"""


@dataclass(frozen=True, eq=False)
class Job:
    """A group to be drawn."""

    uid: int
    item: str
    version: int
    prompt: Int[np.ndarray, "p"]
    retries: int = 0


@dataclass(frozen=True)
class Broken:
    """A group that could not be drawn, and why."""

    job: Job
    reason: str


@runtime_checkable
class Source(Protocol):
    """Where whoever draws finds the weights of a version."""

    def get(self, version: int, patience: float | None = None) -> Weights:
        """The weights; waits until they are there, at most `patience` seconds."""
        ...


@dataclass
class Actor:
    """Takes jobs, and hands back each group when all of its completions are there.

    Jobs of one version that wait together are drawn together; a group follows from weights, uid, prompt and seed alone,
    whatever is drawn beside it. One that could not be drawn, or has a log-probability that is not finite, comes back
    as `Broken`; tried again it is drawn alone, so that none suffers for another. An actor that falls gets up again and
    draws what it had taken, with the version that it was to have. Several may share an inbox, an outbox and a counter
    of faults.

    Args:
      sampler: draws the completions.
      source: has the weights of every version that jobs ask for.
      samples: completions of a group.
      limit: tokens of a completion, at most.
      most: jobs that it takes at a time; None: all that wait, for one who has the inbox to itself.
      mesh: that it draws on, if that is not where jax begins its arrays.
    """

    sampler: Draw
    source: Source
    samples: int
    limit: int
    most: int | None = None
    mesh: jax.sharding.Mesh | None = None
    inbox: "queue.Queue[Job | None]" = field(default_factory=queue.Queue)
    outbox: "queue.Queue[Rollouts | Broken | BaseException]" = field(default_factory=queue.Queue)
    """groups, those that could not be drawn, and last of all what it fell of for good"""
    drawn: int = 0
    """tokens so far"""
    idle: Stopwatch = field(default_factory=Stopwatch)
    """how long it has waited for jobs, and for the weights they ask for"""
    faults: Counter[str] = field(default_factory=Counter)
    """counts draws_failed, groups_unsound and actor_restarted"""

    def start(self) -> None:
        """Begins to draw."""
        self._taken: dict[int, Job] = {}
        self._going, self._falls = True, 0
        self._thread = threading.Thread(target=self._run, name="actor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends when what is being drawn is done."""
        self.inbox.put(None)
        self.join()

    def join(self) -> None:
        """Waits until it has ended."""
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether it still draws; if it does not, and was not told to stop, the outbox says why."""
        return self._thread.is_alive()

    def _run(self) -> None:
        with jax.default_device(None if self.mesh is None else self.mesh.devices.flat[0]):
            while True:
                try:
                    return self._serve()
                except BaseException as error:  # what no draw may do: a bug, or a library that ends its thread
                    self._falls += 1
                    if self._falls > FALLS:
                        told = f"the actor fell {self._falls} times in a row, the last time of {error!r}; mend that"
                        self.outbox.put(_caused(RuntimeError(told), error))
                        return
                    self._count("actor_restarted")

    def _serve(self) -> None:
        """Draws until it is told to stop and nothing is left."""
        while self._going or self._taken:
            if not self._taken:  # else it has fallen, and draws what it had taken
                with self.idle:
                    waiting, self._going = waiting_jobs(self.inbox, self.most)
                self._taken = {job.uid: job for job in waiting}
            jobs = list(self._taken.values())
            for version in sorted({job.version for job in jobs}):
                own = [job for job in jobs if job.version == version]
                together = [job for job in own if not job.retries]
                for these in [*([together] if together else []), *([job] for job in own if job.retries)]:
                    self._draw(version, these)

    def _draw(self, version: int, jobs: Sequence[Job]) -> None:
        """Draws groups of one version; where that fails, says so of each that is not there yet."""
        try:
            with self.idle:
                weights = self.source.get(version, PATIENCE)
            requests = (
                Request(prompt=job.uid, sample=sample, tokens=job.prompt, limit=self.limit)
                for job in jobs
                for sample in range(self.samples)
            )
            said: dict[int, list[Completion]] = {}
            for one in self.sampler(weights.model, requests, weights.bias):
                said.setdefault(one.prompt, []).append(one)
                self.drawn += len(one.tokens)
                if len(said[one.prompt]) == self.samples:
                    self._hand_out(self._taken[one.prompt], said.pop(one.prompt))
        except Exception:  # whatever it was: the learner decides what becomes of the group
            self._count("draws_failed")
            self._give_back([job for job in jobs if job.uid in self._taken], traceback.format_exc(limit=-3))

    def _hand_out(self, job: Job, drawn: Sequence[Completion]) -> None:
        """A whole group; none with a log-probability by which nothing could be weighed."""
        group = Rollouts.of(job.uid, job.item, job.version, job.prompt, drawn)
        if not group.sound.all():
            self._count("groups_unsound")
            count = (~group.sound).sum()
            return self._give_back([job], f"{count} of {self.samples} completions have log-probabilities without value")
        self._falls = 0
        del self._taken[job.uid]
        self.outbox.put(group)

    def _give_back(self, jobs: Sequence[Job], reason: str) -> None:
        for job in jobs:
            del self._taken[job.uid]
            self.outbox.put(Broken(job, reason))

    def _count(self, fault: str) -> None:
        with COUNTING:
            self.faults[fault] += 1


def waiting_jobs(inbox: "queue.Queue[Job | None]", most: int | None) -> tuple[list[Job], bool]:
    """Jobs that wait, at least one and at most `most`, and whether there will be more: None in their place ends it."""
    jobs = [inbox.get()]
    while jobs[-1] is not None and (most is None or len(jobs) < most):
        try:
            jobs.append(inbox.get_nowait())
        except queue.Empty:
            break
    return [job for job in jobs if job is not None], jobs[-1] is not None


def _caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error
