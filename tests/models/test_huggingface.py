import json
import shutil
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from safetensors.numpy import load_file, save_file

from models import huggingface
from models.config import Layer, RopeScaling, Tempering
from models.huggingface.names import parameter_name, places
from models.layout import Layout

DATA = Path(__file__).parents[1] / "data" / "llama4"
CASES = ["scout_tiny", "maverick_tiny"]


@cache
def _model(case):
    return huggingface.load(DATA / case)


@cache
def _expected(case):
    return dict(np.load(DATA / case / "expected.npz"))


@cache
def _raw(case="scout_tiny"):
    return json.loads((DATA / case / "config.json").read_text())


@jax.jit
def _logits(model, tokens, layout):
    return model.logits(model(tokens, layout)[0])


@cache
def _gradient(case):
    """Loss and gradient of the fixture, the gradient by the names and in the shapes of transformers."""
    tokens = jnp.asarray(_expected(case)["full.input_ids"])

    def loss(model):
        logits = model.logits(model(tokens)[0])[:, :-1]
        gold = jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - gold)

    value, slope = jax.jit(jax.value_and_grad(loss))(_model(case))
    leaves = {parameter_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(slope)[0]}
    named = {}
    for name, place in places(_model(case).config).items():
        block = jax.lax.dynamic_slice(leaves[place.parameter], place.start, place.block)
        named[name] = rearrange(np.asarray(block)[(0,) * (block.ndim - place.axes)], place.back, **place.sizes)
    return value, named


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_of_every_layer_are_those_of_transformers(case):
    expected = _expected(case)
    trace = jax.jit(lambda model, tokens: model.trace(tokens))(_model(case), jnp.asarray(expected["full.input_ids"]))
    states = [*trace.stream[:-1], trace.hidden]
    np.testing.assert_allclose(states, expected["full.hidden_states"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(_model(case).logits(trace.hidden), expected["full.logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_routers_choose_the_experts_of_transformers(case):
    expected = _expected(case)
    _, routing = jax.jit(lambda model, tokens: model(tokens))(_model(case), jnp.asarray(expected["full.input_ids"]))
    experts = _model(case).config.experts
    wanted = [np.bincount(layer.ravel(), minlength=experts) for layer in expected["full.router_topk"]]
    np.testing.assert_array_equal(routing.counts, wanted)


@pytest.mark.parametrize("case", CASES)
def test_the_loss_and_its_gradients_are_those_of_transformers(case):
    value, slopes = _gradient(case)
    expected, moe = _expected(case), f"model.layers.{_raw(case)['moe_layers'][0]}.feed_forward."
    np.testing.assert_allclose(value, expected["full.loss"], atol=1e-5, rtol=0)
    for name, wanted in (
        (moe + "router.weight", expected["full.grad.router"]),
        (moe + "experts.down_proj", expected["full.grad.down_proj"]),
        ("model.layers.0.self_attn.q_proj.weight", expected["full.grad.q_proj0"]),
    ):
        np.testing.assert_allclose(slopes[name], wanted, atol=1e-4 * np.abs(wanted).max(), rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_of_every_parameter_has_the_norm_of_transformers(case):
    _, slopes = _gradient(case)
    wanted = json.loads((DATA / case / "meta.json").read_text())["grad_norms"]
    assert slopes.keys() == wanted.keys()
    for name, norm in wanted.items():
        np.testing.assert_allclose(np.linalg.norm(slopes[name]), norm, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("side", ["leftpad", "rightpad"])
def test_padded_rows_are_those_of_transformers(case, side):
    expected = _expected(case)
    mask = expected[f"{side}.attention_mask"].astype(bool)
    layout = Layout.left_padded(jnp.asarray(mask), huggingface=True)
    got = _logits(_model(case), jnp.asarray(expected[f"{side}.input_ids"]), layout)
    np.testing.assert_allclose(np.asarray(got)[mask], expected[f"{side}.logits"][mask], atol=1e-4, rtol=0)


def test_our_own_left_padding_tempers_by_true_positions():
    # transformers tempers by the column, so there a padded row differs from the row itself; here it does not.
    expected = _expected("scout_tiny")
    tokens, mask = jnp.asarray(expected["leftpad.input_ids"]), expected["leftpad.attention_mask"].astype(bool)
    padded = np.asarray(_logits(_model("scout_tiny"), tokens, Layout.left_padded(jnp.asarray(mask))))
    assert np.abs(padded - expected["leftpad.logits"])[mask].max() > 1
    row = tokens[1:, mask[1]]
    alone = _logits(_model("scout_tiny"), row, Layout.dense(*row.shape))
    np.testing.assert_allclose(padded[1, mask[1]], alone[0], atol=1e-4)


def test_the_config_of_scout_tiny():
    config = huggingface.read_config(DATA / "scout_tiny")
    rope, nope = Layer(rope=True, moe=True), Layer(rope=False, moe=True)
    assert config.pattern == (rope, rope, rope, nope)
    assert config.rope_scaling == RopeScaling(factor=16.0, low=1.0, high=1.0, original=32)
    assert config.tempering == Tempering(floor=4, scale=0.1)
    assert (config.width, config.chunk, config.qk_norm, config.rope_theta) == (64, 8, True, 500000.0)


def test_layer_lists_and_intervals_say_the_same():
    by_interval = _raw() | {"no_rope_layers": [], "moe_layers": None}
    assert huggingface.parse_config(by_interval) == huggingface.parse_config(_raw())


def test_irregular_layer_lists_become_one_long_pattern():
    changes = {"no_rope_layers": [1, 1, 0, 1, 1, 1, 1, 1], "moe_layers": [7], "layer_types": None}
    config = huggingface.parse_config(_raw() | changes)
    assert len(config.pattern) == 8
    assert [i for i, layer in enumerate(config.pattern) if not layer.rope] == [2]
    assert [i for i, layer in enumerate(config.pattern) if layer.moe] == [7]


def test_rope_fields_of_older_versions_are_read():
    old = {name: value for name, value in _raw().items() if name != "rope_parameters"}
    scaling = {name: value for name, value in _raw()["rope_parameters"].items() if name != "rope_theta"}
    old |= {"rope_theta": 500000.0, "rope_scaling": scaling, "attn_temperature_tuning": 4}
    assert huggingface.parse_config(old) == huggingface.parse_config(_raw())
    assert huggingface.parse_config(old | {"rope_scaling": None}).rope_scaling is None


def test_tempering_can_be_off():
    assert huggingface.parse_config(_raw() | {"attn_temperature_tuning": False}).tempering is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tie_word_embeddings": True}, "tie_word_embeddings = True; this model only has .* False"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"model_type": "llama"}, "model_type 'llama'; it must be llama4 or llama4_text"),
        ({"attention_chunk_size": None}, "no attention_chunk_size"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type 'yarn'"),
        ({"no_rope_layers": [1, 0]}, "lists 2 no_rope_layers for 8 layers"),
        ({"num_key_value_heads": 3}, "heads = 4 cannot share kv_heads = 3"),
    ],
)
def test_a_config_this_decoder_cannot_follow_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        huggingface.parse_config(_raw() | change)


def test_a_config_without_a_size_is_refused():
    with pytest.raises(ValueError, match="lacks hidden_size"):
        huggingface.parse_config({name: value for name, value in _raw().items() if name != "hidden_size"})


@pytest.fixture
def folder(tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(DATA / "scout_tiny" / name, tmp_path)
    return tmp_path


def _rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_gate_and_up_of_different_shapes_are_named(folder):
    name = "model.layers.2.feed_forward.shared_expert.gate_proj.weight"
    _rewrite(folder, lambda tensors: tensors.update({name: np.ones((7, 64), np.float32)}))
    with pytest.raises(ValueError, match=rf"{name} is of shape \(7, 64\); by config.json it must be \(48, 64\)"):
        huggingface.load(folder)


def test_shards_are_read_through_their_index(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"one.safetensors": names[:50], "two.safetensors": names[50:]}
    for shard, members in shards.items():
        save_file({name: tensors[name] for name in members}, folder / shard)
    index = {"weight_map": {name: shard for shard, members in shards.items() for name in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    got, wanted = huggingface.load(folder), _model("scout_tiny")
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_weights_can_be_kept_in_bfloat16():
    model = huggingface.load(DATA / "scout_tiny", dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype("bfloat16")}
