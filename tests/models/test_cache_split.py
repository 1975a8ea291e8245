"""A cache whose columns lie on several devices decodes as one on a single device."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill import Mesh
from distill.mesh import placement, resting
from models.cache import Cache, extend
from models.cache_split import see
from models.config import SCOUT_PICO, tiny
from models.execution import Execution
from models.layout import Layout
from models.llama4 import Llama4

CONFIG = replace(tiny(SCOUT_PICO), chunk=4)
TOKENS = 11


def decode(execution):
    model = Llama4(CONFIG, jax.random.key(0))
    ids = jax.random.randint(jax.random.key(1), (1, TOKENS), 0, CONFIG.vocab)

    @jax.jit
    def step(cache, token):
        layout = cache.place(jnp.ones(1, jnp.int32), 1)
        hidden, cache, *_ = extend(model, model.read(token, layout, execution), layout, cache, None, execution)
        return cache, hidden

    cache, found = Cache.create(CONFIG, 1, 16), []
    for i in range(TOKENS):
        cache, hidden = step(cache, ids[:, i : i + 1])
        found.append(hidden)
    return np.asarray(jnp.concatenate(found, axis=1))


@pytest.mark.parametrize(
    ("mesh", "rules"), [(Mesh(expert=4, tensor=2), resting), (Mesh(context=2, expert=2), placement)]
)
def test_tokens_are_those_of_one_device(mesh, rules):
    placed = Execution(placement=rules(mesh.build()))
    np.testing.assert_allclose(decode(placed), decode(Execution()), rtol=1e-5, atol=1e-5)


def test_a_row_without_a_token_keeps_its_cache():
    place = placement(Mesh(context=2).build())
    keys, q, k = jnp.zeros((1, 2, 1, 4, 2)), jnp.ones((2, 1, 1, 2)), jnp.ones((2, 1, 1, 2))
    positions = jnp.asarray([[3], [3]])
    layout = Layout(positions=positions, segments=jnp.asarray([[1], [0]]), tempering=positions)
    _, kept, values = jax.jit(partial(see, place, None))(q, k, k, layout, jnp.int32(0), keys, keys)
    for written in (kept, values):
        np.testing.assert_array_equal(written[0, :, 0, :, 0], [[0, 0, 0, 1], [0, 0, 0, 0]])
