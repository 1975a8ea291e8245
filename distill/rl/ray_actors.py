"""Who draws, on other hosts too: Ray's actors, each its own process and JAX, which may die and are replaced."""

import queue
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from distill.mesh import Mesh
from distill.rl.actor import Broken, Job, waiting_jobs
from distill.rl.on_disk import OnDisk
from distill.rl.part import Part
from distill.rl.publishing import Across, Form
from distill.rl.pulled import Pulled
from distill.rl.ray_cluster import cluster
from distill.rl.ray_store import ObjectStore
from distill.rl.rollouts import Rollouts
from distill.rl.stopwatch import Stopwatch

BACK = 300.0
"""seconds in which a worker that died must be back"""


@dataclass(frozen=True, kw_only=True)
class RayActors:
    """Workers on a cluster of Ray's (extra: `ray`). What they draw is, in every bit, what threads would draw."""

    workers: int = 1
    cpus: float = 1.0
    """of a worker; Ray finds it a host that has them free"""
    gpus: float = 0.0
    mesh: Mesh = Mesh()
    """of a worker, over the devices that it sees"""
    weights: ObjectStore | OnDisk | Pulled = ObjectStore()
    """how weights get there"""
    cluster: str | None = None
    """address of one that runs, or "auto"; None: one on this machine, for this stage"""
    deaths: int = 3
    """of workers under one group, after which the group counts as one that could not be drawn"""

    def __post_init__(self) -> None:
        if self.workers < 1 or self.deaths < 1 or self.cpus < 0 or self.gpus < 0:
            raise ValueError(
                f"{self}: workers and deaths must be at least 1, cpus and gpus at least 0; Ray gives a worker what it "
                "is asked for"
            )

    def check(self, stage: str, own: Mesh | None, home: Mesh) -> None:
        """Refuses devices of the learner's process for those who are in others."""
        if own is not None:
            raise ValueError(
                f"stage {stage!r}: actor_on={own} is of the learner's process, and Ray's workers have "
                "others; use actors.mesh"
            )

    def team(self, part: Part, folder: Path, faults: Counter[str] | None = None) -> "RayTeam":
        """The workers, and what publishes to them, all of whom count `faults`; `folder` is the stage's own.

        Raises:
          ValueError: Ray is not installed, or there is no cluster.
        """
        return RayTeam(self, part, folder, faults)


class RayTeam:
    """Workers that take jobs from one inbox, each fed by a thread here; what a team of threads is, they are too.

    A job is asked for until its group has come: of a worker that died, when Ray has started another, with the version
    it must have. The group is the same, so nothing shows but the time. What ends one for good is in the outbox.
    """

    def __init__(self, asked: RayActors, part: Part, folder: Path, faults: Counter[str] | None = None) -> None:
        self.inbox: queue.Queue[Job | None] = queue.Queue()
        self.outbox: queue.Queue[Rollouts | Broken | BaseException] = queue.Queue()
        self.drawn = 0
        self._faults = Counter[str]() if faults is None else faults
        self._idle = [Stopwatch() for _ in range(asked.workers)]
        self._asked, self._part, self._stack, self._lock = asked, part, ExitStack(), threading.Lock()
        self._ray = self._stack.enter_context(cluster(asked.cluster, max(1, round(asked.workers * asked.cpus))))
        form = Form(model=part.model, biased=part.biased, dtype=part.sampler.execution.dtype, mesh=asked.mesh)
        try:
            carrier = asked.weights.begin(form, folder)
        except BaseException:
            self._stack.close()
            raise
        self.publisher = Across(part.home.build(), form.dtype, carrier, self._faults)

    def start(self) -> None:
        """Begins to draw; workers come up meanwhile."""
        from distill.rl.ray_worker import Worker

        asked = self._asked
        remote = self._ray.remote(Worker).options(
            num_cpus=asked.cpus, num_gpus=asked.gpus, max_restarts=-1, max_task_retries=0
        )
        self.workers = [remote.remote(self._part, asked.mesh) for _ in range(asked.workers)]
        self._threads = [
            threading.Thread(
                target=partial(self._feed, worker, self._idle[number]), name=f"worker {number}", daemon=True
            )
            for number, worker in enumerate(self.workers)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends when what is being drawn is done."""
        for _ in self._threads:
            self.inbox.put(None)
        for thread in self._threads:
            thread.join()
        for worker in self.workers:
            self._ray.kill(worker)
        self._stack.close()

    @property
    def waited(self) -> float:
        """Seconds that each of them waited for jobs, on average; coming up, and getting weights, count as work."""
        return sum(idle.seconds for idle in self._idle) / len(self._idle)

    def _feed(self, worker: Any, idle: Stopwatch) -> None:
        try:
            self._serve(worker, idle)
        except BaseException as error:  # a worker that does not come back, or whose actor fell: the learner ends of it
            self.outbox.put(error)

    def _serve(self, worker: Any, idle: Stopwatch) -> None:
        going = True
        while going:
            with idle:
                jobs, going = waiting_jobs(self.inbox, self._part.share(self._asked.workers))
            left, died = {job.uid: job for job in jobs}, 0
            while left:
                try:
                    self._draw(worker, left)
                except self._ray.exceptions.RayActorError as error:
                    died += 1
                    with self._lock:
                        self._faults["actor_restarted"] += 1
                    if died >= self._asked.deaths:
                        self._give_up(left, f"{died} workers died while they drew it; the last one: {error}")
                    self._wait(worker)

    def _draw(self, worker: Any, left: dict[int, Job]) -> None:
        """Has groups drawn, and takes out of `left` those that have come; none come of a worker that was replaced."""
        missing = self._ray.get(worker.missing.remote({job.version for job in left.values()}))
        sources, oldest = {version: self.publisher.source(version) for version in missing}, min(self.publisher.versions)
        call = worker.draw.options(num_returns="streaming")
        for found in call.remote(list(left.values()), sources, oldest):
            group, drawn, faults = self._ray.get(found)
            with self._lock:
                self.drawn += drawn
                self._faults.update(faults)
            del left[group.job.uid if isinstance(group, Broken) else group.uid]
            self.outbox.put(group)

    def _give_up(self, left: dict[int, Job], reason: str) -> None:
        for job in left.values():
            self.outbox.put(Broken(job, reason))
        left.clear()

    def _wait(self, worker: Any) -> None:
        """Until the worker is back.

        Raises:
          TimeoutError: it is not; nobody feeds it after that, and the learner hears of it.
        """
        until = time.monotonic() + BACK
        while time.monotonic() < until:
            try:
                self._ray.get(worker.ready.remote(), timeout=BACK)
                return
            except (self._ray.exceptions.RayActorError, self._ray.exceptions.GetTimeoutError):
                time.sleep(0.2)
        raise TimeoutError(f"a worker that died was not back within {BACK:.0f} s; are there hosts left?")
