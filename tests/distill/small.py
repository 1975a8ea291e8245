"""A small experiment, its batches and its states: what the tests of the loop share."""

import os
import signal
from dataclasses import replace

import jax
import numpy as np
from einops import rearrange

from distill import AdamW, Experiment, Learner, Mesh, Stage, WarmupCosine
from distill import mesh as meshes
from distill.data.batch import Batch
from distill.metrics import Metrics
from distill.state import State, create
from distill.step import Step
from distill.teacher import LiveTeacher, Silent
from losses import Distill, Evidence, RouterHealth, Window
from models.config import SCOUT_PICO, Config, Layer, tiny
from models.execution import Execution

MOE = replace(tiny(SCOUT_PICO), pattern=(Layer(rope=True, moe=True), Layer(rope=False, moe=False)), layers=2, vocab=64)
WIDE = replace(MOE, width=40, experts=6)
RATE = AdamW(rate=WarmupCosine(peak=1e-2))
LOSS = Distill(gate=Evidence(scope=Window(size=3)), chunk=5)


def learner(name: str = "student", **changes) -> Learner:
    """A small learner."""
    return Learner(**({"name": name, "model": MOE, "loss": LOSS, "optimizer": RATE} | changes))


def stage(*learners: Learner, **changes) -> Stage:
    """A stage of ten steps."""
    return Stage(
        **({"name": "learn", "learners": learners or (learner(),), "steps": 10, "rows": 8, "length": 16} | changes)
    )


def batch(seed: int = 0, parts: int = 1, rows: int = 8, length: int = 16) -> Batch:
    """Rows [a, b, t] of two documents each, of lengths that differ, some ending in padding."""
    random = np.random.default_rng(seed)
    tokens = random.integers(0, 64, (rows, length + 1), np.int32)
    cut, end = random.integers(2, length - 2, (rows, 1)), random.integers(length - 3, length + 2, (rows, 1))
    place = np.arange(length + 1)[None]
    segments = np.where(place < cut, 1, 2) * (place < end)
    positions = np.where(place < cut, place, place - cut) * (place < end)
    packed = {"tokens": tokens, "tokens_segment_ids": segments, "tokens_positions": positions.astype(np.int32)}
    whole = Batch.of_rows(packed, pad=0)
    return jax.tree.map(lambda x: rearrange(x, "(a b) t -> a b t", a=parts), whole)


def teacher(seed: int = 7, mesh: Mesh | None = None, config: Config = WIDE) -> LiveTeacher:
    """A teacher of another architecture, of the same vocabulary."""
    one = learner("teacher", model=config)
    own = (mesh or Mesh()).build()
    return LiveTeacher(create(one, 1, own, seed).weights, meshes.executed(Execution(), own))


def states(*learners: Learner, mesh: Mesh | None = None, seed: int = 0) -> tuple[State, ...]:
    """Newborn states."""
    return tuple(create(one, 10, (mesh or Mesh()).build(), seed) for one in learners)


def take(learners, start, voice=None, batches=None, mesh=None, execution=None):
    """States and metrics after a step on every batch."""
    own = (mesh or Mesh()).build()
    step = jax.jit(Step(tuple(learners), 10, meshes.executed(execution or Execution(), own)))
    metrics = {}
    for each in batches or [batch()]:
        placed = each if mesh is None else jax.device_put(each, meshes.rows(own, leading=1))
        start, metrics = step(start, voice or Silent(), placed)
    return start, {name: float(tally.mean()) for name, tally in metrics.items()}


def assert_close(one, other, tolerance=1e-5):
    """Every leaf within `tolerance`."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), one, other)


def experiment(**changes) -> Experiment:
    """A small experiment of two stages."""
    stages = (
        stage(learner("teacher", model=WIDE), name="teach"),
        stage(learner("student"), name="distil", teacher="teacher", stream=1),
    )
    return Experiment(**({"name": "small", "stages": stages, "held_out": 1, "glance": 1} | changes))


def interrupt(monkeypatch, stage: str, step: int):
    """Ctrl-C, as soon as this step of this stage is written down."""
    written = Metrics.write

    def ask(self, now, number, **values):
        written(self, now, number, **values)
        if (now, number, values["kind"]) == (stage, step, "train"):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Metrics, "write", ask)


QUIET = RouterHealth(balance=0.0)
"""no balance loss: the one term that is not a sum over micro-batches"""
