"""Measures how hard the questions of a pool are for a learner of a run, or for a checkpoint, and writes the table.

python -m distill.curriculum measure runs/sft difficulty.json --stage sft --learner student --step 200
python -m distill.curriculum measure FOLDER difficulty.json      a checkpoint in the Hugging Face layout
python -m distill.curriculum measure runs/sft difficulty.json --tasks reverse add --levels 0 1
python -m distill.curriculum show difficulty.json
"""

import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from distill.curriculum.measure import measure as measured
from distill.curriculum.measure import measure_given
from distill.curriculum.table import Table
from distill.data.manifest import Split
from distill.given import Given
from distill.process import settle
from distill.run import load_run
from distill.tasks.exam import Exam
from distill.tasks.lines import File
from distill.tasks.small import Small
from distill.trained import is_run, last
from models.bpe import named_tokenizer


def measure(
    model: Path,
    to: Path,
    stage: str | None = None,
    learner: str | None = None,
    step: int | None = None,
    tokenizer: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    tasks: tuple[str, ...] = ("reverse", "sort", "add"),
    levels: tuple[int, ...] = (0, 1, 2),
    file: Path | None = None,
    split: Split = "train",
    questions: int = 400,
    attempts: int = 16,
    tokens: int = 12,
    temperature: float = 1.0,
    seed: int = 0,
) -> None:
    """Asks a model every question so many times; writes the table, and says what is in it.

    Args:
        model: a run folder, or that of a checkpoint in the Hugging Face layout.
        to: the file to write.
        stage: of a run; its last, if not given.
        learner: of the stage; may be left out where it has one only.
        step: of the learner, of those that the run has kept; the newest, if not given.
        tokenizer: of a checkpoint whose folder has none: a path, or `bytes`.
        dtype: of the weights of a checkpoint.
        tasks: of our own generators; not with `file`.
        levels: of each.
        file: a pool of questions, JSON lines (`distill.tasks.lines`), in place of the generators.
        split: which questions: those to learn from, or those held out.
        questions: of each task and level to learn from.
        attempts: at each question.
        tokens: of an answer, at most.
        temperature: of the drawing.
        seed: of the drawing.
    """
    settle()
    pool = (Small(tasks=tasks, levels=levels, train=questions) if file is None else File(str(file)))()
    exam = Exam(attempts=attempts, tokens=tokens, temperature=temperature, seed=seed)
    asked = pool.select(split=split)
    if is_run(model):
        if tokenizer is not None:
            raise ValueError(f"{model} is a run, which has a tokenizer; leave out --tokenizer {tokenizer}")
        table, marks = measured(model, *last(load_run(model), stage, learner), asked, exam, step)
    else:
        _check_no_run(model, {"stage": stage, "learner": learner, "step": step})
        given = Given(name=model.name, folder=str(model), dtype=dtype, text_only=True)
        table, marks = measure_given(given, asked, exam, named_tokenizer(tokenizer))
    table.save(to)
    print(f"{'':16}{'questions':>10}{'pass@1':>9}{f'pass@{min(8, attempts)}':>9}{'greedy':>9}{'tokens':>9}")
    for name, cell in marks.cells().items():
        right = cell.successes / cell.attempts
        many = table.over([item.id for item in cell.items]).pass_at(min(8, attempts)).mean()
        print(
            f"{name:16}{len(cell.items):10}{right.mean():9.3f}{many:9.3f}{cell.greedy.mean():9.3f}{cell.tokens.mean():9.1f}"
        )
    show(to)


def _check_no_run(folder: Path, asked: dict[str, object]) -> None:
    found = [f"--{name} {value}" for name, value in asked.items() if value is not None]
    if found:
        raise ValueError(f"{folder} is no run, and what it holds has no {' '.join(found)}; leave it out, or name a run")


def show(table: Path) -> None:
    """Prints what a table says: of whom, and how many questions are solved how often."""
    found = Table.load(table)
    print(f"{table}: {len(found.ids)} questions, {int(found.attempts.sum())} attempts, of model {found.model[:12]}")
    bins = Counter(min(int(10 * share), 9) for share in found.successes / found.attempts)
    for tenth in range(10):
        print(f"  solved {10 * tenth:3} to {10 * tenth + 10:3} %: {bins[tenth]:6}")
    never, always = int(found.unsolved(1).sum()), int(found.solved(1).sum())
    print(f"  never {never}, always {always}; difficulty {statistics.fmean(found.difficulty()):.3f} on average")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Exit code 1: a clear error."""
    import tyro

    commands = {"measure": measure, "show": show}
    try:
        tyro.extras.subcommand_cli_from_dict(commands, args=arguments, config=(tyro.conf.PositionalRequiredArgs,))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
