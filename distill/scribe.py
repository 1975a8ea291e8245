"""The scribe: has the prompts of a batch completed anew, by a student or its teacher, before a step learns from it."""

import dataclasses
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np
from jaxtyping import Int

from distill.data.batch import Batch
from distill.experiment import Experiment
from distill.rollout import FromTeacher, OnPolicy
from distill.stage import Stage
from distill.state import State
from distill.teacher import LiveTeacher, Teacher
from models.execution import Execution
from models.request import Completion, Request
from models.sampler import Sampler
from models.sampling import Sampling

Write = Callable[[Batch, tuple[State, ...], Teacher, int], tuple[Batch, dict[str, float]]]
"""(batch [b, t], states, teacher, number of the step) to the batch to learn from, and what to log of it"""


@dataclass(frozen=True, kw_only=True)
class Scribe:
    """Replaces the answers of some rows of host batches by completions of their prompts.

    What counts in such a row is what was generated, whatever the length of the answer that stood there. All follows
    from the weights, the batch, the number of the step and the seed: a run that goes on writes what it would have.
    """

    rollout: OnPolicy | FromTeacher
    rows: int
    """of a batch"""
    length: int
    """tokens of a row"""
    stop: int
    """the token that ends an answer"""
    pad: int
    """the token where there is no text"""
    execution: Execution
    seed: int

    def __call__(
        self, batch: Batch, states: tuple[State, ...], teacher: Teacher, number: int
    ) -> tuple[Batch, dict[str, float]]:
        """The batch of step `number`, and of its completions their mean tokens and the share that came to an end."""
        assert isinstance(teacher, LiveTeacher)  # check_rollout has seen to it
        weights = self.rollout.choose(states[0].weights, teacher.weights)
        chosen = self.chosen(number)
        if not chosen:
            return batch, {}
        requests = [self._request(batch, row, number) for row in range(chosen)]
        found = sorted(self._sampler(weights.model, requests, weights.bias), key=lambda one: one.prompt)
        facts = {
            "rollout/tokens": float(np.mean([len(one.tokens) for one in found])),
            "rollout/stopped": float(np.mean([one.stopped for one in found])),
        }
        return self.written(batch, requests, found), facts

    def chosen(self, number: int) -> int:
        """How many rows of step `number` are completed: the first ones, as rows come in random order.

        The share of all rows up to a step is exact to the nearest row.
        """
        share = self.rollout.fraction * self.rows
        return round(number * share) - round((number - 1) * share)

    def written(self, batch: Batch, requests: list[Request], found: list[Completion]) -> Batch:
        """The batch whose first rows hold these prompts and completions."""
        shape = (len(found), self.length + 1)
        tokens, place = np.full(shape, self.pad, np.int32), np.arange(shape[1], dtype=np.int32)
        given, ends = np.zeros((2, len(found), 1), np.int32)
        for row, (request, one) in enumerate(zip(requests, found, strict=True)):
            whole = np.concatenate((request.tokens, one.tokens))
            tokens[row, : len(whole)] = whole
            given[row], ends[row] = len(request.tokens), len(whole)
        packed = {
            "tokens": tokens,
            "tokens_segment_ids": (place < ends).astype(np.int32),
            "tokens_positions": np.where(place < ends, place, 0).astype(np.int32),
            "answer": (given <= place) & (place < ends),
        }
        new = Batch.of_rows(packed, self.pad)
        # What says nothing of answers, such as domains, stays.
        new = dataclasses.replace(new, domains=None if batch.domains is None else batch.domains[: len(found)])
        return jax.tree.map(lambda new, old: np.concatenate((new, old[len(found) :])), new, batch)

    def _request(self, batch: Batch, row: int, number: int) -> Request:
        prompt = prompt_of(batch, row)
        room = self.length + 1 - len(prompt)
        limit = room if self.rollout.tokens is None else min(room, self.rollout.tokens)
        return Request(prompt=row, sample=number, tokens=prompt, limit=limit)

    @cached_property
    def _sampler(self) -> Sampler:
        return Sampler(
            slots=max(1, math.ceil(self.rollout.fraction * self.rows)),
            capacity=self.length + 1,
            piece=min(self.length + 1, 32),
            stride=min(self.length, 32),
            sampling=Sampling(temperature=self.rollout.temperature),
            stop=(self.stop,),
            seed=self.seed,
            execution=self.execution,
        )


def prompt_of(batch: Batch, row: int) -> Int[np.ndarray, "n"]:
    """The tokens of a row before its answer."""
    return np.asarray(batch.tokens[row, : int(np.argmax(batch.mask[row])) + 1])


def find_scribe(experiment: Experiment, stage: Stage) -> Write:
    """The stage's scribe; where there is none, batches stay as they are.

    Raises:
      ValueError: the corpus has no questions, or they have images.
    """
    if stage.rollout is None:
        return lambda batch, states, teacher, number: (batch, {})
    first = experiment.corpus_of(stage).documents("train")[0]
    if "answer" not in first or "images" in first:
        raise ValueError(
            f"stage {stage.name!r} has rollout={stage.rollout}, which completes prompts, and the documents of "
            f"{experiment.corpus_of(stage)} have {sorted(first)}; bring one of questions (`text`) with an `answer`, "
            "without images"
        )
    return Scribe(
        rollout=stage.rollout,
        rows=stage.rows,
        length=stage.length,
        stop=experiment.tokenizer.end,
        pad=experiment.tokenizer.pad,
        execution=stage.rollout.choose(experiment.execution, stage.teacher_as.execution(experiment.execution)),
        # Of one stream, as batches are: stages that write from the same weights write the same.
        seed=zlib.crc32(f"{experiment.seed} {stage.stream}".encode()) & 0x7FFFFFFF,
    )
