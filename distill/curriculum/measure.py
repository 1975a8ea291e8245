"""Measuring difficulty: a model is asked every question of a pool, and how often it is right is kept as a table."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from distill.curriculum.pool import Pool as Prompts
from distill.curriculum.table import Table
from distill.given import Given
from distill.mesh import Mesh
from distill.run import load_run
from distill.state import Weights
from distill.tasks.exam import Exam, Marks
from distill.tasks.item import Item, Pool
from distill.trained import identity, load_weights
from models.bpe import open_tokenizer
from models.execution import Execution
from models.tokenizer import Tokenizer


def prompts_of(pool: Pool) -> Prompts:
    """The pool as curricula know it: names, capabilities and levels; its content is the questions' fingerprint."""
    return Prompts(
        ids=tuple(item.id for item in pool),
        capabilities=tuple(item.capability for item in pool),
        levels=np.array([item.level for item in pool]),
        content=pool.fingerprint,
    )


def measure(
    run: Path, stage: str, learner: str, pool: Pool, exam: Exam, step: int | None = None
) -> tuple[Table, Marks]:
    """The table of a learner of a run, at a step or the newest, of the questions of a pool.

    Raises:
      ValueError: there is no such run, stage or learner, or the pool is empty.
      FileNotFoundError: the run has kept no checkpoint of that step; it says of which it has.
    """
    check_asked(pool)
    weights, tokenizer = load_weights(run, stage, learner, step=step), load_run(run).tokenizer
    return table_of(weights, identity(run, stage, learner, step), prompts_of(pool), pool, exam, tokenizer)


def measure_given(given: Given, pool: Pool, exam: Exam, tokenizer: Tokenizer | None = None) -> tuple[Table, Marks]:
    """The table of a checkpoint in the Hugging Face layout, of the questions of a pool.

    Args:
      given: where it is, and how its weights are held.
      pool, exam: what is asked, and how.
      tokenizer: what its tokens mean, where its folder does not say; None: as it says.

    Raises:
      ValueError: there is no checkpoint, it has no tokenizer or another one, or the pool is empty.
    """
    check_asked(pool)
    size, speaks = given.model.vocab, open_tokenizer(given.folder) if tokenizer is None else tokenizer
    given.check_tokenizer(speaks)
    if speaks.vocab != size:
        raise ValueError(
            f"the model in {given.folder} has a vocabulary of {size}, the tokenizer of {speaks.vocab}; set --tokenizer "
            "to the one it was trained with"
        )
    return table_of(Weights(*given.teacher(Mesh())), given.fingerprint, prompts_of(pool), pool, exam, speaks)


def check_asked(pool: Pool) -> None:
    """Refuses a pool without questions.

    Raises:
      ValueError: as it says.
    """
    if not len(pool):
        raise ValueError("there are no questions to ask; choose other tasks, levels or another split")


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
