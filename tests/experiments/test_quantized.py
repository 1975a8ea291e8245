"""What the experiment reports of a quantised model."""

from functools import partial

import jax
import numpy as np
import pytest

from distill.state import Weights
from experiments import quantized
from models.llama4 import Llama4
from models.quantize import Recipe, quantize
from tests.distill.small import MOE, batch


@pytest.fixture(scope="module")
def floats():
    return Weights(jax.jit(partial(Llama4, MOE))(jax.random.key(0)), None)


@pytest.fixture(scope="module")
def batches():
    return [jax.tree.map(lambda x: jax.numpy.asarray(x[0]), batch(seed)) for seed in (0, 1)]


def test_a_model_costs_nothing_against_itself(floats, batches):
    cost = quantized.look(floats, floats, batches)
    assert cost.kl.shape == cost.hard.shape == (16,)
    np.testing.assert_array_equal(cost.kl, 0)


def test_fewer_bits_cost_more(floats, batches):
    small = {bits: Weights(quantize(floats.model, Recipe(bits=bits)), None) for bits in (8, 4)}
    kl = {bits: quantized.look(one, floats, batches).kl for bits, one in small.items()}
    assert 0 < kl[8].mean() < 0.1 * kl[4].mean()


def test_the_table_has_a_line_a_recipe_with_its_intervals(floats, batches):
    lines = quantized.compare(floats, batches, {"int4": Recipe(bits=4)})
    assert [line.split()[0] for line in lines[1:]] == ["float32", "int4"]
    assert lines[2].count("[") == 2


def test_a_run_that_is_not_there_is_an_error_that_says_what_makes_it(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*python experiments/herd.py trains runs/herd"):
        quantized.main(["--run", str(tmp_path / "none")])
