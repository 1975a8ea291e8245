"""What is kept of a forward pass changes no number, and less is kept where less is asked for."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.config import SCOUT_PICO, Layer, tiny
from models.execution import Execution
from models.llama4 import Llama4
from models.remat import Everything, Inputs, Products, Remat

CONFIG = replace(tiny(SCOUT_PICO), pattern=(Layer(rope=True, moe=True), Layer(rope=False, moe=False)), layers=4)
B, T = 2, 32
WAYS = {"everything": Everything(), "products": Products(), "inputs": Inputs()}


@cache
def model():
    return jax.jit(lambda: Llama4(CONFIG, jax.random.key(0)))()


def loss(remat, unroll=1):
    execution = Execution(remat=remat, unroll=unroll)
    tokens = jax.random.randint(jax.random.key(1), (B, T), 0, CONFIG.vocab)
    return lambda model: jnp.mean(jnp.sin(model(tokens, execution=execution)[0]))


@cache
def wanted():
    return jax.jit(jax.value_and_grad(loss(Everything())))(model())


@pytest.mark.parametrize(("remat", "unroll"), [(Products(), 1), (Inputs(), 1), (Inputs(), 2)], ids=str)
def test_value_and_gradient_are_those_of_keeping_everything(remat, unroll):
    found = jax.jit(jax.value_and_grad(loss(remat, unroll)))(model())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, wanted())


def kept(remat):
    """Numbers that the gradient needs of the forward pass, beside the weights."""
    pull = jax.eval_shape(lambda model: jax.vjp(loss(remat), model)[1], model())
    weights = jax.tree.map(jnp.size, jax.tree.leaves(model().periods))
    return sum(leaf.size for leaf in jax.tree.leaves(pull)) - sum(weights)


def test_products_keep_less_than_everything_and_inputs_keep_less_than_products():
    everything, products, inputs = (kept(each) for each in WAYS.values())
    assert inputs < 0.7 * products < 0.7 * 0.7 * everything


def test_products_keep_what_attention_and_every_large_product_gave():
    """Of a layer with experts: q, k, v, what attention gave, gate and up of the shared expert and of the chosen one."""
    assert kept(Products()) > kept(Inputs()) + CONFIG.layers * B * T * CONFIG.heads * CONFIG.head_dim


def test_each_of_them_is_a_remat():
    assert all(isinstance(each, Remat) for each in WAYS.values())
