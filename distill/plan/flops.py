"""FLOPs: what models need by formula (`models.cost`), what their programs do of it twice, and what a compiler counts.

Needed are a multiplication and an addition for each active matrix entry of a forward pass, twice that for gradients,
and causal attention: the numerator of model FLOPs utilisation. Done is more: what is computed again for the gradient
(remat), and rows of experts that a capacity leaves empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from distill.plan.compiled import Compiled
from distill.plan.products import Products
from distill.plan.programs import Program, Work
from models import cost


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Floating-point operations of a step, over all devices."""

    matrices: float
    """needed: products with weights, heads included"""
    attention: float
    """needed: scores and values of visible keys"""
    again: float
    """products with weights that are done a second time, for the gradient"""
    attention_again: float
    """attention that is done a second time"""
    empty: float
    """products of rows that no token is in"""

    @property
    def needed(self) -> float:
        """All that counts."""
        return self.matrices + self.attention

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(**{name: value + vars(other)[name] for name, value in vars(self).items()})


NONE = Flops(matrices=0.0, attention=0.0, again=0.0, attention_again=0.0, empty=0.0)


def by_formula(works: Sequence[Work]) -> Flops:
    """Of all the work of a program."""
    return sum((_of(work) for work in works), NONE)


def _of(work: Work) -> Flops:
    model, tokens = work.model, work.tokens
    parts = cost.Parameters.of(model)
    head = 2.0 * parts.head * tokens
    if work.kind == "head":
        return Flops(matrices=work.heads * head, attention=0.0, again=0.0, attention_again=0.0, empty=0.0)
    matrices = 2.0 * (cost.active(model) - parts.embedding - parts.norms - parts.head) * tokens
    attention = cost.forward_flops(model, work.context) * tokens - matrices - head
    passes = 3.0 if work.kind == "train" else 1.0
    remat = work.execution.remat and work.kind == "train"
    again = matrices - last_products(model) * tokens if remat else 0.0
    return Flops(
        matrices=passes * (matrices + (work.heads if passes == 1.0 else 1.0) * head),
        attention=passes * attention,
        again=again,
        attention_again=attention if remat else 0.0,
        empty=0.0,
    )


def last_products(model: "cost.Config") -> float:
    """FLOPs a token of products that a period's second computation leaves out: nobody asks for what it ends with.

    These are the down-projections of its last layer, of experts and shared expert or of the dense feed-forward.
    """
    last = model.pattern[-1]
    width = model.expert_width * (1 + model.top_k) if last.moe else model.dense_width
    return 2.0 * model.periods * width * model.width


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the compiler does, against the formula; FLOPs of a step over all devices."""

    counted: float | None
    """products with weights in the compiled program, each as often as its loop turns; grouped products in kernels by
    the shapes that these are given. None: it writes its products as calls of a library"""
    expected: float
    """the same by formula: needed, done again, and empty"""
    own: float | None
    """the compiler's own count where loops turn once, over what was read of its program so; None: it has none"""

    @property
    def ratio(self) -> float | None:
        """Of what is counted to what is expected."""
        return None if not self.counted else self.counted / self.expected


def compare(program: Program, compiled: Compiled, products: Products) -> Comparison:
    """The compiled program's products against the formula."""
    found = by_formula(program.work)
    counted = products.matrices * program.mesh.size
    return Comparison(
        counted=counted or None,
        expected=found.matrices + found.again + found.empty,
        own=None if not compiled.flops or not products.once else compiled.flops / products.once,
    )
