"""A simulation of workers, a learner and a publisher around a controller, by a heap of what happens next."""

import heapq
import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from distill.rl.order import EarliestDeadline, FirstInFirstOut, Group, Limits, Line, Order, Standing
from distill.rl.staleness import Controller


def fate(uid: int, salt: int, filtered: float, poisoned: float) -> str:
    """What becomes of a group: it follows from the group, and not from when it is drawn."""
    chance = ((uid * 2654435761 + salt * 40503) >> 5) % 65536 / 65536
    return "poisoned" if chance < poisoned else "filtered" if chance < poisoned + filtered else "completed"


@dataclass
class World:
    """Runs `updates` steps; keeps books of its own of every group, to compare with the controller's."""

    random: Random
    limits: Limits
    order: Order
    latency: Callable[[Random], float]
    learning: float = 0.3
    publishing: float = 0.1
    workers: int = 4
    filtered: float = 0.0
    poisoned: float = 0.0
    salt: int = 0
    updates: int = 6
    jump: float = 0.0
    crash: float = 0.0
    versions: dict[int, int] = field(default_factory=dict)
    ends: dict[int, str] = field(default_factory=dict)
    batches: list[tuple[int, list[int]]] = field(default_factory=list)
    crashes: int = 0
    time: float = 0.0

    def run(self) -> "World":
        self.controller = Controller(self.limits, self.order)
        self.version = self.published = self.count = 0
        self.heap, self.free, self.waiting, self.idle = [], self.workers, [], True
        self.kept = self.checkpoint()
        while self.version < self.updates:
            self.go()
            assert self.heap, f"deadlock at step {self.version}: {self.controller}"
            self.time, _, happen, what = heapq.heappop(self.heap)
            happen(what)
            if self.crash and self.random.random() < self.crash:
                self.fall() if self.random.random() < 0.5 or not self.idle else self.keep()
        self.controller.check()
        return self

    def later(self, after: float, happen: Callable, what: int) -> None:
        self.count += 1
        heapq.heappush(self.heap, (self.time + after, self.count, happen, what))

    def go(self) -> None:
        """Whoever is free starts what the controller allows."""
        for actor in (self.random.randint(0, self.published), self.published):  # one of them has not heard of the last
            idle = self.free - len(self.waiting)
            for _ in range(min(idle, self.controller.may_admit(actor)) if idle else 0):
                uid = self.controller.line.admitted
                assert uid not in self.versions
                self.versions[uid] = self.controller.admit(uid, actor)
                self.waiting.append(uid)
        while self.free and self.waiting:
            uid = self.waiting.pop(0)
            assert self.controller.oldest <= self.versions[uid] <= self.published
            self.free -= 1
            self.later(self.latency(self.random), self.end, uid)
        if self.idle:
            for uid in self.controller.expire(self.version):
                self.ends[uid] = "expired"
            batch = self.controller.take(self.version)
            if batch is not None:
                self.learn(batch)

    def learn(self, batch: list[int]) -> None:
        for uid in batch:
            assert uid not in self.ends and 0 <= self.version - self.versions[uid] <= self.limits.max_policy_lag
            self.ends[uid] = "consumed"
        self.batches.append((self.version, batch))
        self.idle = False
        self.later(self.learning * self.random.random(), self.learned, 2 if self.random.random() < self.jump else 1)

    def learned(self, steps: int) -> None:
        self.version += steps
        self.idle = True
        # Whoever was told of a jump has a controller that knows of it before anybody publishes.
        for uid in self.controller.expire(self.version):
            self.ends[uid] = "expired"
        self.later(self.publishing * self.random.random(), self.publish, self.version)

    def publish(self, version: int) -> None:
        self.published = max(self.published, version)

    def end(self, uid: int) -> None:
        self.free += 1
        how = fate(uid, self.salt, self.filtered, self.poisoned)
        tell = {"filtered": self.controller.filtered, "poisoned": self.controller.poisoned}
        wanted = tell.get(how, self.controller.completed)(uid)
        assert wanted == (uid not in self.ends)
        if wanted and how != "completed":
            self.ends[uid] = how

    def checkpoint(self) -> tuple:
        kept = json.dumps([self.controller.state(), self.version, len(self.batches)])
        return kept, dict(self.versions), dict(self.ends)

    def keep(self) -> None:
        self.kept = self.checkpoint()

    def fall(self) -> None:
        """Everything dies; the checkpoint is restored, and what was on its way drawn anew by the version it had."""
        self.crashes += 1
        (kept, versions, ends) = self.kept
        state, self.version, batches = json.loads(kept)
        self.versions, self.ends = dict(versions), dict(ends)
        del self.batches[batches:]
        self.controller = Controller.restore(state, self.limits, self.order)
        assert self.controller.state() == state
        self.published, self.heap, self.free, self.idle = self.version, [], self.workers, True
        self.waiting = [uid for uid, _ in self.controller.out]


