"""Quantised models on disk: bit for bit, four bits in four bits, and nothing damaged is read."""

import json
import shutil
from dataclasses import asdict, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.mesh import Mesh, shardings
from models.llama4 import Llama4
from models.quantize import Recipe, quantize, weigh_tree
from models.quantized_files import INDEX, load, pack, save, unpack
from tests.models.test_quantize import TOY

RECIPE = Recipe(bits=4, group=8, head=8)
Q = "periods.blocks.0.attention.q.values"


@pytest.fixture(scope="module")
def model():
    make = jax.jit(lambda key: quantize(Llama4(TOY, key), RECIPE))
    return make(jax.random.key(0))


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized") / "model"
    save(folder, model, RECIPE)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a).view(np.uint8), np.asarray(b).view(np.uint8))


def edit(folder, change):
    about = json.loads((folder / INDEX).read_text())
    change(about)
    (folder / INDEX).write_text(json.dumps(about))


def test_what_is_read_is_what_was_saved_bit_for_bit(model, saved):
    assert_equal(load(saved), model)


def test_floats_keep_their_dtype(model, tmp_path):
    other = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if leaf.dtype == jnp.float32 else leaf, model)
    save(tmp_path / "model", other, RECIPE)
    assert_equal(load(tmp_path / "model"), other)


def test_a_pattern_longer_than_it_need_be_is_kept(tmp_path):
    longer = replace(TOY, pattern=TOY.pattern * 2)
    model = jax.jit(lambda key: quantize(Llama4(longer, key), Recipe()))(jax.random.key(0))
    save(tmp_path / "model", model, Recipe())
    assert_equal(load(tmp_path / "model"), model)


@pytest.mark.parametrize("size", [1, 6, 7])
def test_two_int4_take_a_byte(size):
    values = np.random.default_rng(0).integers(-8, 8, (size, 1)).astype(jnp.int4)
    packed = pack(values)
    assert packed.dtype == np.uint8 and packed.size == (size + 1) // 2
    np.testing.assert_array_equal(unpack(packed, (size, 1)), values)


def test_the_folder_is_no_larger_than_the_model(model, saved):
    on_disk = sum(path.stat().st_size for path in saved.glob("*.safetensors"))
    headers = 120 * len(list(saved.glob("*.safetensors")))
    assert weigh_tree(model) <= on_disk <= weigh_tree(model) + headers


def test_a_model_is_read_into_its_place_on_a_mesh(model, saved):
    found = load(saved, partial(shardings, Mesh(fsdp=2).build()))
    assert_equal(found, model)
    assert found.periods.blocks[0].attention.q[...].values.addressable_shards[0].data.shape == (2, 16, 4, 8)


def test_a_folder_that_is_there_is_not_written_over(model, saved):
    with pytest.raises(ValueError, match="is there already; name a folder that is not, or delete it"):
        save(saved, model, RECIPE)


def test_the_recipe_must_be_the_one_that_made_the_model(model, tmp_path):
    with pytest.raises(ValueError, match=r"save a model with the recipe that quantised it"):
        save(tmp_path / "model", model, replace(RECIPE, head=None))
    with pytest.raises(ValueError, match=r"save a model with the recipe that quantised it"):
        save(tmp_path / "model", model, replace(RECIPE, bits=8))
    assert not list(tmp_path.iterdir())


def flip(folder):
    path = folder / "00003.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def cut(folder):
    path = folder / "00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def swap(folder):
    def change(about):
        arrays = about["arrays"]
        arrays["embed"]["files"], arrays["norm.scale"]["files"] = (
            arrays["norm.scale"]["files"],
            arrays["embed"]["files"],
        )

    edit(folder, change)


def outside(folder):
    (folder.parent / "other.safetensors").write_bytes((folder / "00000.safetensors").read_bytes())
    edit(folder, lambda about: about["arrays"]["embed"]["files"][0].update(name="../other.safetensors"))


BAD = {
    "a bit": (flip, r"00003.safetensors is damaged: its sha256 is not the one in quantized.json; copy it again"),
    "cut short": (cut, "00003.safetensors is damaged: its sha256"),
    "no file": (lambda folder: (folder / "00003.safetensors").unlink(), "has no file '00003.safetensors', where"),
    "swapped": (swap, r"does not hold float32\[.*\], as the config and the recipe say; copy it again"),
    "outside": (outside, "has no file '../other.safetensors', where embed is; copy the folder again"),
    "no index": (lambda folder: (folder / INDEX).unlink(), "lacks quantized.json"),
    "no JSON": (lambda folder: (folder / INDEX).write_text("{"), "does not hold proper JSON"),
    "format": (
        lambda folder: edit(folder, lambda about: about.update(format="other")),
        "is of format 'other'; this version reads 'herd quantized 1'",
    ),
    "no recipe": (
        lambda folder: edit(folder, lambda about: about.pop("recipe")),
        r"quantized.json is damaged \(KeyError\('recipe'\)\); copy the folder again",
    ),
    "another recipe": (
        lambda folder: edit(folder, lambda about: about["recipe"].update(asdict(replace(RECIPE, head=None)))),
        "1 missing .'head'., 2 unknown .'head.scales', 'head.values'.",
    ),
    "another width": (
        lambda folder: edit(folder, lambda about: about["recipe"].update(bits=8)),
        "values in 'int4'; by its recipe it must be int8",
    ),
    "fewer files": (
        lambda folder: edit(folder, lambda about: about["arrays"][Q]["files"].pop()),
        "has periods.blocks.0.attention.q.values in 1 files; it must be 2",
    ),
    "another config": (
        lambda folder: edit(folder, lambda about: about["config"].update(vocab_size=41)),
        r"does not hold float32\[41, 32\], as the config and the recipe say",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_damaged_is_refused(copy, spoil, message):
    spoil(copy)
    with pytest.raises(ValueError, match=message):
        load(copy)
