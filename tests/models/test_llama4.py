from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.config import BEHEMOTH_PICO, MAVERICK_PICO, SCOUT_PICO, Config, Layer, Tempering, interleave
from models.dispatch import Dense
from models.execution import Execution
from models.layout import Layout
from models.llama4 import Llama4
from models.remat import Inputs

# Two periods of (dense rope, MoE rope, MoE nope), all rules on, chunks and floors much shorter than a row.
TOY = Config(
    vocab=40, width=16, layers=6, heads=4, kv_heads=2, head_dim=4, expert_width=8, dense_width=12, experts=4, top_k=2,
    pattern=(Layer(rope=True, moe=False), Layer(rope=True, moe=True), Layer(rope=False, moe=True)), chunk=4,
    rope_theta=100.0, rope_scaling=None, qk_norm=True, tempering=Tempering(floor=3, scale=0.5), eps=1e-5,
    max_positions=32,
)  # fmt: skip
PLAIN = Execution(dispatch=Dense())


@pytest.fixture(scope="module")
def model():
    return jax.jit(partial(Llama4, TOY))(jax.random.key(0))


@pytest.fixture(scope="module")
def tokens():
    key = jax.random.key(0)
    return jax.random.permutation(key, jnp.arange(40))[:24].reshape(2, 12)


@partial(jax.jit, static_argnames="execution")
def run(model, tokens, layout=None, bias=None, execution=PLAIN):
    return model(tokens, layout, bias, execution)


def test_no_token_has_any_gradient_on_an_earlier_one(model, tokens):
    # The tokens are all different, so each row of the embedding table is one place of the batch.
    slope = jax.jit(jax.grad(lambda model: jnp.sum(model(tokens, execution=PLAIN)[0][0, 7] ** 2)))(model)
    moved = jnp.any(slope.embed[...] != 0, axis=1)[tokens]
    np.testing.assert_array_equal(moved[0], np.arange(12) <= 7)
    assert not jnp.any(moved[1])