@dataclass(frozen=True)
class ReadyFirst:
    """What is not shipped, as it bounds nothing: capacity (k + v + 1) B - accepted - running, and who is ready goes."""

    k: int

    def opened(self, line: Line) -> int:
        return 0

    def places(self, line: Line, published: int) -> list[int]:
        dropped = sum(group.standing is Standing.DROPPED for group in line.groups.values())
        return [published] * max(0, (self.k + line.step + 1) * line.limits.batch - line.admitted + dropped)

    def follows(self, version: int, step: int) -> bool:
        return version == step

    def late(self, line: Line) -> list[Group]:
        return []

    def batch(self, line: Line) -> list[Group] | None:
        ready = [group for group in line.live() if group.standing is Standing.READY][: line.limits.batch]
        return ready if len(ready) == line.limits.batch else None


def schedule(seed: int) -> World:
    """A random schedule: sizes, order, latencies, faults; half of them crash."""
    random = Random(seed)
    lag = random.randint(0, 4)
    depth, batch, factor = random.randint(0, lag), random.randint(1, 4), random.randint(1, 4)
    order = random.choice([FirstInFirstOut(), EarliestDeadline()])
    spread = random.choice([0.1, 1.0, 3.0])
    return World(
        random,
        Limits(batch=batch, max_policy_lag=lag, pipeline_depth=depth, max_refill_factor=factor),
        order,
        latency=lambda random: math.exp(spread * random.gauss(0.0, 1.0)) * 0.2,
        learning=random.choice([0.0, 0.3, 3.0]),
        publishing=random.choice([0.0, 0.3, 3.0]),
        workers=random.randint(1, 8),
        filtered=random.choice([0.0, 0.3, 0.9]),
        poisoned=random.choice([0.0, 0.1]),
        salt=seed,
        jump=random.choice([0.0, 0.0, 0.3]) if order == EarliestDeadline() else 0.0,
        crash=random.choice([0.0, 0.05]),
    )


def many(count: int) -> dict[str, int]:
    """Runs the first so many schedules; what was seen in all of them.

    The bound is asserted at every consumption, by books of the simulation's own, and that nobody waits forever.
    """
    seen = Counter(dict.fromkeys(("schedules", "lost", "uneven", "missing"), 0))
    for seed in range(count):
        world = schedule(seed).run()
        one, ends = world.controller, Counter(world.ends.values())
        seen.update(ends)
        seen.update(
            schedules=1,
            lost=abs(len(world.versions) - sum(ends.values()) - len(one.line.live())),
            uneven=any(one.ends[end] != ends[end] for end in one.ends) or sum(one.lags) != ends["consumed"],
            missing=not world.jump and (ends["expired"] or [at for at, _ in world.batches] != list(range(6))),
            crashes=world.crashes,
            short=one.short,
            skipped=one.skipped,
            lagged=sum(one.lags[1:]),
        )
    return seen


if __name__ == "__main__":
    print(json.dumps(many(int(sys.argv[1]))))
