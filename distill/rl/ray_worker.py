"""A worker of Ray's that draws: an actor in a process and a JAX of its own."""

import os
import queue
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from distill.mesh import Mesh
from distill.process import settle
from distill.rl.actor import PATIENCE, Actor, Broken, Job, Source
from distill.rl.part import Part
from distill.rl.rollouts import Rollouts
from distill.state import Weights


class Shelf:
    """The versions that a worker has, each gotten when it is first asked for."""

    def __init__(self) -> None:
        self._sources: dict[int, Source] = {}
        self._weights: dict[int, Weights] = {}

    def add(self, sources: Mapping[int, Source], oldest: int) -> None:
        """Versions that it can get from now on; those before `oldest` go."""
        self._sources |= sources
        self._sources = {version: one for version, one in self._sources.items() if version >= oldest}
        self._weights = {version: one for version, one in self._weights.items() if version >= oldest}

    def missing(self, versions: Iterable[int]) -> set[int]:
        """Those that it knows nothing of."""
        return set(versions) - self._sources.keys()

    def get(self, version: int, patience: float | None = None) -> Weights:
        """The weights of a version that it knows of."""
        if version not in self._weights:
            self._weights[version] = self._sources[version].get(version, patience)
        return self._weights[version]


class Worker:
    """Draws groups, one call at a time; in every bit what an actor in the learner's process would draw.

    Args:
      part: what it is told.
      mesh: its own, in the numbers of its own devices.
    """

    def __init__(self, part: Part, mesh: Mesh) -> None:
        settle()
        self._shelf, place = Shelf(), mesh.build()
        self._actor = Actor(part.apart(place), self._shelf, part.samples, part.limit, mesh=place)
        self._actor.start()

    def ready(self) -> bool:
        """Says that it is there."""
        return self._actor.alive

    def process(self) -> int:
        """The number of its process, on its host."""
        return os.getpid()

    def missing(self, versions: Iterable[int]) -> set[int]:
        """Versions that it was not told of: all of them, if it has come in the place of one that died."""
        return self._shelf.missing(versions)

    def draw(
        self, jobs: Sequence[Job], sources: Mapping[int, Source], oldest: int
    ) -> Iterator[tuple[Rollouts | Broken, int, Counter[str]]]:
        """Groups as they are done, and with each the tokens that were drawn since the last, and the faults met.

        Args:
          jobs: groups to draw.
          sources: of versions that it was not told of before. If that is not all that it lacks, as it is another than
            was asked, it draws nothing.
          oldest: versions before it are not asked for again.

        Raises:
          RuntimeError: its actor fell for good.
        """
        self._shelf.add(sources, oldest)
        if self._shelf.missing(job.version for job in jobs):
            return
        before = self._counts()
        for job in jobs:
            self._actor.inbox.put(job)
        for _ in jobs:
            found, now = self._next(), self._counts()
            yield found, now[0] - before[0], now[1] - before[1]
            before = now  # it draws on while nobody asks: what that counts is told with the next one

    def _counts(self) -> tuple[int, Counter[str]]:
        return self._actor.drawn, self._actor.faults.copy()

    def _next(self) -> Rollouts | Broken:
        waited = 0.0
        while True:
            try:
                found = self._actor.outbox.get(timeout=1.0)
                if isinstance(found, BaseException):
                    raise found
                return found
            except queue.Empty:
                waited += 1.0
                if not self._actor.alive or waited > 2 * PATIENCE:
                    raise RuntimeError(
                        f"the actor in this worker drew nothing for {waited:.0f} s; start again"
                    ) from None