def test_packed_documents_are_each_as_if_alone(model, tokens):
    lengths = (7, 5)
    positions = jnp.concatenate([jnp.arange(length) for length in lengths])[None]
    segments = jnp.repeat(jnp.array([1, 2]), jnp.array(lengths))[None]
    packed, _ = run(model, tokens[:1], Layout.packed(positions, segments))
    np.testing.assert_allclose(packed[:, :7], run(model, tokens[:1, :7])[0], atol=1e-5)
    np.testing.assert_allclose(packed[:, 7:], run(model, tokens[:1, 7:])[0], atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(model, tokens, side):
    mask = jnp.arange(12) >= 5 if side == "left" else jnp.arange(12) < 7
    alone, routing = run(model, tokens[:1, mask])
    for filler in (0, 39):
        padded, padded_routing = run(model, jnp.where(mask, tokens[:1], filler), Layout.left_padded(mask[None]))
        np.testing.assert_allclose(padded[:, mask], alone, atol=1e-5)
        np.testing.assert_allclose(padded_routing.probs, routing.probs, atol=1e-4)
        np.testing.assert_array_equal(padded_routing.counts, routing.counts)


def test_padding_has_exactly_zero_gradient(model, tokens):
    layout = Layout.left_padded(jnp.arange(12)[None] >= 5)
    slope = jax.jit(jax.grad(lambda model: jnp.sum(model(tokens[:1], layout, None, PLAIN)[0][0, 5:] ** 2)))(model)
    np.testing.assert_array_equal(jnp.any(slope.embed[...] != 0, axis=1)[tokens[0]], np.arange(12) >= 5)


@pytest.mark.parametrize("execution", [PLAIN, replace(PLAIN, remat=Inputs()), replace(PLAIN, dtype="bfloat16")])
def test_a_trace_goes_from_the_embeddings_to_the_output(model, tokens, execution):
    trace = jax.jit(lambda model: model.trace(tokens, execution=execution))(model)
    assert trace.stream.shape == (TOY.layers + 1, 2, 12, TOY.width)
    np.testing.assert_array_equal(trace.stream[0], model.embed[...][tokens].astype(execution.dtype))
    hidden, routing = run(model, tokens, execution=execution)
    close = {"atol": 1e-5 if execution.dtype == "float32" else 0.1}
    np.testing.assert_allclose(model.norm(trace.stream[-1].astype(jnp.float32)), trace.hidden, **close)
    np.testing.assert_allclose(trace.hidden, hidden, **close)
    np.testing.assert_allclose(trace.routing.probs, routing.probs, **close)


def test_a_trace_has_what_every_router_said_of_every_token(model, tokens):
    trace = jax.jit(lambda model: model.trace(tokens, execution=PLAIN))(model)
    assert trace.routers.shape == (4, 2, 12, TOY.experts) and trace.routers.dtype == jnp.float32
    np.testing.assert_allclose(jax.nn.softmax(trace.routers).sum((1, 2)), trace.routing.probs, rtol=1e-5)
    dense = replace(TOY, pattern=(Layer(rope=True, moe=False),))
    assert Llama4(dense, jax.random.key(0)).trace(tokens, execution=PLAIN).routers.shape == (0, 2, 12, TOY.experts)


def test_routing_counts_every_choice_of_every_moe_layer(model, tokens):
    _, routing = run(model, tokens)
    assert routing.counts.shape == routing.probs.shape == (4, TOY.experts)
    np.testing.assert_array_equal(jnp.sum(routing.counts, axis=1), 24 * TOY.top_k)
    np.testing.assert_array_equal(routing.tokens, 24)


def test_a_bias_reaches_the_moe_layer_of_its_period(model, tokens):
    bias = jnp.zeros((2, 2, 4)).at[1, 0, 3].set(100.0)
    _, routing = run(model, tokens, bias=bias)
    np.testing.assert_array_equal(routing.counts[:, 3] == 24, [False, False, True, False])


@pytest.mark.parametrize("execution", [Execution(), replace(PLAIN, unroll=2), replace(PLAIN, remat=Inputs())])
def test_how_a_model_is_run_does_not_change_what_it_says(model, tokens, execution):
    def loss(model, execution):
        return jnp.sum(model(tokens, execution=execution)[0] ** 3)

    step = jax.jit(jax.grad(loss), static_argnums=1)
    for got, wanted in zip(jax.tree.leaves(step(model, execution)), jax.tree.leaves(step(model, PLAIN)), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-3, rtol=1e-4)


def test_every_parameter_learns(model, tokens):
    def loss(model):
        hidden, _ = model(tokens, execution=PLAIN)
        return jnp.sum(jax.nn.logsumexp(model.logits(hidden), axis=-1))

    for path, slope in jax.tree_util.tree_flatten_with_path(jax.jit(jax.grad(loss))(model))[0]:
        assert jnp.any(slope != 0), jax.tree_util.keystr(path)


def test_bfloat16_is_close_and_gives_float32_logits(model, tokens):
    hidden, _ = run(model, tokens, execution=Execution(dtype="bfloat16", dispatch=Dense()))
    assert hidden.dtype == jnp.bfloat16
    assert model.logits(hidden).dtype == jnp.float32
    assert jnp.mean(jnp.abs(hidden - run(model, tokens)[0])) < 0.05


def test_gradients_of_a_bfloat16_run_arrive_in_float32(model, tokens):
    execution = Execution(dtype="bfloat16", dispatch=Dense())
    slope = jax.jit(jax.grad(lambda model: jnp.sum(model(tokens, execution=execution)[0].astype(jnp.float32))))(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(slope)} == {jnp.dtype("float32")}


def test_a_model_without_experts_routes_nothing(key, tokens):
    config = replace(TOY, pattern=(Layer(rope=True, moe=False),))
    hidden, routing = Llama4(config, key)(tokens)
    assert hidden.shape == (2, 12, 16)
    assert routing.counts.shape == (0, TOY.experts)


def test_compilation_does_not_grow_with_depth():
    def lines(layers):
        config = replace(SCOUT_PICO, layers=layers)
        model = jax.eval_shape(lambda: Llama4(config, jax.random.key(0)))
        step = jax.grad(lambda model, ids: jnp.sum(model(ids, execution=PLAIN)[0]))
        return len(jax.jit(step).lower(model, jax.ShapeDtypeStruct((1, 64), jnp.int32)).as_text().splitlines())

    assert lines(8) == lines(48)


@pytest.mark.parametrize("config", [BEHEMOTH_PICO, SCOUT_PICO, MAVERICK_PICO])
def test_a_new_pico_predicts_about_uniformly(key, config):
    config = replace(config, layers=len(config.pattern))
    model = jax.jit(lambda: Llama4(config, key))()
    hidden, _ = run(model, jax.random.randint(key, (2, 48), 0, config.vocab))
    loss = jnp.mean(jax.nn.logsumexp(model.logits(hidden), axis=-1))
    np.testing.assert_allclose(loss, np.log(config.vocab) + 0.5, atol=0.1)


def test_layers_of_a_stack_start_different(model):
    q = model.periods.blocks[0].attention.q[...]
    assert q.shape == (2, 16, 4, 4)
    assert jnp.all(q[0] != q[1])


def test_parameters_name_their_trailing_axes(model):
    assert model.embed.axes == ("v", "d")
    assert model.periods.blocks[0].attention.q.axes == ("d", "h", "c")
    assert model.periods.blocks[1].feed_forward.experts.down.axes == ("e", "f", "d")


def test_a_row_longer_than_max_positions_is_refused(model):
    with pytest.raises(ValueError, match="33 tokens does not fit max_positions = 32"):
        model(jnp.zeros((1, 33), jnp.int32))


def test_a_layout_of_another_shape_is_refused(model, tokens):
    with pytest.raises(ValueError, match=r"layout is of shape \(2, 11\), but the tokens of \(2, 12\)"):
        model(tokens, Layout.dense(2, 11))


def test_a_bias_of_another_shape_is_refused(model, tokens):
    with pytest.raises(ValueError, match=r"bias is of shape \(1, 2, 4\)"):
        model(tokens, bias=jnp.zeros((1, 2, 4)))


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match='"float16"; it must be "float32" or "bfloat16"'):
        Execution(dtype="float16")


def test_an_unroll_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1 period"):
        Execution(unroll=0)


def test_nope_every_layer_is_a_pattern_too(key, tokens):
    config = replace(TOY, pattern=interleave(nope=1, moe=1), top_k=1)
    assert Llama4(config, key)(tokens)[0].shape == (2, 12, 16)
