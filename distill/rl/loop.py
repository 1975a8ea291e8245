"""The loop of a stage of reinforcement learning: draw, judge, learn, publish, all at once, and nothing is lost."""

import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from distill.checkpoint import Checkpoints
from distill.experiment import Experiment
from distill.loop import go_back
from distill.rl.books import Books
from distill.rl.examiner import Failed
from distill.rl.grading import Grade, Grading
from distill.rl.journal import Journal, folder_of
from distill.rl.learning import Learning
from distill.rl.part import Part
from distill.rl.publisher import abstract_published
from distill.rl.reward import Rewards
from distill.rl.stage import Reinforcement
from distill.room import Room
from distill.selecting import chosen
from distill.state import State, Weights, abstract, parts, whole
from distill.tasks.item import Item
from models.sampler import Sampler
from models.sampling import Sampling


def run_reinforcement(room: Room, stage: Reinforcement) -> State:
    """Trains the stage's learner to its last update, from wherever an earlier process left it.

    Raises:
      Interrupted: asked to stop; a checkpoint of this very update is on disk.
      RuntimeError: the actor has fallen for good, or so many groups or rewards failed that it cannot be an accident.
      FloatingPointError: three updates in a row were not finite; the last good checkpoint stays.
    """
    seed = zlib.crc32(f"{room.experiment.seed} {stage.stream}".encode()) & 0x7FFFFFFF
    folder = room.run.checkpoints(stage.name)
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(folder_of(room.run.disk, stage.name)))
        books = Books(stage, *chosen(room, stage, stage.corpus), room.experiment.tokenizer, journal, seed)
        stage.check_questions(books.longest)
        checkpoints = stack.enter_context(Checkpoints(folder, room.experiment.retention))
        state, start, published = _begin(room, stage, books, checkpoints)
        if start == stage.steps:
            return state
        rewards = stack.enter_context(Rewards([stage.reward], timeout=stage.patience, faults=books.faults))
        folder = room.run.disk / "actors" / stage.name
        actor = stage.actors.team(part_of(room.experiment, stage, seed), folder, books.faults)
        grading = Grading(actor.outbox, books.item, grades(rewards, stage.reward.name), room.experiment.tokenizer,
                          None if stage.latency is None else partial(stage.latency, seed))  # fmt: skip
        actor.start()
        stack.callback(actor.stop)
        for version, weights in published.items():
            actor.publisher.publish(version, weights)
        grading.start()
        stack.callback(grading.stop)
        return Learning(room, stage, books, checkpoints, actor, grading).run(state, start)


def grades(rewards: Rewards, name: str) -> Grade:
    """Has answers graded by a reward; NaN where it failed."""

    def grade(answers: Sequence[tuple[Item, str]]) -> list[float]:
        graded = rewards.grade_all((name, item.question, answer) for item, answer in answers)
        return [float("nan") if isinstance(one, Failed) else one for one in graded]

    return grade


def part_of(experiment: Experiment, stage: Reinforcement, seed: int) -> Part:
    """What those who draw in a stage are told."""
    learner = stage.learner
    sampler = Sampler(
        slots=stage.slots,
        capacity=stage.length + 1,
        # Of a long prompt an eighth at a time: the weights are read for each piece.
        piece=min(stage.length + 1, max(16, (stage.length + 1 - stage.tokens) // 8)),
        stride=stage.tokens,
        sampling=Sampling(temperature=stage.temperature),
        stop=(experiment.tokenizer.end,),
        seed=seed,
        routes=stage.replayed and learner.model.moe_per_period > 0,
        execution=experiment.execution,
    )
    return Part(
        model=learner.model, biased=learner.router.bias_rate > 0, sampler=sampler, samples=stage.samples,
        groups=stage.groups, limit=stage.tokens, home=experiment.mesh, own=stage.actor_on,
    )  # fmt: skip


def _begin(
    room: Room, stage: Reinforcement, books: Books, checkpoints: Checkpoints
) -> tuple[State, int, dict[int, Weights]]:
    """The state, the updates already made, and the versions that groups are still drawn with."""
    learner, mesh = stage.learners[0], room.experiment.mesh.build()
    if not checkpoints.steps():
        books.begin()
        go_back(room, stage, -1)
        state = room.newborn(learner, stage.optimizer_steps)
        return state, 0, {}
    shapes = {learner.name: parts(abstract(learner, stage.optimizer_steps, mesh))}
    found = checkpoints.restore(shapes)
    versions = found.meta["versions"]
    kept = abstract_published(shapes[learner.name]["weights"], room.experiment.execution.dtype, mesh)
    older = {f"{learner.name}-{version}": {"weights": kept} for version in versions}
    drawn = checkpoints.restore(older, step=found.step).trees if older else {}
    books.restore(found.meta["books"])
    if found.step < stage.steps:
        go_back(room, stage, found.step)
    published = {version: drawn[f"{learner.name}-{version}"]["weights"] for version in versions}
    return whole(found.trees[learner.name]), found.step, published
