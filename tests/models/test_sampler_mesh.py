"""A sampler on a mesh, with weights at rest and its cache in parts, draws what it draws on one device."""

from dataclasses import replace
from functools import cache, partial

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from distill.mesh import Mesh, resting
from models.config import Config, Layer, Tempering
from models.execution import Execution
from models.llama4 import Llama4
from models.request import Request
from models.rounds import Rounds
from models.sampler import Sampler
from models.slots import Slots

# Chunks shorter than a prompt, and pieces that begin and end anywhere in them.
TOY = Config(
    vocab=50, width=16, layers=2, heads=4, kv_heads=2, head_dim=4, expert_width=8, dense_width=16, experts=2, top_k=1,
    pattern=(Layer(rope=True, moe=True), Layer(rope=False, moe=False)), chunk=4, rope_theta=100.0, rope_scaling=None,
    qk_norm=True, tempering=Tempering(floor=3, scale=0.5), eps=1e-5, max_positions=64,
)  # fmt: skip
SAMPLER = Sampler(slots=8, capacity=20, piece=6, stride=5, stop=(7,), routes=True)


def requests():
    rng = np.random.default_rng(0)
    return [
        Request(prompt=n, sample=0, tokens=rng.integers(0, TOY.vocab, length), limit=6)
        for n, length in enumerate((14, 1, 9, 6, 13, 3, 7, 12, 2, 11))
    ]


def drawn(sampler):
    return {one.prompt: one for one in sampler(jax.jit(partial(Llama4, TOY))(jax.random.key(0)), requests())}


@cache
def on_one_device():
    return drawn(SAMPLER)


# With 8 slots a prompt is read alone: its columns lie where the rows of the slots do. With 16 its row has its device.
@pytest.mark.parametrize(
    ("mesh", "slots", "dispatch"),
    [(Mesh(expert=2, tensor=2), 8, None), (Mesh(data=2), 16, Rounds(rows=1))],
    ids=["columns", "rows"],
)
def test_tokens_routes_and_log_probabilities_are_those_of_one_device(mesh, slots, dispatch):
    execution = Execution(placement=resting(mesh.build()), unroll=TOY.periods, dispatch=dispatch)
    found, wanted = drawn(replace(SAMPLER, slots=slots, execution=execution)), on_one_device()
    assert found.keys() == wanted.keys()
    for prompt, one in found.items():
        np.testing.assert_array_equal(one.tokens, wanted[prompt].tokens)
        np.testing.assert_array_equal(one.routes, wanted[prompt].routes)
        np.testing.assert_allclose(one.logprobs, wanted[prompt].logprobs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("slots", "wanted"),
    [(8, (None, ("expert",), ("tensor",), None, None)), (1, (None, None, ("tensor",), ("expert",), None))],
)
def test_rows_of_slots_take_the_devices_that_their_number_divides_over_and_columns_those_that_are_left(slots, wanted):
    place = resting(Mesh(expert=2, tensor=2).build())
    made = jax.jit(lambda: Slots.create(TOY, slots, 20, "float32", place))()
    for keys in made.cache.keys:
        assert keys.sharding.is_equivalent_to(NamedSharding(place.mesh, PartitionSpec(*wanted)), 5)
    by_rows = NamedSharding(place.mesh, PartitionSpec(("expert", "tensor") if slots == 8 else None))
    assert made.logits.sharding.is_equivalent_to(by_rows, 2)
