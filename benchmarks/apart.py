"""Does a teacher on devices of its own work while its students do? A timeline, and the time of a step three ways.

  in the step   the teacher's pass inside the students' program, on the learners' devices
  apart         on as many devices of its own, a batch ahead, as a stage with `teacher_on` does
  in turn       the same, but waiting for each other: what apart would take if nothing overlapped

Needs two accelerators; on a CPU it makes virtual devices, which share the cores: there overlapping cannot be faster
than the cores allow, and the timeline alone shows whether passes and steps run at the same time. Use --devices 1 there:
JAX's CPU client runs programs that have collectives one after the other, on whichever devices they are.

    python -m benchmarks.apart
"""

import os
import sys

if "jax" not in sys.modules and os.environ.get("JAX_PLATFORMS", "cpu") == "cpu":
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import argparse  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402

from benchmarks.codistil import SETTINGS, STEPS, Setting, batch_of  # noqa: E402
from benchmarks.timing import alternate  # noqa: E402
from distill import mesh as meshes  # noqa: E402
from distill.apart import Far  # noqa: E402
from distill.mesh import Mesh  # noqa: E402
from distill.stage import Learner  # noqa: E402
from distill.state import create  # noqa: E402
from distill.step import Step  # noqa: E402
from distill.teacher import HeardTeacher, LiveTeacher  # noqa: E402
from models.execution import Execution  # noqa: E402


class Sides:
    """A teacher here and there, and students that step."""

    def __init__(self, setting: Setting, devices: int):
        home, away = Mesh(data=devices), Mesh(data=devices, first=devices)
        self._learners = tuple(Learner(name=f"student{i}", model=model) for i, model in enumerate(setting.students))
        self._step = jax.jit(Step(self._learners, STEPS, Execution()), donate_argnums=0)
        one = Learner(name="teacher", model=setting.teacher)
        self._near = LiveTeacher(create(one, STEPS, home.build(), 0).weights)
        self.far = Far(LiveTeacher(create(one, STEPS, away.build(), 0).weights), away.build(), home.build())
        self._voice = HeardTeacher(self.far.head("float32"))
        self.batch = jax.device_put(batch_of(setting), meshes.rows(home.build(), leading=1))
        self._home = home.build()

    def newborn(self) -> Any:
        """States before the first step."""
        return tuple(create(each, STEPS, self._home, 0) for each in self._learners)

    def run(self, steps: int, apart: bool, ahead: bool, note: Callable[[str, int, Any], None]) -> Any:
        """So many steps from the beginning; `note` hears of every array that is on its way."""
        states, heard = self.newborn(), self.far.hear(self.batch) if apart else self.batch
        for number in range(steps):
            states, metrics = self._step(states, self._voice if apart else self._near, heard)
            note("students", number, jax.tree.leaves(metrics)[0])
            if apart and number + 1 < steps:
                if not ahead:
                    jax.block_until_ready(states)
                heard = self.far.hear(self.batch)
                note("teacher", number + 1, heard.heard)
                if not ahead:
                    jax.block_until_ready(heard)
        return states


def timeline(sides: Sides, steps: int) -> None:
    """When each pass and step was asked for, and when it was done, in ms."""
    lines, waiting, start = [], [], time.perf_counter()

    def note(who: str, number: int, array: Any) -> None:
        asked = time.perf_counter() - start

        def wait() -> None:
            array.block_until_ready()
            lines.append((asked, time.perf_counter() - start, who, number))

        waiting.append(threading.Thread(target=wait))
        waiting[-1].start()

    sides.run(steps, True, True, note)
    for each in waiting:
        each.join()
    done = {(who, number): end for _, end, who, number in lines}
    print("batch             asked for       done, ms")
    for asked, end, who, number in sorted(lines):
        print(f"{number:5d}  {who:10s} {1e3 * asked:9.1f}  {1e3 * end:9.1f}")
    early = [
        n
        for n in range(1, steps)
        if next(a for a, _, w, i in lines if (w, i) == ("teacher", n)) < done["students", n - 1]
    ]
    print(f"the pass over the next batch was asked for before the step was done: {len(early)} of {steps - 1} times")
    first = [n for n in range(1, steps) if done["teacher", n] < done["students", n - 1]]
    print(f"and was done before that step was: {len(first)} of {steps - 1} times")


def main() -> None:
    """The timeline and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="herd")
    parser.add_argument("--steps", type=int, default=6, help="of a measured run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--devices", type=int, default=0, help="of either side; half of those there are (on a CPU 1)")
    asked = parser.parse_args()
    sides = Sides(
        SETTINGS[asked.setting], asked.devices or (1 if jax.default_backend() == "cpu" else jax.device_count() // 2)
    )

    def quiet(who: str, number: int, array: Any) -> None:
        return None

    forms = {"in the step": (False, False), "apart": (True, True), "in turn": (True, False)}
    calls = {name: (lambda form=form: sides.run(asked.steps, *form, quiet)) for name, form in forms.items()}
    table = alternate(calls, asked.rounds, warm=1, patience=2.0)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {asked.steps} steps of {asked.setting}")
    print(table.show("in the step", "in turn"))
    timeline(sides, asked.steps)


if __name__ == "__main__":
    main()
