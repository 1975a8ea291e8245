"""Rewards: answers are graded in processes that may hang, die or raise; what fails is masked, and never scored 0."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, TypeVar, runtime_checkable

from distill.rl.examiner import Examiner, Failed, Ward

TRIED, SHARE = 50, 0.2
"""calls after which a reward that fails more than this share of them stops the run"""
DEATHS = 3
"""times that a process dies of the same answer before it is given up: it may be that somebody killed it"""


Said = TypeVar("Said", float, None)


@runtime_checkable
class Reward(Protocol):
    """Grades an answer; the same ones the same. What it needs else are parameters of its class, which are JSON."""

    def __call__(self, question: Mapping[str, Any], answer: str) -> float:
        """The reward of `answer` to a `question`, which is JSON."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """Which reward grades, under a name: a class in a module or a file, and its parameters."""

    name: str
    where: str
    """module:Name, or path/to/file.py:Name"""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    unit: bool = True
    """whether a reward that does not lie within 0 and 1 is a failure"""

    def judge(self, graded: float | Failed) -> float | Failed:
        """What is left of a grade: one out of bounds is none."""
        if self.unit and not isinstance(graded, Failed) and not 0.0 <= graded <= 1.0:
            return Failed(f"returned {graded}, which does not lie within 0 and 1; set unit=False if it may")
        return graded


@dataclass
class Tally:
    """How often a reward was asked, and failed."""

    calls: int = 0
    failed: int = 0
    last: str = ""
    """why it failed the last time"""


class Rewards:
    """A pool of grading processes for some rewards; `with Rewards([...]) as rewards:` ends them.

    Every call has a process to itself, which is killed, with what it started, when it takes longer than `timeout`. One
    that dies is begun anew, and what it was at is graded again.

    Args:
        rubrics: the rewards, each with a name of its own.
        workers: answers graded at a time.
        timeout: seconds for an answer.
        patience: seconds for a process to start, which is to import the reward.
        faults: counts answers_failed, and graders_died, of all rewards.

    Raises:
        ValueError: names are not distinct, a number is not positive, or a reward cannot be loaded.
    """

    def __init__(
        self,
        rubrics: Sequence[Rubric],
        workers: int = 2,
        timeout: float = 10.0,
        patience: float = 60.0,
        faults: Counter[str] | None = None,
    ) -> None:
        names = [rubric.name for rubric in rubrics]
        if len(set(names)) < len(names):
            raise ValueError(f"rewards are named {names}; failures are counted by name: give each its own")
        if workers < 1 or not timeout > 0 or not patience > 0:
            raise ValueError(f"workers {workers}, timeout {timeout} and patience {patience} must be above 0")
        self._rubrics = {rubric.name: rubric for rubric in rubrics}
        self._times = timeout, patience
        self._mutex, self._closed = threading.Lock(), False
        self._idle: dict[str, list[Examiner]] = {name: [] for name in names}
        self._all: list[Examiner] = []
        self.tallies = {name: Tally() for name in names}
        """by the name of the reward"""
        self.faults = Counter[str]() if faults is None else faults
        self._ward = Ward()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="rewards")
        try:
            for name in names:
                examiner = self._take(name)
                failed = self._persist(examiner.start)
                if failed:
                    raise ValueError(f"reward {name!r}, {self._rubrics[name].where}, {failed.reason}")
                self._idle[name].append(examiner)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Rewards":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def grade(self, name: str, question: Mapping[str, Any], answer: str) -> "Future[float | Failed]":
        """Has an answer graded; a reward, or why there is none, is there in time.

        Args:
            name: of the reward.
            question: JSON, whatever the reward needs to know.
            answer: what is graded.

        Raises:
            ValueError: there is no such reward, or the pool is closed.
        """
        if name not in self._rubrics:
            raise ValueError(f"there is no reward {name!r}; there are {sorted(self._rubrics)}")
        if self._closed:
            raise ValueError("the rewards are closed; grade inside their with block")
        return self._threads.submit(self._grade, name, question, answer)

    def grade_all(self, requests: Iterable[tuple[str, Mapping[str, Any], str]]) -> list[float | Failed]:
        """Has answers graded, several at a time; the results in order. `check`s after each."""
        futures = [self.grade(*request) for request in requests]
        graded: list[float | Failed] = []
        try:
            for future in futures:
                graded.append(future.result())
                self.check()
        finally:
            for future in futures:
                future.cancel()
        return graded

    def check(self) -> None:
        """Stops a run in which a reward is broken.

        Raises:
            RuntimeError: one failed more than a fifth of at least 50 calls.
        """
        for name, tally in self.tallies.items():
            if tally.calls >= TRIED and tally.failed > SHARE * tally.calls:
                raise RuntimeError(
                    f"reward {name!r} failed {tally.failed} of {tally.calls} calls; the last time it {tally.last}; "
                    f"mend {self._rubrics[name].where}, or give it more than {self._times[0]:g} seconds"
                )

    def close(self) -> None:
        """Kills the processes and waits for them; what was at work has failed, what was not begun is cancelled."""
        with self._mutex:
            self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._mutex:
            for examiner in self._all:
                examiner.stop()
        self._threads.shutdown(wait=True)
        for examiner in self._all:
            examiner.kill()
        self._ward.close()

    def _grade(self, name: str, question: Mapping[str, Any], answer: str) -> float | Failed:
        examiner = self._take(name)
        try:
            graded = self._rubrics[name].judge(self._persist(lambda: examiner.grade(question, answer)))
        finally:
            with self._mutex:
                self._idle[name].append(examiner)
        with self._mutex:
            tally = self.tallies[name]
            tally.calls += 1
            if isinstance(graded, Failed):
                tally.failed, tally.last = tally.failed + 1, graded.reason
                self.faults["answers_failed"] += 1
        return graded

    def _persist(self, attempt: Callable[[], Said | Failed]) -> Said | Failed:
        """Tries again when a process died, in another one, as nobody knows whose fault it was."""
        tries = 0
        while True:
            said, tries = attempt(), tries + 1
            if not isinstance(said, Failed) or not said.died:
                return said
            with self._mutex:
                self.faults["graders_died"] += 1
                if self._closed or tries == DEATHS:
                    return said

    def _take(self, name: str) -> Examiner:
        with self._mutex:
            if self._idle[name]:
                return self._idle[name].pop()
            rubric = self._rubrics[name]
            examiner = Examiner(rubric.where, rubric.parameters, self._ward, *self._times)
            self._all.append(examiner)
            return examiner
