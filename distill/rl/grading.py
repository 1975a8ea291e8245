"""Grading: from drawn groups to judged ones, in a thread of its own, so that neither who draws nor who learns waits."""

import heapq
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from distill.rl.actor import Broken
from distill.rl.rollouts import Rollouts
from distill.tasks.item import Item
from models.tokenizer import Tokenizer

Grade = Callable[[Sequence[tuple[Item, str]]], Sequence[float]]
"""from questions and answers to rewards in [0, 1], 1 for solved; NaN where nobody knows"""


@dataclass
class Grading:
    """Takes what the actor hands out, judges it, holds it back for as long as its latency says, and passes it on.

    What ends the actor, or itself, is passed on too, for the learner to raise.

    Args:
      source: what was drawn.
      item: what a group was asked.
      grade: judges answers.
      tokenizer: what the tokens mean.
      latency: seconds that a group takes, counted from when it was drawn; simulated.
    """

    source: "queue.Queue[Rollouts | Broken | BaseException]"
    item: Callable[[int], Item]
    grade: Grade
    tokenizer: Tokenizer
    latency: Callable[[int], float] | None = None
    found: "queue.Queue[Rollouts | Broken | BaseException]" = field(default_factory=queue.Queue)

    def start(self) -> None:
        """Begins to judge."""
        self._going = True
        self._thread = threading.Thread(target=self._run, name="grading", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends."""
        self._going = False
        self._thread.join()

    def _run(self) -> None:
        held: list[tuple[float, int, Rollouts]] = []
        try:
            while self._going:
                for one in self._arrived(held):
                    if not isinstance(one, Rollouts):
                        self.found.put(one)
                        continue
                    wait = 0.0 if self.latency is None else self.latency(one.uid)
                    heapq.heappush(held, (time.monotonic() + wait, one.uid, self.judge(one)))
                while held and held[0][0] <= time.monotonic():
                    self.found.put(heapq.heappop(held)[2])
        except BaseException as error:  # a reward that fails too often, or whatever else
            error.add_note(traceback.format_exc(limit=-3))
            self.found.put(error)

    def _arrived(self, held: list[tuple[float, int, Rollouts]]) -> list[Rollouts | Broken | BaseException]:
        """What was drawn by now; waits for some, until something that is held back is due."""
        wait = 0.05 if not held else min(0.05, max(0.0, held[0][0] - time.monotonic()))
        try:
            arrived = [self.source.get(timeout=wait) if wait else self.source.get_nowait()]
        except queue.Empty:
            return []
        while not self.source.empty():
            arrived.append(self.source.get_nowait())
        return arrived

    def judge(self, group: Rollouts) -> Rollouts:
        """The group with its rewards. An answer that did not end is wrong."""
        item = self.item(group.uid)
        asked = np.flatnonzero(group.stopped).tolist()
        answers = [(item, self.tokenizer.decode(group.completion(sample)[:-1])) for sample in asked]
        rewards = np.zeros(len(group.lengths), np.float32)
        rewards[asked] = self.grade(answers)
        return replace(group, rewards=rewards, outcomes=rewards >= 1.0)
