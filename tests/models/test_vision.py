import json
import re
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from models import huggingface
from models.config import SCOUT_PICO, Vision, tiny
from models.execution import Execution
from models.huggingface.names import parameter_name, places
from models.layout import Layout
from models.llama4 import Llama4
from models.moe import Dense
from models.remat import Inputs
from models.tower import VISION, VISION_PICO
from models.vision import VisionEncoder, check_images, fuse

FOLDER = Path(__file__).parents[1] / "data" / "llama4" / "mm_tiny"
PLAIN = Execution(dispatch=Dense())


@cache
def _model():
    return huggingface.load(FOLDER)


@cache
def _expected():
    return dict(np.load(FOLDER / "expected.npz"))


def _tiles():
    """The first row has one image, the second two: what the first lacks is zeros."""
    tiles = _expected()["pixel_values"]
    return jnp.asarray(np.stack([np.stack([tiles[0], np.zeros_like(tiles[0])]), tiles[1:]]))


@jax.jit
def _run(model, tokens, layout, images):
    hidden, _ = model(tokens, layout, None, PLAIN, images)
    return model.logits(hidden)


def test_the_vision_tower_is_that_of_transformers():
    expected = _expected()
    hidden, inputs = jax.jit(lambda model, tiles: model.vision.encode(tiles))(_model(), expected["pixel_values"])
    np.testing.assert_allclose(inputs, expected["vision.hidden_states"][:-1], atol=1e-4, rtol=0)
    adapted = jax.jit(lambda model, hidden: model.vision.adapt(hidden, Execution()))(_model(), hidden)
    np.testing.assert_allclose(adapted, expected["vision.adapter_out"], atol=1e-4, rtol=0)
    projected = jax.jit(lambda model, tiles: model.vision(tiles))(_model(), expected["pixel_values"])
    np.testing.assert_allclose(projected, expected["vision.projected"], atol=1e-4, rtol=0)


