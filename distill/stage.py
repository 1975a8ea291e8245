"""A stage of a run and who learns in it, and what is refused at the door."""

import re
from dataclasses import dataclass, field

from distill.data.loader import Change
from distill.features import check_features
from distill.given import Given, Trained
from distill.hold import AsItIs, Bfloat16, Rounded
from distill.mesh import Mesh
from distill.optim import AdamW, Optimizer
from distill.rollout import FromTeacher, OnPolicy, check_rollout
from losses import Distill, Hidden, Loss, RouterHealth, RouterMatch, SampledReverseKL
from models.config import Config


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A model that learns: what it is, what it minimises, how it moves. Its name seeds its initial weights."""

    name: str
    model: Config
    loss: Distill | SampledReverseKL | Loss = field(default_factory=Distill)
    router: RouterHealth = field(default_factory=RouterHealth)
    optimizer: Optimizer = field(default_factory=AdamW)
    features: Hidden | None = None
    """likeness of its layers to its teacher's, asked for beside the loss"""
    routing: RouterMatch | None = None
    """likeness of its routers to its teacher's, where both have the same experts"""
    start: str | None = None
    """name of a given model, or of a learner of an earlier stage (as the first that trains it leaves it), of whose
    weights it is made: the same, or with layers dropped, experts merged or copied (models/inherit.py); its routers'
    selection bias starts at zero. None: drawn by the seed"""
    keep: tuple[int, ...] | None = None
    """numbers of the layers that it keeps of what it starts from, in order; None: evenly spread"""
    twin: str | None = None
    """name whose initial weights it is drawn like, so that learners of one stage start equal; None: its own"""

    @property
    def opens(self) -> bool:
        """Whether it is compared with the inside of its teacher."""
        return self.features is not None or self.routing is not None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A number of optimizer steps in which learners learn side by side from the same batches and one teacher pass."""

    name: str
    learners: tuple[Learner, ...]
    steps: int
    teacher: str | None = None
    """name of a learner of an earlier stage, or of a given model, frozen; or of one of this stage's own learners, which
    then teaches the others while it learns; None: hard labels only"""
    ensemble: tuple[str, ...] = ()
    """names of more frozen teachers: the mean of their probabilities and the teacher's is what is heard, all alike"""
    average: float | None = 3.0
    """a learner that teaches while it learns speaks by a mean of its weights over the recent part of the stage, the
    more recent the greater this is: polynomial-decay averaging (arXiv:1212.1824) with this eta; None: by its weights"""
    teacher_on: Mesh | None = None
    """a mesh of the frozen teacher's own, beside the learners': its pass over the next batch runs there while they
    learn from this one, such as Mesh(data=4, first=4); None: on their devices, within their step"""
    teacher_as: AsItIs | Bfloat16 | Rounded = AsItIs()
    """how the frozen teacher is held: in its own dtype, in bfloat16, or in whole numbers of 8 or 4 bits"""
    store: str | None = None
    """folder of what the teacher said (`python -m distill.store`): it is then read from there and never in memory; rows
    and their order are those of the capture, whatever the seed and the stream"""
    rows: int = 8
    """rows of a batch over all devices"""
    length: int = 128
    """tokens of a row"""
    accumulate: int = 1
    """micro-batches a batch is cut into; gradients and counts are summed, divided once"""
    rollout: OnPolicy | FromTeacher | None = None
    """who completes the prompts of training batches anew; None: answers are the corpus's"""
    change: Change | None = None
    """what becomes of training batches, such as noise in their labels; None: nothing"""
    images: int = 1
    """images of a row, at most, where documents have some; each becomes one tile"""
    documents: int | None = None
    """train on so many documents of the corpus alone, drawn by the seed and the stream; None: on all"""
    stream: int = 0
    """stages of one stream see the same batches in the same order"""
    log_every: int = 10
    """optimizer steps between lines of metrics.jsonl"""
    save_every: int = 100
    """optimizer steps between checkpoints, each with a look at held-out text"""

    @property
    def beside(self) -> str | None:
        """The learner of this stage that teaches the others, if one does."""
        return self.teacher if self.teacher in [learner.name for learner in self.learners] else None

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names of all who are heard."""
        return () if self.teacher is None else (self.teacher, *self.ensemble)

    def averages(self, learner: Learner) -> bool:
        """Whether a mean of the learner's weights is kept."""
        return learner.name == self.beside and self.average is not None

    @property
    def tokens(self) -> int:
        """Tokens each learner sees in the stage."""
        return self.steps * self.rows * self.length


