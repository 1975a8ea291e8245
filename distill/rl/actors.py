"""Who draws: actors in threads of this process, on the learner's devices or on others."""

import queue
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax

from distill.mesh import Mesh
from distill.rl.actor import Actor, Broken, Job
from distill.rl.part import Part
from distill.rl.publisher import Publisher
from distill.rl.publishing import Publishing
from distill.rl.rollouts import Rollouts


@runtime_checkable
class Drawing(Protocol):
    """Those who draw, together, as the learner's side sees them."""

    inbox: "queue.Queue[Job | None]"
    outbox: "queue.Queue[Rollouts | Broken | BaseException]"

    @property
    def publisher(self) -> Publishing:
        """Of the versions that they draw with."""
        ...

    @property
    def drawn(self) -> int:
        """Tokens so far."""
        ...

    @property
    def waited(self) -> float:
        """Seconds that each of them waited for jobs and for weights, on average."""
        ...

    def start(self) -> None:
        """Begins to draw."""
        ...

    def stop(self) -> None:
        """Ends when what is being drawn is done."""
        ...


@dataclass(frozen=True)
class Threads:
    """In threads of the learner's process."""

    def check(self, stage: str, own: Mesh | None, home: Mesh) -> None:
        """Refuses a mesh of their own that has devices of the learner's."""
        try:
            if own is not None:
                own.check_apart(home, "actor-on")
        except ValueError as error:
            raise ValueError(f"stage {stage!r}: the actor's mesh and the learner's overlap: {error}") from error

    def team(self, part: Part, folder: Path, faults: Counter[str] | None = None) -> "Team":
        """The actors, and what publishes to them, all of whom count `faults`; nothing is written into `folder`.

        Raises:
          ValueError: as of `Team`.
        """
        return Team(part, faults)


class Team:
    """Actors that take jobs from one inbox: who is free draws what waits. What one actor is, they are together.

    Raises:
      ValueError: there are several processes, or fewer devices than their mesh needs.
    """

    def __init__(self, part: Part, faults: Counter[str] | None = None) -> None:
        if part.own is not None and jax.process_count() > 1:
            raise ValueError(
                f"actors live apart within one process, and there are {jax.process_count()}; leave actor_on out"
            )
        places = [one.build() for one in ((part.home,) if part.own is None else part.own.copies())]
        counted = Counter[str]() if faults is None else faults
        self.publisher = Publisher(*places, dtype=part.sampler.execution.dtype, faults=counted)
        self.inbox: queue.Queue[Job | None] = queue.Queue()
        self.outbox: queue.Queue[Rollouts | Broken | BaseException] = queue.Queue()
        most = None if len(places) == 1 else part.share(len(places))
        self._actors = [
            Actor(part.sampler if part.own is None else part.apart(place), self.publisher.at(number), part.samples,
                  part.limit, most=most, mesh=None if part.own is None else place, inbox=self.inbox,
                  outbox=self.outbox, faults=counted)
            for number, place in enumerate(places)
        ]  # fmt: skip

    def start(self) -> None:
        """Begins to draw."""
        for actor in self._actors:
            actor.start()

    def stop(self) -> None:
        """Ends when what is being drawn is done."""
        for _ in self._actors:
            self.inbox.put(None)
        for actor in self._actors:
            actor.join()

    @property
    def drawn(self) -> int:
        """Tokens so far."""
        return sum(actor.drawn for actor in self._actors)

    @property
    def waited(self) -> float:
        """Seconds that each of them waited for jobs and for weights, on average."""
        return sum(actor.idle.seconds for actor in self._actors) / len(self._actors)
