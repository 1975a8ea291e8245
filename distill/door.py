"""What is refused of a stage at the door, before anything is trained."""

import re

from distill.curriculum.pacing import check_pacing
from distill.curriculum.selection import check_selection
from distill.features import check_features
from distill.hold import AsItIs
from distill.mesh import Mesh
from distill.rollout import check_rollout
from distill.stage import Known, Stage, Staged
from losses import Loss
from models.config import Config


def check_stage(stage: Stage, earlier: Known, mesh: Mesh) -> None:
    """Refuses of a stage of text what would fail, or mislead, later."""
    where = f"stage {stage.name!r}"
    check_counts(stage, ("steps", "rows", "accumulate", "readers", "images", "log_every", "save_every"))
    if stage.rows % stage.accumulate:
        raise ValueError(f"{where}: {stage.rows} rows do not divide into accumulate={stage.accumulate} micro-batches")
    if stage.rows // stage.accumulate % stage.readers:
        raise ValueError(
            f"{where}: {stage.rows // stage.accumulate} rows of a micro-batch do not divide among {stage.readers} "
            "readers; set --stages.N.readers to a number that divides them"
        )
    if stage.average is not None and stage.average < 0.0:
        raise ValueError(f"{where}: average is {stage.average}; it must be 0 (all steps alike) or more, 3 is tested")
    check_mesh(stage, mesh, stage.rows // stage.accumulate)
    for learner in stage.learners:
        if not isinstance(learner.loss, Loss):
            raise ValueError(
                f"{where}: the loss of {learner.name!r} is {learner.loss}; it must say its gate, on_policy and "
                "learns_labels, and be called: inherit from losses.Loss"
            )
    check_learners(stage, earlier)
    _check_teacher(stage, earlier)
    heard = earlier.get(stage.teacher or "")
    check_rollout(stage, None if heard is None else heard.model)
    _check_held(stage, mesh)
    _check_inside(stage, earlier)
    check_selection(stage.name, stage.selection, earlier)
    if stage.selection is not None and stage.store:
        raise ValueError(
            f"{where}: its rows are those of {stage.store!r}, from which selection leaves none out; leave one of "
            "them out"
        )
    check_pacing(stage.name, stage.pacing, earlier, stage.live and not stage.beside)
    if stage.pacing is not None:
        check_heard(stage, stage.pacing.by, earlier, "an earlier")
    _check_sight(stage, earlier)
    if stage.packed and (stage.rollout is not None or stage.pacing is not None):
        raise ValueError(
            f"{where}: packed rows have several questions, and a rollout completes one prompt a row, a pacing counts "
            f"one question a row; it has rollout={stage.rollout} and pacing={stage.pacing}: leave packed out, or both"
        )


def check_mesh(stage: Staged, mesh: Mesh, rows: int) -> None:
    """Refuses micro-batches of so many rows, rows and models of a stage that its mesh cannot share out equally."""
    mesh.check_rows(rows)
    mesh.check_columns(stage.length)
    for learner in stage.learners:
        mesh.check_model(learner.name, learner.model)


def check_counts(stage: Staged, names: tuple[str, ...]) -> None:
    """Refuses counts of a stage that are less than 1."""
    for name in names:
        value = vars(stage)[name]
        if value < 1:
            raise ValueError(f"stage {stage.name!r}: {name} is {value}; it must be at least 1")


def check_learners(stage: Staged, earlier: Known) -> None:
    """Refuses names and models of a stage's learners that do not go together, or that rows or paths do not fit."""
    where = f"stage {stage.name!r}"
    names = [learner.name for learner in stage.learners]
    for name in (stage.name, *names):
        if not re.fullmatch("[A-Za-z0-9_-]+", name):
            raise ValueError(f"{where}: the name {name!r} becomes part of a path; use letters, digits, _ and -")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{where} has learners {names}; it needs at least one, each with its own name")
    for learner in stage.learners:
        model = learner.model
        if stage.length > model.max_positions:
            raise ValueError(
                f"{where}: rows of {stage.length} tokens are longer than the {model.max_positions} positions of "
                f"{learner.name!r}; set --stages.N.length {model.max_positions} or raise model.max_positions"
            )
        if learner.name in earlier and earlier[learner.name].model != model:
            raise ValueError(
                f"{where}: {learner.name!r} has another architecture in an earlier stage; give it another name"
            )


def check_heard(stage: Staged, name: str, there: Known, stages: str) -> None:
    """Refuses a teacher that is not there, that rows do not fit, or to whom a token means something else."""
    where = f"stage {stage.name!r}"
    if name not in there:
        raise ValueError(
            f"{where}: teacher {name!r} is not a learner of {stages} stage, and not given; there are {sorted(there)}"
        )
    teacher = there[name].model
    if stage.length > teacher.max_positions:
        raise ValueError(
            f"{where}: rows of {stage.length} tokens are longer than the {teacher.max_positions} positions "
            f"of teacher {name!r}"
        )
    for learner in stage.learners:
        if learner.model.vocab != teacher.vocab:
            raise ValueError(
                f"{where}: teacher {name!r} has a vocabulary of {teacher.vocab}, student {learner.name!r} of "
                f"{learner.model.vocab}; a token must mean the same to both: use one tokenizer and one vocabulary"
            )


def _check_teacher(stage: Stage, earlier: Known) -> None:
    where = f"stage {stage.name!r}"
    own = [learner.name for learner in stage.learners]
    hindrances = {
        "there is no teacher": stage.teacher is None, f"teacher {stage.teacher!r} learns in this stage": stage.beside,
        f"{sorted(set(stage.ensemble) & {*own})} learn in this stage": {*own} & {*stage.ensemble},
        f"store={stage.store!r} is of one teacher": stage.store, "teacher_on is for one teacher": stage.teacher_on,
        "rollout needs one teacher": stage.rollout,
    }  # fmt: skip
    found = [reason for reason, there in hindrances.items() if there]
    if stage.ensemble and found:
        raise ValueError(
            f"{where}: ensemble={stage.ensemble} are frozen models heard beside a frozen teacher, and "
            f"{' and '.join(found)}; change that, or leave ensemble out"
        )
    if len(set(stage.teachers)) < len(stage.teachers):
        raise ValueError(f"{where}: it hears {stage.teachers}, one of them twice; name each teacher once")
    if stage.teacher is None:
        if stage.store is not None:
            raise ValueError(f"{where}: store={stage.store!r} needs a teacher: name whose words it holds")
        return
    known = {**earlier, **{learner.name: learner for learner in stage.learners}}
    if stage.beside and (stage.store or len(stage.learners) == 1):
        raise ValueError(
            f"{where}: {stage.teacher!r} teaches while it learns, so it needs others to teach, and no store"
        )
    for name in stage.teachers:
        there, stages = (known, "this or an earlier") if name == stage.teacher else (earlier, "an earlier")
        check_heard(stage, name, there, stages)


def _check_held(stage: Stage, mesh: Mesh) -> None:
    where = f"stage {stage.name!r}"
    if stage.teacher_on is None and stage.teacher_as == AsItIs():
        return
    asked = f"{where}: teacher_on and teacher_as are for a frozen teacher in memory"
    if stage.teacher is None:
        raise ValueError(f"{asked}, and there is none; name one")
    if stage.store:
        raise ValueError(
            f"{asked}, and what {stage.teacher!r} said is read from {stage.store!r}; leave one of them out"
        )
    if stage.beside:
        raise ValueError(f"{asked}, and {stage.teacher!r} learns beside its students; leave them out")
    if stage.teacher_on is not None:
        stage.teacher_on.check_rows(stage.rows)  # of all micro-batches: it may take them at once
        stage.teacher_on.check_columns(stage.length)
        try:
            stage.teacher_on.check_apart(mesh)
        except ValueError as error:
            raise ValueError(f"{where}: the teacher's mesh and the learners' overlap: {error}") from error


def _check_inside(stage: Stage, earlier: Known) -> None:
    known = {**earlier, **{learner.name: learner for learner in stage.learners}}
    for learner in stage.learners:
        if learner.opens:
            closed = stage.teacher in (None, learner.name) or stage.store or stage.teacher_on or stage.ensemble
            teacher = None if closed else known[str(stage.teacher)].model
            where = f"stage {stage.name!r}, learner {learner.name!r}"
            check_features(where, learner.features, learner.routing, learner.model, teacher)


def _check_sight(stage: Stage, earlier: Known) -> None:
    """Who reads the same rows cuts the same tiles into as many patch tokens."""
    readers = [*stage.learners, *(earlier[name] for name in stage.teachers if name != stage.beside)]
    readers += [] if stage.pacing is None else [earlier[stage.pacing.by]]
    first = stage.learners[0]
    for other in readers:
        if _tiles(other.model) != _tiles(first.model):
            raise ValueError(
                f"stage {stage.name!r}: {first.name!r} and {other.name!r} read the same rows, but their vision differs "
                f"in (image, channels, tokens of a tile, patch_token): {_tiles(first.model)} and {_tiles(other.model)}"
            )


def _tiles(model: Config) -> tuple[int, int, int, int] | None:
    vision = model.vision
    return None if vision is None else (vision.image, vision.channels, vision.tokens, vision.patch_token)
