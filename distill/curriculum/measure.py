"""Measuring difficulty: a model is asked every question of a pool, and how often it is right is kept as a table."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from distill.curriculum.pool import Pool as Prompts
from distill.curriculum.table import Table
from distill.run import load_run
from distill.state import Weights
from distill.tasks.exam import Exam, Marks
from distill.tasks.item import Item, Pool
from distill.trained import identity, load_weights
from models.llama4 import Execution
from models.tokenizer import Tokenizer


def prompts_of(pool: Pool) -> Prompts:
    """The pool as curricula know it: names, capabilities and levels; its content is the questions' fingerprint."""
    return Prompts(
        ids=tuple(item.id for item in pool),
        capabilities=tuple(item.capability for item in pool),
        levels=np.array([item.level for item in pool]),
        content=pool.fingerprint,
    )


def measure(run: Path, stage: str, learner: str, pool: Pool, exam: Exam) -> tuple[Table, Marks]:
    """The table of a learner of a run, of the questions of a pool.

    Raises:
      ValueError: there is no such run, stage or learner, or the pool is empty.
    """
    if not len(pool):
        raise ValueError("there are no questions to ask; choose other tasks, levels or another split")
    weights, tokenizer = load_weights(run, stage, learner), load_run(run).tokenizer
    return table_of(weights, identity(run, stage, learner), prompts_of(pool), pool, exam, tokenizer)


def table_of(
    weights: Weights,
    model: str,
    prompts: Prompts,
    items: Iterable[Item],
    exam: Exam,
    tokenizer: Tokenizer,
    execution: Execution | None = None,
) -> tuple[Table, Marks]:
    """The table of a model of this fingerprint, of items in the order of the prompts, maybe under systems."""
    marks = exam(weights, items, tokenizer, execution)
    table = Table(
        ids=prompts.ids,
        attempts=marks.attempts,
        successes=marks.successes,
        model=model,
        pool=prompts.fingerprint,
        seeds=(exam.seed,),
        temperature=exam.temperature,
    )
    return table, marks
