"""Measures how hard the questions of a pool are for a learner of a run, and writes the table.

python -m distill.curriculum measure runs/sft sft student --to difficulty.json
python -m distill.curriculum measure runs/sft sft student --to difficulty.json --tasks reverse add --levels 0 1
python -m distill.curriculum show difficulty.json
"""

import statistics
import sys
from collections import Counter
from pathlib import Path

from distill.curriculum.measure import measure as measured
from distill.curriculum.table import Table
from distill.data.manifest import Split
from distill.process import settle
from distill.tasks.exam import Exam
from distill.tasks.lines import File
from distill.tasks.small import Small


def measure(
    run: Path,
    stage: str,
    learner: str,
    to: Path,
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
    """Asks a learner every question so many times; writes the table, and says what is in it.

    Args:
        run: a run folder.
        stage: of it.
        learner: its name.
        to: the file to write.
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
    table, marks = measured(run, stage, learner, pool.select(split=split), exam)
    table.save(to)
    print(f"{'':16}{'questions':>10}{'pass@1':>9}{f'pass@{min(8, attempts)}':>9}{'greedy':>9}{'tokens':>9}")
    for name, cell in marks.cells().items():
        right = cell.successes / cell.attempts
        many = table.over([item.id for item in cell.items]).pass_at(min(8, attempts)).mean()
        print(
            f"{name:16}{len(cell.items):10}{right.mean():9.3f}{many:9.3f}{cell.greedy.mean():9.3f}{cell.tokens.mean():9.1f}"
        )
    show(to)


def show(table: Path) -> None:
    """Prints what a table says: of whom, and how many questions are solved how often."""
    found = Table.load(table)
    print(f"{table}: {len(found.ids)} questions, {int(found.attempts.sum())} attempts, of model {found.model[:12]}")
    bins = Counter(min(int(10 * share), 9) for share in found.successes / found.attempts)
    for tenth in range(10):
        print(f"  solved {10 * tenth:3} to {10 * tenth + 10:3} %: {bins[tenth]:6}")
    never, always = int(found.unsolved(1).sum()), int(found.solved(1).sum())
    print(f"  never {never}, always {always}; difficulty {statistics.fmean(found.difficulty()):.3f} on average")


if __name__ == "__main__":
    import tyro

    try:
        tyro.extras.subcommand_cli_from_dict(
            {"measure": measure, "show": show}, config=(tyro.conf.PositionalRequiredArgs,)
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
