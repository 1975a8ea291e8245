"""Profiles: what the devices did in some steps of each stage, for TensorBoard (XProf) and Perfetto.

    python experiments/herd.py --profile 10:13
    tensorboard --logdir runs/herd/profiles          # with tensorboard-plugin-profile installed
    # or open profiles/<stage>/plugins/profile/<time>/perfetto_trace.json.gz on https://ui.perfetto.dev

Of several processes the first alone writes one: on a pod every host sees the same program, and its own devices.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from distill.place import Place
from distill.stage import Staged


@dataclass(frozen=True)
class Profile:
    """The steps of a stage that are traced, the first and the last included, counted from 1."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise ValueError(f"--profile {self.first}:{self.last}: steps are counted from 1, the first one named first")

    @classmethod
    def parse(cls, text: str, stages: Sequence[Staged]) -> "Profile":
        """The steps that a command line names, such as 10:13.

        Raises:
          ValueError: it does not name steps, or no stage has so many.
        """
        found = re.fullmatch(r"(\d+):(\d+)", text)
        if found is None:
            raise ValueError(f"--profile {text}: it must be the first and the last step to trace, such as 10:13")
        profile = cls(int(found[1]), int(found[2]))
        most = max(stage.steps for stage in stages)
        if profile.first > most:
            raise ValueError(f"--profile {text}: the longest stage has {most} steps; name earlier ones")
        return profile


class Trace:
    """Called before every step, with what the step before has made: it is waited for where a trace begins or ends."""

    def __init__(self, profile: Profile | None, folder: Path) -> None:
        self._profile, self._folder, self._step = profile, folder, ExitStack()
        self.running = False

    def __call__(self, step: int, before: Any = None) -> None:
        """Step `step` is next, and `before` the arrays of the one before it."""
        if self._profile is None or jax.process_index() > 0:
            return
        if step == self._profile.first:  # a run that goes on after it traces nothing
            jax.block_until_ready(before)
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self.running = True
        elif step > self._profile.last and self.running:
            jax.block_until_ready(before)
            self.stop()
        if self.running:  # readers of traces tell steps apart by this mark
            self._step.close()
            self._step.enter_context(jax.profiler.StepTraceAnnotation("step", step_num=step))

    def stop(self) -> None:
        """Writes what was traced."""
        if self.running:
            self._step.close()
            jax.profiler.stop_trace()
            self.running = False


@contextmanager
def traced(profile: Profile | None, folder: Place) -> Iterator[Trace]:
    """A trace of the steps of a stage, written to `folder` when whole; of one that ends early, what there is."""
    with tempfile.TemporaryDirectory() as made:
        trace = Trace(profile, folder if isinstance(folder, Path) else Path(made))
        try:
            yield trace
        finally:
            trace.stop()
            for file in Path(made).rglob("*"):  # jax writes to a disk of this machine alone
                if file.is_file():
                    (folder / file.relative_to(made).as_posix()).write_bytes(file.read_bytes())
