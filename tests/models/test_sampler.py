from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import huggingface
from models.cache import Cache, extend
from models.config import Config, Layer, Tempering
from models.execution import Execution
from models.llama4 import Llama4
from models.moe import steady
from models.request import Request
from models.sampler import Sampler
from models.sampling import Sampling
from models.tower import VISION_PICO

DATA = Path(__file__).parents[1] / "data" / "llama4"
# Two periods, two experts a token, chunks and floors shorter than a row.
TOY = Config(
    vocab=150, width=32, layers=4, heads=4, kv_heads=2, head_dim=8, expert_width=24, dense_width=48, experts=4, top_k=2,
    pattern=(Layer(rope=True, moe=True), Layer(rope=False, moe=True)), chunk=8, rope_theta=100.0, rope_scaling=None,
    qk_norm=True, tempering=Tempering(floor=3, scale=0.5), eps=1e-5, max_positions=64,
)  # fmt: skip
# The slots are refilled two at a time, prompts read in up to three pieces, and a long completion decoded in four calls.
SAMPLER = Sampler(slots=16, capacity=40, piece=6, stride=5, stop=(7,))


@cache
def _toy():
    return jax.jit(partial(Llama4, TOY))(jax.random.key(0))


def _request(prompt, sample=0, length=None, limit=None):
    rng = np.random.default_rng(prompt)
    length = rng.integers(1, 18) if length is None else length
    limit = rng.integers(1, 20) if limit is None else limit
    return Request(prompt=prompt, sample=sample, tokens=rng.integers(0, TOY.vocab, length), limit=int(limit))


def _complete(requests, sampler=SAMPLER):
    return {(each.prompt, each.sample): each for each in sampler(_toy(), requests)}


@cache
def _crowd():
    """Forty requests of all lengths, and what comes of them together."""
    requests = [_request(prompt) for prompt in range(40)]
    return requests, _complete(requests)


def _assert_equal_bit_for_bit(some, others):
    for name, each in some.items():
        np.testing.assert_array_equal(each.tokens, others[name].tokens)
        np.testing.assert_array_equal(each.logprobs, others[name].logprobs)


def test_every_request_is_completed_once():
    requests, together = _crowd()
    assert sorted(together) == [(each.prompt, each.sample) for each in requests]


def test_a_completion_ends_at_its_limit_or_with_a_stop_token():
    requests, together = _crowd()
    for request in requests:
        each = together[request.prompt, 0]
        assert 7 not in each.tokens[:-1]
        assert each.stopped == (each.tokens[-1] == 7)
        assert len(each.tokens) == request.limit or each.stopped
    assert 0 < sum(each.stopped for each in together.values()) < 40


def test_order_does_not_matter_in_any_bit():
    requests, together = _crowd()
    _assert_equal_bit_for_bit(_complete(requests[::-1]), together)


def test_neighbours_do_not_matter_in_any_bit():
    requests, together = _crowd()
    for request in requests[10:13]:
        _assert_equal_bit_for_bit(_complete([request]), together)


def test_neighbours_who_crowd_into_the_same_experts_do_not_matter_in_any_bit():
    requests, together = _crowd()
    # Copies of a prompt go where it goes: with them, every block of its experts is full and it stands elsewhere.
    for victim in (3, 17):
        copies = [replace(requests[victim], prompt=100 + n) for n in range(20)]
        got = _complete([*copies[:9], requests[victim], *copies[9:]])
        _assert_equal_bit_for_bit({(victim, 0): got[victim, 0]}, together)


def test_a_neighbour_of_no_numbers_does_not_matter_in_any_bit():
    # Token 149 alone has an embedding of NaN; whoever takes its slot afterwards must not see any of it.
    model = _toy()
    poisoned = jax.tree.map(lambda leaf: leaf, model)
    poisoned.embed = model.embed.replace(model.embed[...].at[149].set(jnp.nan))
    requests, together = _crowd()
    requests = [each for each in requests if 149 not in (*each.tokens, *together[each.prompt, 0].tokens)]
    bad = [Request(prompt=200 + n, sample=0, tokens=np.array([149]), limit=3) for n in range(20)]
    mixed = [each for pair in zip(requests, bad, strict=False) for each in pair]
    got = {(each.prompt, each.sample): each for each in SAMPLER(poisoned, mixed)}
    assert all(np.isnan(got[each.prompt, 0].logprobs).all() for each in bad)
    kept = {name: each for name, each in got.items() if name[0] < 200}
    assert len(kept) == 20
    _assert_equal_bit_for_bit(kept, together)


