"""Routes: the sampler says where tokens went, and a forward pass sends them there again."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from models.execution import Execution
from models.llama4 import Llama4
from models.moe import Routes, select
from tests.models.test_sampler import SAMPLER, TOY, _request, _toy

ASKED = replace(SAMPLER, routes=True)
REQUESTS = [_request(prompt) for prompt in range(24)]


@pytest.fixture(scope="module")
def found():
    """Completions by their prompt."""
    return {one.prompt: one for one in ASKED(_toy(), REQUESTS)}


def row(found, number):
    """A prompt and its completion less the last token [1 n], and the routes of it [p m 1 n r]."""
    one = found[number]
    tokens = jnp.asarray(np.concatenate([REQUESTS[number].tokens, one.tokens]))[None, :-1]
    ids = rearrange(one.routes[:-1], "n (p m) r -> p m 1 n r", p=TOY.periods)
    return tokens, Routes(jnp.asarray(ids))


def logps(model, tokens, bias):
    """Log-probabilities [n v] of what may follow each token."""
    return jax.nn.log_softmax(model.logits(model(tokens, bias=bias)[0]))[0]


def test_completions_are_the_same_bit_for_bit_whether_or_not_routes_are_asked_for(found):
    for one in SAMPLER(_toy(), REQUESTS):
        np.testing.assert_array_equal(one.tokens, found[one.prompt].tokens)
        np.testing.assert_array_equal(one.logprobs, found[one.prompt].logprobs)
        assert one.routes is None


def test_every_token_that_was_read_has_routes_and_the_last_has_none(found):
    for number, one in found.items():
        assert one.routes.shape == (len(REQUESTS[number].tokens) + len(one.tokens), 4, TOY.top_k)
        assert (one.routes[:-1] >= 0).all() and (one.routes[:-1] < TOY.experts).all()
        assert (one.routes[-1] == -1).all()


def test_they_are_those_of_the_pass_over_the_whole_row(found):
    for number in range(6):
        tokens, routes = row(found, number)
        logits = _toy().trace(tokens).routers[:, 0]
        wanted = jax.vmap(lambda each: select(each, None, TOY.top_k))(logits)
        np.testing.assert_array_equal(rearrange(routes.ids, "p m 1 n r -> (p m) n r"), wanted)


def test_replayed_they_change_nothing_in_the_model_that_drew(found):
    for number in range(6):
        tokens, routes = row(found, number)
        np.testing.assert_allclose(logps(_toy(), tokens, routes), logps(_toy(), tokens, None), atol=1e-5)
        n = len(REQUESTS[number].tokens)
        drawn = logps(_toy(), tokens, routes)[np.arange(n - 1, tokens.shape[1]), found[number].tokens]
        np.testing.assert_allclose(drawn, found[number].logprobs, atol=1e-5)


def test_a_model_that_has_moved_sends_tokens_where_they_went_and_not_where_it_would(found):
    tokens, routes = row(found, 3)
    other = Llama4(TOY, jax.random.key(1))
    counts = other(tokens, bias=routes)[1].counts
    went = rearrange(routes.ids, "p m 1 n r -> (p m) (n r)")
    np.testing.assert_array_equal(counts, jax.vmap(lambda ids: jnp.bincount(ids, length=TOY.experts))(went))
    assert (counts != other(tokens)[1].counts).any()


def test_where_a_route_is_negative_the_token_goes_where_the_router_sends_it(found):
    tokens, routes = row(found, 3)
    other = Llama4(TOY, jax.random.key(1))
    nowhere = Routes(jnp.full_like(routes.ids, -1))
    np.testing.assert_array_equal(logps(other, tokens, nowhere), logps(other, tokens, None))
    half = Routes(routes.ids.at[:, :, :, 1:].set(-1))
    np.testing.assert_array_equal(logps(other, tokens, half)[0], logps(other, tokens, routes)[0])


def test_the_router_learns_through_the_scores_of_choices_that_stand(found):
    tokens, routes = row(found, 3)

    def score(model, bias):
        return logps(model, tokens, bias)[-1, 0]

    replayed, free = (jax.grad(score)(_toy(), bias) for bias in (routes, None))
    for one, other in zip(jax.tree.leaves(replayed), jax.tree.leaves(free), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert any(jnp.any(block.feed_forward.router[...] != 0) for block in replayed.periods.blocks)


def test_a_model_written_out_for_decoding_says_the_same_routes(found):
    quick = replace(ASKED, execution=Execution(unroll=2))
    for one in quick(_toy(), REQUESTS[:6]):
        np.testing.assert_array_equal(one.routes, found[one.prompt].routes)


def test_routes_of_another_shape_are_refused(found):
    tokens, routes = row(found, 3)
    with pytest.raises(ValueError, match=r"The routes are of shape .*; they must be .*: periods, MoE layers of each"):
        _toy()(tokens[:, 1:], bias=routes)
