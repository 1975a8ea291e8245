"""A stage of a run and who learns in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from distill.curriculum.pacing import Pacing
from distill.curriculum.selection import Selection
from distill.data.loader import Change, Loader
from distill.data.source import Source
from distill.given import Given, Trained
from distill.hold import AsItIs, Bfloat16, Rounded
from distill.mesh import Mesh
from distill.optim import AdamW, Optimizer
from distill.place import Place, far
from distill.rollout import FromTeacher, OnPolicy
from losses import Distill, Hidden, Loss, RouterHealth, RouterMatch, SampledReverseKL
from models.config import Config
from models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from distill.room import Room


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


Known = Mapping[str, Learner | Given | Trained]
"""learners of earlier stages and given models, by name"""


@runtime_checkable
class Staged(Protocol):
    """A part of a run: learners, and a number of steps in which they learn."""

    disk: ClassVar[str | None]
    """what it keeps in the run folder that needs a disk of this machine; None: nothing"""

    @property
    def name(self) -> str:
        """Of the stage."""
        ...

    @property
    def learners(self) -> tuple[Learner, ...]:
        """Who learns in it, each with its loss."""
        ...

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        ...

    @property
    def rows(self) -> int:
        """Rows of a batch."""
        ...

    @property
    def length(self) -> int:
        """Tokens of a row."""
        ...

    @property
    def stream(self) -> int:
        """Stages of one stream draw alike."""
        ...

    @property
    def corpus(self) -> Source | None:
        """What its learners read, or are looked at with; None: the experiment's."""
        ...

    @property
    def teacher(self) -> str | None:
        """Who is heard first, if anybody is."""
        ...

    @property
    def selection(self) -> Selection | None:
        """Which questions of the corpus are learned from."""
        ...

    @property
    def seen(self) -> int:
        """Tokens each learner sees in the stage."""
        ...

    def loader(self, seed: int, tokenizer: Tokenizer, domains: tuple[str, ...]) -> Loader:
        """How its corpus becomes rows."""
        ...

    def averages(self, learner: Learner) -> bool:
        """Whether a mean of the learner's weights is kept."""
        ...

    def check(self, earlier: Known, mesh: Mesh) -> None:
        """Refuses what would fail, or mislead, later."""
        ...

    def tiny(self, models: Mapping[str, Config]) -> "Staged":
        """Its tiny form: few steps, and for each learner the model of its name."""
        ...

    def run(self, room: "Room") -> None:
        """Trains its learners to its last step, from wherever an earlier process left them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A number of optimizer steps in which learners learn side by side from the same batches and one teacher pass."""

    disk: ClassVar[str | None] = None
    name: str
    learners: tuple[Learner, ...]
    steps: int
    corpus: Source | None = None
    """what is read here; None: the experiment's"""
    selection: Selection | None = None
    """which questions of its corpus are learned from; None: all"""
    pacing: Pacing | None = None
    """in which order documents are read, by how much of its loss on each a student could lose; None: shuffled"""
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
    packed: bool = False
    """questions share rows, as many whole ones as fit, each as if it were alone; else each is a row of its own, the
    rest padding. A batch then holds as many questions as its rows have room for; text shares rows always"""
    accumulate: int = 1
    """micro-batches a batch is cut into; gradients and counts are summed, divided once"""
    rollout: OnPolicy | FromTeacher | None = None
    """who completes the prompts of training batches anew; None: answers are the corpus's"""
    change: Change | None = None
    """what becomes of training batches, such as noise in their labels; None: nothing"""
    readers: int = 1
    """parts of the corpus that are read apart, each for its part of every batch: a process reads those alone of which
    it holds rows, one where rows lie in the order of processes, several on a TPU's torus. What a batch holds follows
    from this number, not from that of the processes"""
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
    def live(self) -> bool:
        """Whether a teacher in memory is heard over the rows of its corpus."""
        return self.teacher is not None and not self.store

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names of all who are heard."""
        return () if self.teacher is None else (self.teacher, *self.ensemble)

    def loader(self, seed: int, tokenizer: Tokenizer, domains: tuple[str, ...]) -> Loader:
        """How its corpus becomes rows: the learners, and their teacher, see alike."""
        return Loader(
            rows=self.rows, length=self.length, seed=seed, tokenizer=tokenizer, documents=self.documents,
            images=self.images, vision=self.learners[0].model.vision, domains=domains, packed=self.packed,
            change=self.change,
        )  # fmt: skip

    @property
    def seen(self) -> int:
        """Tokens each learner sees in the stage."""
        return self.steps * self.rows * self.length

    def averages(self, learner: Learner) -> bool:
        """Whether a mean of the learner's weights is kept."""
        return learner.name == self.beside and self.average is not None

    def check(self, earlier: Known, mesh: Mesh) -> None:
        """Refuses what would fail, or mislead, later."""
        from distill.door import check_stage

        check_stage(self, earlier, mesh)

    def tiny(self, models: Mapping[str, Config]) -> "Stage":
        """Its tiny form: few steps, and for each learner the model of its name."""
        from distill.tiny import tiny_stage

        return tiny_stage(self, models)

    def run(self, room: "Room") -> None:
        """Trains its learners to its last step, from wherever an earlier process left them."""
        from distill.loop import run_stage

        run_stage(room, self)


def check_disk(stages: Sequence[Staged], folder: Place) -> None:
    """Refuses a run folder in a bucket for stages that keep there what only a disk holds."""
    needing = {stage.name: stage.disk for stage in stages if stage.disk}
    if far(folder) and needing:
        raise ValueError(
            f"{folder} is in a bucket, and stages need a disk for what they keep: {needing}; name a folder of this "
            "machine, or of a disk that all hosts share, with --run"
        )
