"""FLOPs: what models need by formula (`models.cost`), what their programs do of it twice, and what a compiler counts.

Needed are a multiplication and an addition for each active matrix entry of a forward pass, twice that for gradients,
and causal attention: the numerator of model FLOPs utilisation. Done is more: what is computed again for the gradient
(remat), and rows of experts that a capacity leaves empty. A vision tower's products are in neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from distill.plan.compiled import Compiled
from distill.plan.products import Products
from distill.plan.programs import Program, Work
from models import cost
from models.capacity import Capacity
from models.config import Config
from models.execution import Execution
from models.remat import Inputs
from models.rounds import Rounds


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Floating-point operations of a step, over all devices."""

    matrices: float = 0.0
    """needed: products with weights, heads included"""
    attention: float = 0.0
    """needed: scores and values of visible keys"""
    again: float = 0.0
    """products with weights that are done a second time, for the gradient"""
    attention_again: float = 0.0
    """attention that is done a second time"""
    empty: float = 0.0
    """products of rows that no token is in; below 0 where more tokens are dropped than rows are empty"""
    routed: float = 0.0
    """part of all products with weights that routed experts do"""

    @property
    def needed(self) -> float:
        """All that counts."""
        return self.matrices + self.attention

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(**{name: value + vars(other)[name] for name, value in vars(self).items()})


def by_formula(works: Sequence[Work]) -> Flops:
    """Of all the work of a program."""
    return sum((_of(work) for work in works), Flops())


def _of(work: Work) -> Flops:
    model, tokens = work.model, work.tokens
    parts = cost.Parameters.of(model)
    head = 2.0 * parts.head * tokens
    if work.kind == "head":
        return Flops(matrices=work.heads * head)
    matrices = 2.0 * (cost.active(model) - parts.embedding - parts.norms - parts.head) * tokens
    attention = cost.forward_flops(model, work.context) * tokens - matrices - head
    routed = 2.0 * parts.experts * model.top_k / model.experts * tokens
    train = work.kind == "train"
    passes = 3.0 if train else 1.0
    twice = train and isinstance(work.execution.remat, Inputs)
    again = matrices - _last_products(model) * tokens if twice else 0.0
    routed_again = routed * 2 / 3 if twice else 0.0
    more = _filling(work.execution, work, model) - 1.0
    return Flops(
        matrices=passes * matrices + work.heads * passes * head,
        attention=passes * attention,
        again=again,
        attention_again=attention if twice else 0.0,
        empty=more * (passes * routed + routed_again),
        routed=(1.0 + more) * (passes * routed + routed_again),
    )


def _last_products(model: Config) -> float:
    """FLOPs a token of products that a layer's second computation leaves out, as nobody asks for what it ends with.

    These are the down-projections, of experts and shared expert or of the dense feed-forward.
    """
    moe = model.periods * model.moe_per_period
    return 2.0 * model.width * (moe * model.expert_width * (1 + model.top_k) + (model.layers - moe) * model.dense_width)


def _filling(execution: Execution, work: Work, model: Config) -> float:
    """Rows of which routed experts make products, over tokens times top_k."""
    dispatch, place = execution.dispatch, execution.placement
    if isinstance(dispatch, Rounds):  # of one round; each expert's are on one device
        return dispatch.rows * model.experts / (work.tokens / work.parts * model.top_k)
    if not isinstance(dispatch, Capacity) or place is None:
        return 1.0
    choices = int(work.tokens / work.parts * model.top_k / place.parts("b") / place.parts("t"))
    return dispatch.room(choices, model.experts) * model.experts / choices


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the compiler does, against the formula; FLOPs of a step over all devices."""

    counted: float | None
    """products with weights in the compiled program, each as often as its loop turns, and `grouped`. None: it writes
    its products as calls of a library"""
    grouped: float
    """products of experts in kernels, in which the compiler sees none: by formula, or by the shapes that they are given
    where these are less; part of `counted`"""
    expected: float
    """by formula: needed, done again, and empty"""
    own: float | None
    """the compiler's own count where loops turn once, over what was read of its program so; None: it has none"""

    @property
    def ratio(self) -> float | None:
        """Of what is counted to what is expected."""
        return None if not self.counted else self.counted / self.expected


def compare(program: Program, compiled: Compiled, products: Products) -> Comparison:
    """The compiled program's products against the formula."""
    found, devices = by_formula(program.work), program.mesh.size
    grouped = min(products.grouped * devices, found.routed)
    counted = products.matrices * devices
    return Comparison(
        counted=counted + grouped if counted else None,
        grouped=grouped,
        expected=found.matrices + found.again + found.empty,
        own=None if not compiled.flops or not products.once else compiled.flops / products.once,
    )
