"""Every loss that is shipped keeps every promise, and every planted mistake is found by the promise that names it."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import pytest

from losses import (
    WSLD,
    AdaptiveKL,
    AlphaBeta,
    Balance,
    Batch,
    Distill,
    Domain,
    Evidence,
    ForwardKL,
    Gap,
    Gate,
    JensenShannon,
    LogScore,
    NoGate,
    ReverseKL,
    Segment,
    Sequence,
    SkewKL,
    SkewReverseKL,
    Tally,
    TeacherConfidence,
    TeacherGold,
    ToDi,
    Token,
    TotalVariation,
    check,
)
from losses.scope import neighbours
from losses.signal import contract

DIVERGENCES = [
    ForwardKL(), ReverseKL(), JensenShannon(), JensenShannon(normalise=True), SkewKL(), SkewReverseKL(), AlphaBeta(),
    TotalVariation(), AdaptiveKL(), ToDi(),
]  # fmt: skip
GATES = [
    NoGate(), TeacherGold(), TeacherConfidence(vocab=9), WSLD(), Gap(), Balance(), Evidence(),
    Evidence(scope=Token()), Evidence(scope=Segment()), Evidence(scope=Domain()), Evidence(score=LogScore(), kappa=0.2),
]  # fmt: skip


@pytest.mark.parametrize("subject", [*DIVERGENCES, *GATES, Distill(), Distill(gate=NoGate(), chunk=None)], ids=str)
def test_what_is_shipped_keeps_every_promise(subject):
    found = check.check(subject)
    assert check.broken(found) == []


@pytest.mark.parametrize("scope", [Sequence(), Batch()])
def test_a_gate_that_pools_over_rows_or_batches_breaks_what_it_must_and_no_more(scope):
    broken = set(check.broken(check.check(Evidence(scope=scope))))
    assert broken <= {"packing", "accumulation and split"} and broken


def on_mean(student, teacher, labels, mask, hard_logits=None, weights=None):
    """Half forward KL, half cross-entropy: the mean that the plain mistakes below are variations of."""
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    p, q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    p = jnp.maximum(p, -1e30)
    soft = jnp.sum(jnp.exp(p) * (p - jnp.maximum(q, -1e30)), axis=-1)
    hard = -jnp.take_along_axis(q, jnp.where(mask, labels, 0)[..., None], axis=-1)[..., 0]
    return 0.5 * soft + 0.5 * hard


def right(student, teacher, labels, mask):
    return jnp.sum(jnp.where(mask, on_mean(student, teacher, labels, mask), 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def unshifted(student, teacher, labels, mask):
    """The label is the token that the student reads, not the one that follows (EasyDeL)."""
    return right(student, teacher, jnp.roll(labels, 1, axis=1), mask)


def over_padding(student, teacher, labels, mask):
    """The mean is over every position, padding included (tunix)."""
    return jnp.mean(on_mean(student, teacher, labels, jnp.ones_like(mask)))


def without_teacher(student, teacher, labels, mask):
    """The teacher's log-probability is subtracted and drops out of the gradient (AReaL)."""
    q = jax.nn.log_softmax(student)
    gold = jnp.take_along_axis(q, labels[..., None], axis=-1)[..., 0]
    told = jnp.take_along_axis(jax.nn.log_softmax(teacher), labels[..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(mask, gold - jax.lax.stop_gradient(told), 0.0)) / jnp.sum(mask)


def runaway(student, teacher, labels, mask):
    """The soft term is scaled to the hard one, without bound as it goes to 0 (NeMo-RL)."""
    p, q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    soft = jnp.sum(jnp.where(mask, jnp.sum(jnp.exp(p) * (p - q), axis=-1), 0.0))
    hard = -jnp.sum(jnp.where(mask, jnp.take_along_axis(q, labels[..., None], axis=-1)[..., 0], 0.0))
    return (jax.lax.stop_gradient(hard / soft) * soft + hard) / jnp.sum(mask)


def in_bfloat16(student, teacher, labels, mask):
    """Normalises and adds up in the dtype of the logits (EasyDeL)."""
    p, q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    soft = jnp.sum(jnp.exp(p) * (jnp.maximum(p, -1e30) - jnp.maximum(q, -1e30)), axis=-1)
    hard = -jnp.take_along_axis(q, jnp.where(mask, labels, 0)[..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(mask, 0.5 * soft + 0.5 * hard, 0.0)) / jnp.sum(mask)


class MeanOfMeans:
    """Returns a mean and a count of 1: micro-batches then weigh alike, whatever they hold (tunix, MaxText)."""

    def __call__(self, hidden, head, signal, labels, place, progress):
        tally, metrics, seen = Distill(gate=NoGate(), chunk=None)(hidden, head, signal, labels, place, progress)
        return Tally(tally.mean(), jnp.ones(())), metrics, seen


class TwiceDivided:
    """A mean that is divided by the number of tokens again (torchtune)."""

    def __call__(self, hidden, head, signal, labels, place, progress):
        tally, metrics, seen = Distill(gate=NoGate(), chunk=None)(hidden, head, signal, labels, place, progress)
        return Tally(tally.mean(), tally.count), metrics, seen


@dataclass(frozen=True)
class RenormalisedTop:
    """Both sides renormalised over the teacher's top tokens: blind to what leaks beyond (tunix, MaxText, NeMo-RL)."""

    def __call__(self, signal, logits, temperature):
        sides = signal.against(logits, temperature)
        p, q = (
            x[..., :3] - jax.nn.logsumexp(x[..., :3], axis=-1, keepdims=True) for x in (sides.teacher, sides.student)
        )
        return temperature**2 * contract(jnp.exp(p), p - q)


@dataclass(frozen=True)
class CutTop:
    """The sum over the top tokens alone, without the rest: it can be negative (verl)."""

    def __call__(self, signal, logits, temperature):
        sides = signal.against(logits, temperature)
        p, q = sides.teacher[..., :3], sides.student[..., :3]
        return temperature**2 * contract(jnp.exp(p), p - q)


@dataclass(frozen=True)
class Unscaled:
    """No factor of temperature squared (TRL)."""

    def __call__(self, signal, logits, temperature):
        return ForwardKL()(signal, logits, temperature) / temperature**2


@dataclass(frozen=True)
class Backwards:
    """The Jensen-Shannon divergence with beta counted from the student (EasyDeL)."""

    beta: float = 0.3

    def __call__(self, signal, logits, temperature):
        return replace(JensenShannon(), beta=1.0 - self.beta)(signal, logits, temperature)


@dataclass(frozen=True)
class Jumping:
    """The Jensen-Shannon divergence that becomes the forward KL at beta = 0, at once (TRL)."""

    beta: float = 0.5

    def __call__(self, signal, logits, temperature):
        ends = {0.0: ForwardKL(), 1.0: ReverseKL()}
        return (ends.get(self.beta) or JensenShannon(beta=self.beta))(signal, logits, temperature)


@dataclass(frozen=True)
class ByPiece:
    """Sums over whole pieces, so that what is left at the end is forgotten."""

    chunk: int | None = None

    def __call__(self, hidden, head, signal, labels, place, progress):
        kept = hidden.shape[1] // (self.chunk or 1) * (self.chunk or 1)
        place = replace(place, mask=place.mask & (jnp.arange(hidden.shape[1]) < kept))
        return Distill(gate=NoGate(), chunk=None)(hidden, head, signal, labels, place, progress)


@dataclass(frozen=True)
class Narrow:
    """Cross-entropy minus entropy, both summed in bfloat16 (EasyDeL)."""

    def __call__(self, signal, logits, temperature):
        sides = signal.against(logits, temperature)
        p, q = sides.teacher.astype(jnp.bfloat16), sides.student.astype(jnp.bfloat16)
        cross, entropy = (-jnp.sum(jnp.exp(p) * x, axis=-1, dtype=jnp.bfloat16) for x in (q, p))
        return temperature**2 * (cross - entropy).astype(logits.dtype)


@dataclass(frozen=True)
class Trapped:
    """0 / 0 behind a `where`: the value is right and the gradient is NaN."""

    def __call__(self, signal, logits, temperature):
        sides = signal.against(logits, temperature)
        p, q = jnp.exp(sides.teacher), jnp.exp(sides.student)
        return temperature**2 * jnp.sum(jnp.where(p > 0.0, p * jnp.log(p / q), 0.0), axis=-1)


class Leaky(Gate):
    """A window that runs across the ends of documents."""

    @property
    def reach(self):
        return 2

    def __call__(self, look, place):
        return jnp.mean(jnp.exp(neighbours(look.teacher.gold, 2)), axis=-1)


class Farsighted(Gate):
    """Looks further than it says."""

    def __call__(self, look, place):
        near = neighbours(look.teacher.gold, 2)
        return jnp.exp(jnp.mean(near, axis=-1))


class Unbounded(Gate):
    """The ratio of two losses as a weight."""

    def __call__(self, look, place):
        return look.student.gold / look.teacher.gold


PLANTED = [
    (unshifted, "next-token shift"),
    (over_padding, "padding"),
    (without_teacher, "the teacher matters"),
    (runaway, "bounded near the teacher"),
    (MeanOfMeans(), "accumulation and split"),
    (TwiceDivided(), "accumulation and split"),
    (RenormalisedTop(), "leaked mass has gradient"),
    (CutTop(), "positive where they do not"),
    (Unscaled(), "temperature squared"),
    (Backwards(), "ends and direction"),
    (Jumping(), "ends and direction"),
    (ByPiece(), "pieces"),
    (in_bfloat16, "logits in bfloat16"),
    (Narrow(), "float32 sums"),
    (Trapped(), "excluded tokens"),
    (Leaky(), "documents kept apart"),
    (Farsighted(), "chunks"),
    (Unbounded(), "bounded, finite, float32"),
]


@pytest.mark.parametrize(
    ("mistake", "promise"), PLANTED, ids=[f"{n}-{promise}" for n, (_, promise) in enumerate(PLANTED)]
)
def test_a_planted_mistake_is_found(mistake, promise):
    assert promise in check.broken(check.check(mistake))


def test_the_plain_function_that_the_mistakes_vary_is_right():
    assert check.broken(check.check(right)) == []


def test_the_command_prints_each_promise_and_fails_where_one_is_broken(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "import jax.numpy as jnp\nfrom losses import Gate\n\n"
        "class Twice(Gate):\n    def __call__(self, look, place):\n        return 2.0 * jnp.exp(look.teacher.gold)\n\n"
        "class Once(Gate):\n    def __call__(self, look, place):\n        return jnp.exp(look.teacher.gold)\n"
    )
    assert check.main([f"{file}:Twice"]) == 1
    printed = capsys.readouterr().out
    assert "BROKEN  bounded, finite, float32" in printed and "1 of " in printed
    assert check.main([f"{file}:Once"]) == 0
    assert "promises kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("where", "message"),
    [("nowhere.py:Loss", "is not a file and a name in it"), ("setup.cfg", "is not a file and a name in it")],
)
def test_the_command_says_what_it_cannot_find(where, message, capsys):
    assert check.main([where]) == 2
    assert message in capsys.readouterr().err


def test_the_command_names_what_a_file_defines(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text("class There: pass\n")
    assert check.main([f"{file}:Missing"]) == 2
    assert "defines no Missing; it has ['There']" in capsys.readouterr().err


def test_something_that_is_called_otherwise_is_refused():
    with pytest.raises(ValueError, match="takes 1 arguments; a gate takes 2"):
        check.check(lambda x: x)