def test_hidden_states_and_logits_of_images_in_text_are_those_of_transformers():
    expected = _expected()
    tokens = jnp.asarray(expected["full.input_ids"])
    trace = jax.jit(lambda model: model.trace(tokens, None, None, PLAIN, _tiles()))(_model())
    states = [*trace.stream[:-1], trace.hidden]
    np.testing.assert_allclose(states, expected["full.hidden_states"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(_model().logits(trace.hidden), expected["full.logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", ["leftpad", "rightpad"])
def test_padded_rows_with_images_are_those_of_transformers(side):
    expected = _expected()
    mask = expected[f"{side}.attention_mask"].astype(bool)
    layout = Layout.left_padded(jnp.asarray(mask), huggingface=True)
    got = _run(_model(), jnp.asarray(expected[f"{side}.input_ids"]), layout, _tiles())
    np.testing.assert_allclose(np.asarray(got)[mask], expected[f"{side}.logits"][mask], atol=1e-4, rtol=0)


@cache
def _gradient():
    """Loss and gradient, the gradient by the names and in the shapes of transformers."""
    tokens = jnp.asarray(_expected()["full.input_ids"])

    def loss(model):
        logits = model.logits(model(tokens, None, None, PLAIN, _tiles())[0])[:, :-1]
        gold = jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - gold)

    value, slope = jax.jit(jax.value_and_grad(loss))(_model())
    leaves = {parameter_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(slope)[0]}
    named = {}
    for tensor, place in places(_model().config).items():
        block = leaves[place.parameter][tuple(map(slice, place.start, np.add(place.start, place.block)))]
        part = block[0] if block.ndim > place.axes else block
        named[tensor] = rearrange(np.asarray(part), place.back, **place.sizes)
    return value, named


def test_the_loss_and_its_gradients_are_those_of_transformers():
    value, slopes = _gradient()
    expected, layer = _expected(), "language_model.model.layers.0."
    np.testing.assert_allclose(value, expected["full.loss"], atol=1e-5, rtol=0)
    for name, wanted in (
        (layer + "feed_forward.router.weight", expected["full.grad.router"]),
        (layer + "feed_forward.experts.down_proj", expected["full.grad.down_proj"]),
        (layer + "self_attn.q_proj.weight", expected["full.grad.q_proj0"]),
    ):
        np.testing.assert_allclose(slopes[name], wanted, atol=1e-4 * np.abs(wanted).max(), rtol=1e-4, err_msg=name)


def test_the_gradient_of_every_parameter_has_the_norm_of_transformers():
    _, slopes = _gradient()
    wanted = json.loads((FOLDER / "meta.json").read_text())["grad_norms"]
    assert slopes.keys() == wanted.keys()
    for name, norm in wanted.items():
        np.testing.assert_allclose(np.linalg.norm(slopes[name]), norm, rtol=1e-3, atol=1e-6, err_msg=name)


# Beyond the fixture: a model of our own that sees.
SEEING = replace(tiny(SCOUT_PICO), vision=VISION_PICO.tiny())
PATCH = VISION_PICO.patch_token


@pytest.fixture(scope="module")
def model():
    return jax.jit(partial(Llama4, SEEING))(jax.random.key(0))


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(1), (1, 3, 3, 16, 16), minval=-1)


def row(*counts):
    """One row: as many patch tokens as each count says, a byte before each run of them."""
    return jnp.asarray([[token for count in counts for token in (65, *[PATCH] * count)] + [66] * 3])


def test_frames_of_a_video_are_images_read_in_order(model, images):
    video = row(4, 4, 4)
    seen = jax.jit(lambda images: model.read(video, Layout.dense(*video.shape), PLAIN, model.look(images, PLAIN)))
    features = jax.jit(lambda tiles: model.vision(tiles))(images[0])
    np.testing.assert_allclose(seen(images)[0, np.asarray(video[0]) == PATCH], rearrange(features, "i k d -> (i k) d"))
    turned = seen(images[:, ::-1])
    np.testing.assert_allclose(turned[0, 1:5], features[2])
    np.testing.assert_array_equal(turned[0, 0], model.embed[...][65])


def test_what_a_row_has_fewer_of_than_its_neighbours_does_not_matter(model, images):
    tokens = row(4, 4)
    layout = Layout.dense(*tokens.shape)
    padded = images.at[:, 2].set(0)
    np.testing.assert_array_equal(_run(model, tokens, layout, images), _run(model, tokens, layout, padded))


def test_patch_tokens_in_padding_take_no_feature(model, images):
    tokens = jnp.asarray([[PATCH] * 3 + [65] + [PATCH] * 12 + [66] * 5])
    got = _run(model, tokens, Layout.left_padded(jnp.arange(21)[None] >= 3), images)
    alone = _run(model, tokens[:, 3:], Layout.dense(1, 18), images)
    np.testing.assert_allclose(got[:, 3:], alone, atol=1e-5)


def test_a_row_of_text_alone_is_what_it_is_without_images(model, images):
    tokens = row(0)
    layout = Layout.dense(*tokens.shape)
    np.testing.assert_allclose(_run(model, tokens, layout, images), _run(model, tokens, layout, None), atol=1e-6)


def test_the_gradient_reaches_text_and_tower_but_not_the_embedding_of_the_patch(model, images):
    tokens = row(4, 4, 4)

    def loss(model):
        hidden, _ = model(tokens, execution=PLAIN, images=images)
        return jnp.sum(jax.nn.logsumexp(model.logits(hidden), axis=-1))

    slope = jax.jit(jax.grad(loss))(model)
    assert not jnp.any(slope.embed[...][PATCH])
    for path, leaf in jax.tree_util.tree_flatten_with_path(slope)[0]:
        # A bias of all keys moves all scores of a query alike, unless it is turned: here it is.
        assert jnp.any(leaf != 0), jax.tree_util.keystr(path)


@cache
def _slope(execution):
    tiles = jax.random.uniform(jax.random.key(1), (3, 3, 16, 16), minval=-1)
    tower = jax.jit(partial(VisionEncoder, SEEING.vision, SEEING.width))(jax.random.key(0))
    return jax.jit(jax.grad(lambda tower: jnp.mean(tower(tiles, execution).astype(jnp.float32) ** 3)))(tower)


@pytest.mark.parametrize(
    ("execution", "tolerance"), [(Execution(remat=Inputs()), 1e-5), (Execution(dtype="bfloat16"), 0.05)]
)
def test_how_a_tower_is_run_hardly_changes_its_gradient(execution, tolerance):
    for got, wanted in zip(*map(jax.tree.leaves, (_slope(execution), _slope(Execution()))), strict=True):
        assert got.dtype == jnp.float32
        assert jnp.linalg.norm(got - wanted) <= tolerance * (jnp.linalg.norm(wanted) + 1e-3)


def test_a_spot_beyond_the_features_reads_the_last_of_them():
    x = fuse(jnp.zeros((1, 4, 1)), jnp.asarray([[[1.0], [2.0]]]), jnp.asarray([[True, False, True, True]]))
    np.testing.assert_array_equal(x[0, :, 0], [1, 0, 2, 2])


def test_tiles_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match=r"tiles are of shape \(3, 8, 16\); this model reads \(3, 16, 16\)"):
        model.vision(jnp.zeros((1, 3, 8, 16)))


