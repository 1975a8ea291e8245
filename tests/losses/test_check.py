"""Every loss that is shipped keeps every promise, and every planted mistake is found by the promise that names it."""

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
    JensenShannon,
    LogScore,
    NoGate,
    ReverseKL,
    Segment,
    Sequence,
    SkewKL,
    SkewReverseKL,
    TeacherConfidence,
    TeacherGold,
    ToDi,
    Token,
    TotalVariation,
    check,
)
from tests.losses.planted import PLANTED, right

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
    assert "promises kept that were asked" in capsys.readouterr().out


def test_what_has_no_meaning_is_not_asked_and_not_called_kept(tmp_path, capsys):
    found = check.check(right) | check.check(ForwardKL()) | check.check(Evidence(scope=Segment()))
    assert [name for name, size in found.items() if size is None] == ["ends and direction", "documents kept apart"]
    file = tmp_path / "mine.py"
    file.write_text("from losses import ForwardKL\nplain = ForwardKL()\n")
    assert check.main([f"{file}:plain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if "ends and direction" in line)
    assert line.split() == ["-", "ends", "and", "direction", "not", "asked"]
    assert lines[-1] == f"all {len(lines) - 2} promises kept that were asked"


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
