"""reasoning-gym (Open-Thought, arXiv:2505.24760): about a hundred generators of questions with levels, as pools.

It is an extra (`pip install 'herd-distill[gym]'`): one of its dependencies, pycosat 0.6.6, comes as source alone and
needs a C compiler and Python's headers to install. So nothing here needs it but `Gym`; what

    python -m distill.tasks.gym write

has made from it (short forms of a dozen of its data sets) is shipped, and read by `distill.tasks.lines.File()`.
"""

import copy
import importlib
import math
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from distill.tasks.catalogue import CAPABILITIES, REFUSED, UNSCORED
from distill.tasks.compact import COMPACT
from distill.tasks.item import LONGEST, Item, Pool
from distill.tasks.lines import SHIPPED, save
from distill.tasks.score import Strict, Verdict

LICENCE = "Apache-2.0"
"""of reasoning-gym"""
SCORED = 4096
"""characters; a longer answer is not given to a data set's own scorer"""
SHORT = 40
"""characters of a prompt that is shipped, at most"""


@dataclass(frozen=True, kw_only=True)
class Gym:
    """Questions of a data set of reasoning-gym at a level. The same fields and version of it give the same questions.

    Some generators are slow (zebra_puzzles and futoshiki take a tenth of a second and more for a question): write their
    pools to a file once.

    Raises:
      ValueError: the data set is refused or unknown, or has no such level.
    """

    task: str
    """name of the data set"""
    level: int = 0
    """steps of its curriculum, all knobs together; at each the highest span alone, so that levels do not overlap"""
    seed: int = 0
    """with the data set and the level it makes the seed that reasoning-gym is given"""
    size: int = 100
    """different questions"""
    capability: str = ""
    """what it takes; "": as in `CAPABILITIES`. A data set that is not there needs it"""
    compact: bool = False
    """in the short form (`distill.tasks.compact`), whose levels are its own"""
    longest: int = LONGEST
    """characters of a prompt; longer questions are left out"""

    def __post_init__(self) -> None:
        if self.task in REFUSED:
            raise ValueError(f"gym: {self.task} is refused: {REFUSED[self.task]}; take another data set")
        if self.task not in CAPABILITIES and not self.capability:
            raise ValueError(f"gym: what {self.task} takes is not known; set capability, or choose a known data set")
        if self.compact and self.task not in COMPACT:
            raise ValueError(f"gym: {self.task} has no short form; set compact to False, or take {', '.join(COMPACT)}")
        for name, least in (("size", 1), ("longest", 1), ("level", 0), ("seed", 0)):
            if vars(self)[name] < least:
                raise ValueError(f"gym: {name} is {vars(self)[name]}; it must be at least {least}")

    def __call__(self) -> Pool:
        """The questions, in the order in which they are drawn.

        Raises:
          ValueError: reasoning-gym is not installed, cannot make this level, or knows too few different questions.
        """
        return Pool(tuple(self._items()), "reasoning-gym", metadata.version("reasoning-gym"), LICENCE)

    def judge(self, item: Item, answer: object) -> Verdict:
        """Right by equality; raw is the mark of the data set's own scorer, NaN where it fails or is not asked.

        It is not asked where it would execute the answer, hang or reward hedging (`UNSCORED`), where nobody has read
        it (a data set that is not in `CAPABILITIES`), nor for answers of more than 4096 characters. Of a short form it
        is not asked either: it knows other answers.

        Raises:
          ValueError: the item is not a question of this one, or is under a system.
        """
        if (item.task, item.level, item.system) != (self.task, self.level, "") or (
            "index" not in item.metadata and not self.compact
        ):
            raise ValueError(f"gym: item {item.id} is no plain question of {self.task} at level {self.level}")
        right = Strict()(item.question, answer) == 1
        asked = self.task in CAPABILITIES and self.task not in UNSCORED and not self.compact
        if not asked or not isinstance(answer, str) or len(answer) > SCORED:
            return Verdict(right, math.nan)
        return Verdict(right, self._mark(int(item.metadata["index"]), answer))

    def _mark(self, index: int, answer: str) -> float:
        data, entry = self._data, copy.deepcopy(self._entry(index))  # some scorers write into the entry
        try:
            mark = float(data.score_answer(answer, entry))
        except Exception:  # other people's code on whatever a model wrote: prime_factorization fails on any word
            return math.nan
        return mark if math.isfinite(mark) else math.nan

    def _items(self) -> Iterator[Item]:
        """Different questions with an answer."""
        seen: set[str] = set()
        for index in range(self._draws):
            prompt, answer = self._read(self._entry(index))
            if not answer.strip() or prompt in seen or len(prompt) > self.longest:
                continue
            seen.add(prompt)
            id = f"{self.task}/{self.level}/{self.seed}.{index:05}"
            yield Item(id=id, capability=self.capability or CAPABILITIES[self.task], task=self.task, level=self.level,
                       prompt=prompt, answer=answer, metadata={} if self.compact else {"index": index})  # fmt: skip
            if len(seen) == self.size:
                return
        raise ValueError(
            f"gym: {self.task} level {self.level} has {len(seen)} different questions of at most {self.longest} "
            f"characters in {self._draws} draws; set size to at most that"
        )

    def _read(self, entry: dict[str, Any]) -> tuple[str, str]:
        """Prompt and answer; "" where there is none."""
        if self.compact:
            return COMPACT[self.task].prompt(entry), COMPACT[self.task].answer(entry)
        return entry["question"], entry["answer"] if isinstance(entry["answer"], str) else ""

    def _entry(self, index: int) -> dict[str, Any]:
        try:
            return self._data[index]
        except Exception as error:  # some cannot make what their own curriculum asks for
            raise self._failed(error) from error

    @property
    def _draws(self) -> int:
        return 20 * self.size + 1000

    @cached_property
    def _data(self) -> Any:
        factory = _module("reasoning_gym").factory
        if self.task not in factory.DATASETS:
            raise ValueError(f"gym: reasoning-gym has no data set {self.task!r}; take one of {', '.join(CAPABILITIES)}")
        settings = self._settings(factory)
        try:
            return factory.DATASETS[self.task][0](config=settings)
        except Exception as error:
            raise self._failed(error) from error

    def _settings(self, factory: Any) -> Any:
        """The data set's own configuration, at this level."""
        # reasoning-gym draws by seed + index: neighbouring seeds would share all but a few questions, and the levels
        # of one seed show each other's answers (a board with more holes is the same board).
        seed = zlib.crc32(f"{self.task} {self.level} {self.seed}".encode())
        size = {"seed": seed, "size": self._draws}
        if self.compact:
            levels = COMPACT[self.task].levels
            self._check_level(len(levels))
            return factory.DATASETS[self.task][1](**levels[self.level], **size)
        if not factory.has_curriculum(self.task):
            self._check_level(1)
            return factory.DATASETS[self.task][1](**size)
        curriculum = factory.create_curriculum(self.task)
        for step in range(self.level):
            if not curriculum.increment_global_level():
                self._check_level(step + 1)
        coaching = _module("reasoning_gym.coaching.base_curriculum")
        highest = coaching.DefaultCurriculumContext(mode=coaching.RangeAttributeMode.UPPER_BOUND)
        return curriculum.generate_configuration(size, context=highest)

    def _check_level(self, levels: int) -> None:
        if self.level >= levels:
            raise ValueError(f"gym: {self.task} has the levels 0 to {levels - 1}; level is {self.level}")

    def _failed(self, error: Exception) -> ValueError:
        return ValueError(
            f"gym: reasoning-gym cannot make {self.task} at level {self.level}: {type(error).__name__}: {error}; "
            "take another level"
        )


def write(path: Path) -> Pool:
    """Writes the pool that is shipped: 60 short forms of every level of every data set that has one."""
    pools = [
        Gym(task=task, level=level, size=60, compact=True, longest=SHORT)()
        for task, form in COMPACT.items()
        for level in range(len(form.levels))
    ]
    pool = Pool(tuple(item for one in pools for item in one), pools[0].generator, pools[0].version, LICENCE)
    save(pool, path)
    return pool


def main(arguments: Sequence[str]) -> None:
    """`write [FILE]`: what is shipped, made anew from the reasoning-gym that is installed.

    Raises:
      SystemExit: other arguments.
    """
    if len(arguments) not in (1, 2) or arguments[0] != "write":
        raise SystemExit("usage: python -m distill.tasks.gym write [FILE]")
    path = Path(arguments[1]) if len(arguments) == 2 else SHIPPED
    print(f"{len(write(path))} items in {path}")


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            "gym: reasoning-gym is not installed; pip install 'herd-distill[gym]' (it needs a C compiler), or read the "
            "questions that are shipped: distill.tasks.lines.File()"
        ) from error


if __name__ == "__main__":
    main(sys.argv[1:])
