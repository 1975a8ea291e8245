"""A stage of preference, small: a model that has begun, what it drew when it was rewarded, and a room for it."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from distill import AdamW, Experiment, Learner, Stage, Trained, WarmupCosine
from distill.ceiling import Ceiling
from distill.loop import run_stage
from distill.metrics import Metrics
from distill.opening import open_run
from distill.preference.loop import run_preference
from distill.preference.pairs import Mining
from distill.preference.stage import Preference
from distill.rl.loop import run_reinforcement
from distill.rl.order import FirstInFirstOut
from distill.rl.stage import Reinforcement
from distill.room import Room
from distill.run import Run
from distill.tasks.source import Questions
from losses import Constant, Distill, NoGate
from models.config import SCOUT_PICO, Layer, tiny
from tests.distill.rl.begun import ASKED, EVEN

MODEL = replace(tiny(SCOUT_PICO), pattern=(Layer(rope=True, moe=False),), layers=1)
LEARNER = Learner(
    name="student",
    model=MODEL,
    loss=Distill(alpha=Constant(0.0), gate=NoGate()),
    optimizer=AdamW(rate=WarmupCosine(peak=1e-2)),
)
DREW = Reinforcement(
    name="rl", learner=replace(LEARNER, start="begun"), steps=4, questions=ASKED, groups=4, samples=8, tokens=8,
    length=16, slots=32, reward=EVEN, save_every=4, order=FirstInFirstOut(), max_policy_lag=0, pipeline_depth=0,
)  # fmt: skip
STAGE = Preference(
    name="dpo", learner=replace(LEARNER, start="begun", optimizer=AdamW(rate=WarmupCosine(peak=3e-3))), journal="rl",
    steps=6, rows=8, length=16, save_every=2, window=2, mining=Mining(band=0.6, each=3),
)  # fmt: skip


def begin(folder: Path) -> Path:
    """The run of a model that has learned to end its answers."""
    stage = Stage(name="begin", learners=(LEARNER,), steps=40, rows=32, length=16, save_every=40)
    made = Experiment(name="begun", stages=(stage,), corpus=Questions(ASKED), held_out=1, glance=1)
    with open_run(folder, made) as run, Metrics(folder) as metrics:  # no report is written: nobody reads it
        run_stage(Room(made, run, metrics, Ceiling(1.0), threading.Event(), quiet=True), stage)
    return folder


@contextmanager
def opened(begun: Path, folder: Path, stage: Reinforcement | Preference) -> Iterator[Room]:
    """A room for a run of one stage, of a model that has begun."""
    given = Trained(name="begun", run=str(begun), stage="begin", learner="student")
    stand_in = Stage(name=stage.name, learners=(stage.learner,), steps=1, length=16)
    experiment = Experiment(name="small", stages=(stand_in,), given=(given,), corpus=Questions(ASKED))
    folder.mkdir(parents=True, exist_ok=True)
    with Metrics(folder) as metrics:
        yield Room(experiment, Run(folder), metrics, Ceiling(1.0), threading.Event(), quiet=True)


def draw(begun: Path, folder: Path) -> Path:
    """The run of a stage of reinforcement learning, and so its journal."""
    with opened(begun, folder, DREW) as room:
        run_reinforcement(room, DREW)
    return folder


def bring(drawn: Path, folder: Path) -> Path:
    """A run folder that has nothing but the journal."""
    shutil.copytree(drawn / "journal", folder / "journal")
    return folder


def finish(begun: Path, folder: Path, stage: Preference = STAGE) -> tuple[list[np.ndarray], list[dict]]:
    """The weights at the end of a run, and the lines of its metrics."""
    with opened(begun, folder, stage) as room:
        state = run_preference(room, stage)
        return jax.device_get(jax.tree.leaves(state.weights)), Run(folder).metrics()
