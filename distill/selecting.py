"""What a stage's selection leaves it: a model of the run is asked, and a table says how it did."""

from collections.abc import Iterator
from dataclasses import replace

from distill.curriculum.filter import keep
from distill.curriculum.measure import prompts_of, table_of
from distill.curriculum.table import Table
from distill.data.source import Source
from distill.hold import AsItIs
from distill.place import Place
from distill.room import Room
from distill.stage import Staged
from distill.tasks.exam import Exam
from distill.tasks.item import Pool
from distill.tasks.source import Questions


def selected(room: Room, stage: Staged) -> Source:
    """What a stage reads, without the questions that its selection leaves out.

    Raises:
      ValueError: what it reads are not `Questions`, nothing is left, or a table that is there is of something else.
    """
    corpus = room.experiment.corpus_of(stage)
    if stage.selection is None:
        return corpus
    if not isinstance(corpus, Questions):
        raise ValueError(
            f"stage {stage.name!r} selects among questions, and reads {type(corpus).__name__}; give it a corpus of "
            "distill.tasks.source.Questions, or leave selection out"
        )
    left = chosen(room, stage, corpus)[0]
    return replace(corpus, keep=tuple(item.id for item in left))


def chosen(room: Room, stage: Staged, corpus: Questions) -> tuple[Pool, Table | None]:
    """The questions of the training split that a stage learns from, and what its selection measured of all of them."""
    pool = corpus.pool().select(split="train")
    if stage.selection is None:
        return pool, None
    table, prompts = difficulty(room, stage, corpus), prompts_of(pool)
    left = keep(prompts, table.over(prompts.ids), stage.selection.rule).ids
    if not left:
        raise ValueError(f"stage {stage.name!r}: {stage.selection.rule} leaves none of {len(pool)} questions")
    room.say(f"{stage.name}: {len(left)} of {len(pool)} questions are left by {stage.selection.rule}")
    return pool.named(left), table


def difficulty(room: Room, stage: Staged, corpus: Questions) -> Table:
    """How often the model of the stage's selection answers each question to learn from: read, or measured and kept."""
    asked = stage.selection
    assert asked is not None
    path = room.run.path / "difficulty" / f"{stage.name}.json"
    model, plain = room.identity(asked.by), corpus.pool().select(split="train")
    prompts = prompts_of(plain)
    if path.exists():
        table = Table.load(path)
        table.check(prompts, model)
        return table
    for other in _alike(room, stage, corpus):
        table = Table.load(other)
        if (table.model, table.pool) == (model, prompts.fingerprint):
            table.save(path)
            return table
    room.say(f"{stage.name}: {asked.by} answers {len(plain)} questions, {asked.attempts} times each")
    exam = Exam(attempts=asked.attempts, tokens=asked.tokens, seed=asked.seed)
    weights = room.teacher_weights(asked.by, AsItIs(), room.experiment.mesh)
    items = replace(corpus, noisy=0.0, keep=None).items("train")
    table, _ = table_of(weights, model, prompts, items, exam, room.experiment.tokenizer, room.experiment.execution)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.save(path)
    return table


def _alike(room: Room, stage: Staged, corpus: Questions) -> Iterator[Place]:
    """Tables of stages whose selection asks the same of the same model: only what it then leaves may differ."""
    assert stage.selection is not None
    for other in room.experiment.stages:
        asked, path = other.selection, room.run.path / "difficulty" / f"{other.name}.json"
        if asked is None or room.experiment.corpus_of(other) != corpus or not path.exists():
            continue
        if replace(asked, rule=stage.selection.rule) == stage.selection:
            yield path