def test_a_model_without_a_tower_refuses_images(images):
    blind = jax.eval_shape(lambda: Llama4(replace(SEEING, vision=None), jax.random.key(0)))
    with pytest.raises(ValueError, match="no vision tower; leave the images out"):
        jax.eval_shape(lambda model: model(row(4), images=images), blind)


def test_rows_whose_patch_tokens_are_not_those_of_their_tiles_are_refused(images):
    vision, tiles = SEEING.vision, np.array(images)
    check_images(vision, np.asarray(row(4, 4, 4)), tiles)
    with pytest.raises(ValueError, match="Row 0 has 8 patch tokens for 3 image tiles.* there must be 12"):
        check_images(vision, np.asarray(row(4, 4)), tiles)
    tiles[:, 2] = 0
    check_images(vision, np.asarray(row(4, 4)), tiles)
    with pytest.raises(ValueError, match="Row 0 has 12 patch tokens for 2 image tiles"):
        check_images(vision, np.asarray(row(4, 4, 4)), tiles)


def test_patch_tokens_without_any_image_are_refused():
    check_images(SEEING.vision, np.asarray(row(0)), None)
    with pytest.raises(ValueError, match="Row 0 has 4 patch tokens for 0 image tiles"):
        check_images(SEEING.vision, np.asarray(row(4)), None)


def test_every_field_of_a_tower_is_read():
    sources = [path.read_text() for path in Path("models").glob("*.py") if path.name != "cost.py"]
    for field in fields(Vision):
        assert any(re.search(rf"(vision|self|config)\.{field.name}\b", source) for source in sources), field.name


def test_a_tile_of_the_published_tower_is_144_tokens():
    assert (VISION.side, VISION.head_dim, VISION.tokens) == (24, 88, 144)


def test_a_tower_may_shuffle_by_three_or_not_at_all(key):
    for ratio, image, tokens in ((1 / 3, 12, 1), (1.0, 8, 4)):
        vision = Vision(
            width=8, layers=1, heads=2, hidden=8 * round(1 / ratio) ** 2, image=image, patch=4, channels=1,
            ratio=ratio, output=5, rope_theta=100.0, patch_token=1,
        )  # fmt: skip
        model = jax.eval_shape(lambda v=vision: Llama4(replace(SEEING, vision=v), key))
        shape = jax.eval_shape(lambda model, i=image: model.vision(jnp.zeros((1, 1, i, i))), model)
        assert shape.shape == (1, tokens, SEEING.width)
        assert vision.tokens == tokens


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers is 0; every size must be at least 1"),
        ({"heads": 15}, "width = 1408 in 15 heads must give each a multiple of 4"),
        ({"width": 1376}, "width = 1376 in 16 heads must give each a multiple of 4"),
        ({"ratio": 0.4}, "ratio = 0.4 must be 1, 1/2, 1/3"),
        ({"ratio": 2.0}, "ratio = 2.0 must be 1, 1/2, 1/3"),
        ({"image": 350}, "image = 350 must be a multiple of 28 pixels: patches of 14, merged 2 by 2"),
        ({"hidden": 4096}, r"hidden = 4096 must be width / ratio\^2 = 5632"),
        ({"rope_theta": 1.0}, "rope_theta > 1"),
        ({"patch_token": -1}, "patch_token >= 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(VISION, **change)


def test_a_patch_token_outside_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="patch_token = 200092 is outside the vocabulary of 272"):
        replace(SCOUT_PICO, vision=VISION)