def check_stage(stage: Stage, earlier: dict[str, Learner | Given | Trained], mesh: Mesh) -> None:
    """Refuse at the door what would fail, or mislead, later."""
    where = f"stage {stage.name!r}"
    for name in ("steps", "rows", "accumulate", "images", "log_every", "save_every"):
        value = vars(stage)[name]
        if value < 1:
            raise ValueError(f"{where}: {name} is {value}; it must be at least 1")
    names = [learner.name for learner in stage.learners]
    for name in (stage.name, *names):
        if not re.fullmatch("[A-Za-z0-9_-]+", name):
            raise ValueError(f"{where}: the name {name!r} becomes part of a path; use letters, digits, _ and -")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{where} has learners {names}; it needs at least one, each with its own name")
    if stage.rows % stage.accumulate:
        raise ValueError(f"{where}: {stage.rows} rows do not divide into accumulate={stage.accumulate} micro-batches")
    if stage.average is not None and stage.average < 0.0:
        raise ValueError(f"{where}: average is {stage.average}; it must be 0 (all steps alike) or more, 3 is tested")
    mesh.check_rows(stage.rows // stage.accumulate)
    for learner in stage.learners:
        model = learner.model
        if not isinstance(learner.loss, Loss):
            raise ValueError(
                f"{where}: the loss of {learner.name!r} is {learner.loss}; it must say its gate, on_policy and "
                "learns_labels, and be called: inherit from losses.Loss"
            )
        if stage.length > model.max_positions:
            raise ValueError(
                f"{where}: rows of {stage.length} tokens are longer than the {model.max_positions} positions of "
                f"{learner.name!r}; set --stages.N.length {model.max_positions} or raise model.max_positions"
            )
        if learner.name in earlier and earlier[learner.name].model != model:
            raise ValueError(
                f"{where}: {learner.name!r} has another architecture in an earlier stage; give it another name"
            )
    _check_teacher(stage, earlier)
    heard = earlier.get(stage.teacher or "")
    check_rollout(stage, None if heard is None else heard.model)
    _check_held(stage, mesh)
    _check_inside(stage, earlier)
    _check_sight(stage, earlier)


def _check_teacher(stage: Stage, earlier: dict[str, Learner | Given | Trained]) -> None:
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
    known = earlier | {learner.name: learner for learner in stage.learners}
    if stage.beside and (stage.store or len(stage.learners) == 1):
        raise ValueError(
            f"{where}: {stage.teacher!r} teaches while it learns, so it needs others to teach, and no store"
        )
    for name in stage.teachers:
        there, stages = (known, "this or an earlier") if name == stage.teacher else (earlier, "an earlier")
        if name not in there:
            raise ValueError(
                f"{where}: teacher {name!r} is not a learner of {stages} stage, and not given; "
                f"there are {sorted(there)}"
            )
        teacher = known[name].model
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
        stage.teacher_on.check_rows(stage.rows // stage.accumulate)
        try:
            stage.teacher_on.check_apart(mesh)
        except ValueError as error:
            raise ValueError(f"{where}: the teacher's mesh and the learners' overlap: {error}") from error


def _check_inside(stage: Stage, earlier: dict[str, Learner | Given | Trained]) -> None:
    known = earlier | {learner.name: learner for learner in stage.learners}
    for learner in stage.learners:
        if learner.opens:
            closed = stage.teacher in (None, learner.name) or stage.store or stage.teacher_on or stage.ensemble
            teacher = None if closed else known[str(stage.teacher)].model
            where = f"stage {stage.name!r}, learner {learner.name!r}"
            check_features(where, learner.features, learner.routing, learner.model, teacher)


def _check_sight(stage: Stage, earlier: dict[str, Learner | Given | Trained]) -> None:
    """Who reads the same rows cuts the same tiles into as many patch tokens."""
    readers = [*stage.learners, *(earlier[name] for name in stage.teachers if name != stage.beside)]
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