def test_another_sample_and_another_seed_are_other_draws():
    base = _request(5, length=6, limit=15)
    first = _complete([base, replace(base, sample=1), replace(base, prompt=6)])
    seeded = _complete([base], replace(SAMPLER, seed=1))
    drawn = [*first.values(), *seeded.values()]
    assert len({tuple(each.tokens) for each in drawn}) == 4


def test_log_probabilities_are_those_of_the_training_forward():
    requests, together = _crowd()

    @jax.jit
    def score(model, tokens):
        return jax.nn.log_softmax(model.logits(model(tokens)[0]))

    rows = np.zeros((40, SAMPLER.capacity), np.int32)
    for row, request in zip(rows, requests, strict=True):
        whole = np.concatenate([request.tokens, together[request.prompt, 0].tokens])
        row[: len(whole)] = whole
    scores = np.asarray(score(_toy(), jnp.asarray(rows)))
    for row, request, own in zip(rows, requests, scores, strict=True):
        each, n = together[request.prompt, 0], len(request.tokens)
        where = np.arange(n - 1, n + len(each.tokens) - 1)
        np.testing.assert_allclose(each.logprobs, own[where, row[where + 1]], atol=1e-5, rtol=0)


def test_no_token_is_routed_elsewhere_in_decoding_than_in_training():
    tokens = jax.random.randint(jax.random.key(1), (1, 40), 0, TOY.vocab)

    @jax.jit
    def trained(model):
        """Choices of each token [t l e]: of the row up to it, less those of the row before it."""

        def counts(n):
            layout = Cache.create(TOY, 1, 40).place(n[None], 40)
            return model(tokens, layout)[1].counts

        sums = jax.lax.map(counts, jnp.arange(41))
        return sums[1:] - sums[:-1]

    @jax.jit
    def decoded(model):
        def read(held, token):
            layout = held.place(jnp.ones(1, jnp.int32), 1)
            x = model.read(token[:, None], layout, Execution())
            _, held, routing, _ = extend(model, x, layout, held, execution=Execution(dispatch=steady("cpu")))
            return held, routing.counts

        return jax.lax.scan(read, Cache.create(TOY, 1, 40), tokens.T)[1]

    flips = jnp.sum(trained(_toy()) != decoded(_toy()))
    assert jnp.sum(decoded(_toy())) == 40 * 4 * TOY.top_k
    assert flips == 0, f"{flips} choices of experts differ"


def test_a_stream_is_the_completion_token_by_token():
    requests, together = _crowd()
    assert list(SAMPLER.stream(_toy(), requests[8])) == together[8, 0].tokens.tolist()


def test_requests_are_taken_as_slots_become_free():
    taken = []

    def ask():
        for prompt in range(60):
            taken.append(prompt)
            yield _request(prompt, limit=10)

    next(SAMPLER(_toy(), ask()))
    assert len(taken) == SAMPLER.slots


def _fixture(case):
    return huggingface.load(DATA / case), np.load(DATA / case / "expected.npz")


@pytest.mark.parametrize("unroll", [1, 2])
def test_greedy_completions_are_those_of_transformers(unroll):
    # With unroll at both periods the layers are copied out of their stack first.
    model, expected = _fixture("scout_tiny")
    sampler = Sampler(
        slots=2, capacity=28, piece=5, sampling=Sampling(temperature=0.0), execution=Execution(unroll=unroll)
    )
    requests = [Request(prompt=n, sample=0, tokens=row, limit=16) for n, row in enumerate(expected["gen.prompt"])]
    for each in sampler(model, requests):
        np.testing.assert_array_equal(each.tokens, expected["gen.tokens"][each.prompt])


@pytest.mark.parametrize("unroll", [1, 2])
def test_the_bias_of_routers_chooses_experts_while_decoding(unroll):
    bias = 3 * jax.random.normal(jax.random.key(2), (TOY.periods, 2, TOY.experts))
    sampler = replace(SAMPLER, slots=1, sampling=Sampling(temperature=0.0), execution=Execution(unroll=unroll))
    request = _request(4, length=7, limit=12)
    (found,) = sampler(_toy(), [request], bias)
    whole = np.concatenate([request.tokens, found.tokens])
    logits = jax.jit(lambda model, row: model.logits(model(row, None, bias)[0]))(_toy(), jnp.asarray(whole[None]))
    np.testing.assert_array_equal(found.tokens, logits[0, 6:-1].argmax(-1))
    assert found.tokens.tolist() != list(sampler.stream(_toy(), request))


