"""The actor: draws groups of completions on its own devices, in a thread of its own, while the learner learns."""

import queue
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Int

from distill.rl.rollouts import Rollouts
from distill.rl.stopwatch import Stopwatch
from distill.state import Weights
from models.request import Completion, Request
from models.sampler import Sampler

PATIENCE = 600.0
"""seconds that it waits for a version to be published"""


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
    whatever is drawn beside it. Several may share an inbox and an outbox.

    Args:
      sampler: draws the completions.
      source: has the weights of every version that jobs ask for.
      samples: completions of a group.
      limit: tokens of a completion, at most.
      most: jobs that it takes at a time; None: all that wait, for one who has the inbox to itself.
      mesh: that it draws on, if that is not where jax begins its arrays.
    """

    sampler: Sampler
    source: Source
    samples: int
    limit: int
    most: int | None = None
    mesh: jax.sharding.Mesh | None = None
    inbox: "queue.Queue[Job | None]" = field(default_factory=queue.Queue)
    outbox: "queue.Queue[Rollouts | Broken]" = field(default_factory=queue.Queue)
    drawn: int = 0
    """tokens so far"""
    idle: Stopwatch = field(default_factory=Stopwatch)
    """how long it has waited for jobs, and for the weights they ask for"""

    def start(self) -> None:
        """Begins to draw."""
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
        """Whether it still draws."""
        return self._thread.is_alive()

    def _run(self) -> None:
        going = True
        with jax.default_device(None if self.mesh is None else self.mesh.devices.flat[0]):
            while going:
                with self.idle:
                    waiting, going = waiting_jobs(self.inbox, self.most)
                for version in sorted({job.version for job in waiting}):
                    self._draw(version, [job for job in waiting if job.version == version])

    def _draw(self, version: int, jobs: Sequence[Job]) -> None:
        """Draws groups of one version; where that fails, says so of each that is not there yet."""
        left = {job.uid: job for job in jobs}
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
                    job = left.pop(one.prompt)
                    self.outbox.put(Rollouts.of(job.uid, job.item, version, job.prompt, said.pop(job.uid)))
        except Exception:  # whatever it was: the learner decides what becomes of the group
            reason = traceback.format_exc(limit=-3)
            for job in left.values():
                self.outbox.put(Broken(job, reason))


def waiting_jobs(inbox: "queue.Queue[Job | None]", most: int | None) -> tuple[list[Job], bool]:
    """Jobs that wait, at least one and at most `most`, and whether there will be more: None in their place ends it."""
    jobs = [inbox.get()]
    while jobs[-1] is not None and (most is None or len(jobs) < most):
        try:
            jobs.append(inbox.get_nowait())
        except queue.Empty:
            break
    return [job for job in jobs if job is not None], jobs[-1] is not None
