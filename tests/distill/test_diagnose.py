"""Looks at an experiment: what they refuse, and the rate they read off a curve."""

from dataclasses import dataclass

import optax
import pytest

from distill.diagnose import Rising, best_rate, by_itself, rates
from distill.options import load
from losses import Constant, Distill, NoGate, SampledReverseKL
from tests.distill.small import experiment, learner, stage


def test_the_rate_rises_by_a_constant_factor():
    assert [round(float(Rising(low=1e-4, high=1.0).at(f)), 6) for f in (0.0, 0.5, 1.0)] == [1e-4, 1e-2, 1.0]


def test_the_safe_rate_is_a_tenth_of_where_the_loss_leaves_its_floor():
    curve = [(10.0 ** (n / 10 - 5), 5.0 - 0.05 * n if n < 40 else 9.0) for n in range(50)]
    lowest, safe = best_rate(curve)
    assert 10**-1.5 < lowest < 10**-1 and 10**-2.1 < safe < 10**-1.8


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        load(tmp_path / "none.py")


def test_a_file_without_an_experiment_is_refused(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="defines no EXPERIMENT"):
        load(tmp_path / "empty.py")


def test_who_learns_from_its_own_draws_is_looked_at_with_labels():
    alone = by_itself(learner(loss=SampledReverseKL()))
    assert alone.loss == Distill(alpha=Constant(0.0), gate=NoGate()) and by_itself(learner()).loss == learner().loss


def test_an_optimizer_without_a_rate_is_refused():
    @dataclass(frozen=True)
    class Plain:
        def build(self, steps):
            return optax.sgd(0.1)

    mine = stage(learner(optimizer=Plain()))
    with pytest.raises(ValueError, match="the optimizer of 'student' has no field `rate`.*give it one"):
        rates(experiment(stages=(mine,)), mine)
