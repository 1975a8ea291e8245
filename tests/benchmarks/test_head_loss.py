"""The benchmark of head and loss: what it compares is one and the same mathematics."""

import jax
import numpy as np
import pytest

from benchmarks.head_cases import DIVERGENCES, SIGNALS, Case
from benchmarks.head_loss import covering, every
from losses import NoGate

PAIRS = [("Projected", each) for each in DIVERGENCES] + [(each, "ForwardKL") for each in SIGNALS if each != "Projected"]
QUICK = {"xla_backend_optimization_level": 0}


@pytest.mark.parametrize(("signal", "divergence"), PAIRS)
def test_the_textbook_form_and_ours_are_one_loss(signal, divergence):
    case = Case(signal, divergence, width=8, tokens=12, dtype="float32", vocab=40)
    both = jax.jit(lambda *one: (case.textbook()(*one)[0], case.ours(NoGate(), None)(*one)[0]), compiler_options=QUICK)
    np.testing.assert_allclose(*both(*case.inputs()), rtol=1e-5)


def test_the_covering_set_holds_every_signal_with_every_divergence_that_it_can_have():
    pairs = {(case.signal, case.divergence) for case in covering(40)}
    assert pairs == {(case.signal, case.divergence) for case in every(40)} and len(pairs) == 4 * 9 + 1
