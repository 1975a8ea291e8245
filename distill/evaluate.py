"""Held-out figures: sums over fixed batches, divided once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from distill.cluster import settled
from distill.data.batch import Batch
from distill.mesh import split
from distill.state import Weights
from distill.teacher import Teacher
from losses import Distill, NoGate, Signal, Tally
from models.execution import Execution

_YARDSTICK = Distill(gate=NoGate())  # plain forward KL and cross-entropy at temperature 1, whatever was trained on


@dataclass(frozen=True)
class Score:
    """What a model is worth on held-out text."""

    cross_entropy: float
    """nats per label"""
    accuracy: float
    """share of labels that are the model's first choice"""
    kl: float | None
    """nats per label from the teacher's distribution to the model's; None without a teacher"""
    agreement: float | None
    """share of positions where the model's and the teacher's first choices agree; None without a teacher"""
    domains: dict[str, float]
    """cross-entropy of each domain of a corpus that has several"""
    load: tuple[tuple[float, ...], ...]
    """share of tokens per expert, a row per mixture-of-experts layer"""
    labels: int


@jax.jit
def _ask(teacher: Teacher, batch: Batch) -> Signal | None:
    word: Any = teacher.signal(batch)  # held-out text has earned nothing
    return word


@jax.jit(static_argnames=("execution", "domains"))
def _look(
    weights: Weights, signal: Signal | None, batch: Batch, execution: Execution, domains: tuple[str, ...]
) -> tuple[dict[str, Tally], Float[Array, "l e"]]:
    hidden, routing = weights.model(batch.tokens, batch.layout(), weights.bias, execution, batch.images)
    head = weights.model.head[...].astype(hidden.dtype)
    place = replace(batch.place((), domains), split=split(execution))
    _, metrics, _ = _YARDSTICK(hidden, head, signal, batch.labels, place, jnp.zeros(()))
    return metrics, routing.counts


def evaluate(
    models: Mapping[str, Weights],
    teacher: Teacher,
    batches: Iterable[Batch],
    execution: Execution,
    domains: tuple[str, ...] = (),
) -> dict[str, Score]:
    """Score models on `batches` (arrays [b, t]), beside `teacher` where there is one, and by `domains` if named.

    The teacher is asked once per batch, however many the models.

    Raises:
      ValueError: there is nothing to evaluate on.
    """
    sums: dict[str, tuple[dict[str, Tally], Array]] = {}
    for batch in batches:
        signal = settled(_ask(teacher, batch))
        for name, weights in models.items():
            found = settled(_look(weights, signal, batch, execution, domains))
            sums[name] = settled(jax.tree.map(jnp.add, sums[name], found)) if name in sums else found
    if len(sums) < len(models):
        raise ValueError("no held-out batches: set --held-out to at least 1 and give the corpus a held-out split")
    return {name: _score(*found, domains) for name, found in sums.items()}


def _score(sums: Mapping[str, Tally], load: Array, domains: tuple[str, ...]) -> Score:
    mean = {name: float(tally.mean()) for name, tally in sums.items()}
    counts = np.asarray(load, np.float64)
    shares = counts / np.maximum(counts.sum(-1, keepdims=True), 1.0)
    return Score(
        cross_entropy=mean["hard"],
        accuracy=mean["accuracy"],
        kl=mean.get("soft"),
        agreement=mean.get("agreement"),
        domains={name: mean[f"hard_{name}"] for name in domains},
        load=tuple(tuple(float(x) for x in row) for row in shares),
        labels=int(sums["hard"].count),
    )