def test_prompts_may_have_images():
    model, expected = _fixture("mm_tiny")
    vision = model.config.vision
    sampler = Sampler(slots=2, capacity=40, piece=9, sampling=Sampling(temperature=0.0))
    requests, pixels = [], expected["pixel_values"]
    for n, row in enumerate(expected["gen.prompt"]):
        tiles = int(np.sum(row == vision.patch_token)) // vision.tokens
        requests.append(Request(prompt=n, sample=0, tokens=row, limit=16, images=pixels[:tiles]))
        pixels = pixels[tiles:]
    for each in sampler(model, requests):
        np.testing.assert_array_equal(each.tokens, expected["gen.tokens"][each.prompt])


@cache
def _seeing():
    """A model that sees, of random weights, and a prompt with so many images."""
    vision = replace(VISION_PICO, image=8, patch=2, patch_token=149)
    model = jax.jit(partial(Llama4, replace(TOY, vision=vision)))(jax.random.key(4))
    rng = np.random.default_rng(0)

    def ask(number, images):
        tokens = np.array([3, *[149] * (vision.tokens * images), 5])
        tiles = rng.uniform(-1, 1, (images, 3, 8, 8)).astype(np.float32)
        return Request(prompt=number, sample=0, tokens=tokens, limit=6, images=tiles)

    return model, ask


def test_the_images_of_neighbours_do_not_matter_in_any_bit():
    model, ask = _seeing()
    sampler = replace(SAMPLER, piece=7)
    own = ask(0, 1)
    (alone,) = sampler(model, [own])
    for images in (1, 2, 5):
        together = {each.prompt: each for each in sampler(model, [own, ask(1, images)])}
        _assert_equal_bit_for_bit({0: alone}, together)


def test_a_patch_is_never_drawn_and_stays_in_the_softmax():
    model, ask = _seeing()
    eager = jax.tree.map(lambda leaf: leaf, model)
    eager.head = model.head.replace(model.head[...].at[:, 149].set(100 * model.head[...][:, 3]))
    for temperature in (0.0, 1.0):
        sampler = replace(SAMPLER, piece=7, sampling=Sampling(temperature=temperature))
        found = list(sampler(eager, [ask(number, 1) for number in range(6)]))
        assert all(149 not in each.tokens for each in found)
        assert min(each.logprobs.min() for each in found) < -20


def _refuse(request, match, sampler=SAMPLER):
    with pytest.raises(ValueError, match=match):
        list(sampler(_toy(), [request]))


def test_a_prompt_without_tokens_is_refused():
    _refuse(_request(0, length=0), r"Request\(prompt=0, sample=0\) has 0 tokens and a limit of")


def test_a_limit_of_nothing_is_refused():
    _refuse(_request(0, limit=0), "a limit of 0; both must be at least 1")


def test_a_request_without_room_is_refused():
    _refuse(_request(0, length=30, limit=11), "30 tokens and a limit of 11, but there is room for 40 in all; raise")


@pytest.mark.parametrize("token", [-1, 150])
def test_ids_of_another_vocabulary_are_refused(token):
    _refuse(replace(_request(0), tokens=np.array([3, token])), "ids outside the vocabulary of 150")


def test_numbers_that_are_no_seed_are_refused():
    _refuse(_request(0, sample=-1), "both numbers must be at least 0 and below")


def test_images_without_a_vision_tower_are_refused():
    _refuse(replace(_request(0), images=np.zeros((1, 3, 4, 4), np.float32)), "has images, but this model has no vision")


def test_a_capacity_that_the_model_does_not_have_is_refused():
    _refuse(_request(0), "A cache of 65 tokens a row", replace(SAMPLER, capacity=65))


@pytest.mark.parametrize("name", ["slots", "capacity", "piece", "stride"])
def test_a_sampler_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match=f"Sampler.{name} is 0; it must be at least 1"):
        Sampler(**{name: 0})
