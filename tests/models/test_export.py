"""Checkpoints that we write: as transformers and vLLM want them, whole or not at all."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from models import cost, disk, huggingface
from models.config import MAVERICK, SCOUT, SCOUT_PICO, interleave, tiny
from models.huggingface import __main__ as command
from models.huggingface import files, weights_in, weights_out
from models.huggingface.config_out import compose_config, compose_generation
from models.huggingface.names import places
from models.huggingface.summary import summarize
from models.llama4 import Llama4
from models.tokenizer import Bytes
from models.tower import VISION, VISION_PICO

DATA = Path(__file__).parents[1] / "data" / "llama4"
TOY = tiny(SCOUT_PICO)
CASES = ["scout_tiny", "maverick_tiny", "mm_tiny"]
FULL = [SCOUT, MAVERICK, replace(SCOUT, vision=VISION)]


@cache
def _model(case, dtype=None):
    return huggingface.load(DATA / case, dtype)


def _tensors(folder):
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shard_bytes", [5e9, 1e5])
def test_what_goes_in_comes_out_bit_for_bit_and_by_name(case, shard_bytes, tmp_path):
    huggingface.save(tmp_path / "out", _model(case), shard_bytes=shard_bytes)
    wanted, got = load_file(DATA / case / "model.safetensors"), _tensors(tmp_path / "out")
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert got[name].dtype == tensor.dtype and got[name].shape == tensor.shape, name
        assert got[name].tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_in_out_in_is_exact_in_every_dtype(case, dtype, tmp_path):
    model = _model(case, dtype)
    huggingface.save(tmp_path / "out", model)
    again = huggingface.load(tmp_path / "out", None)
    assert again.config == model.config
    assert {leaf.dtype.name for leaf in jax.tree.leaves(again)} == {dtype}
    jax.tree.map(np.testing.assert_array_equal, again, model)


def test_large_tensors_go_in_and_out_in_pieces(monkeypatch, tmp_path):
    for module in (weights_in, weights_out):
        monkeypatch.setattr(module, "PIECE", 5000)  # of tensors up to 100 KB; none is a whole number of pieces
    model = huggingface.load(DATA / "mm_tiny", None)
    huggingface.save(tmp_path / "out", model)
    monkeypatch.undo()
    jax.tree.map(np.testing.assert_array_equal, model, _model("mm_tiny"))
    assert (tmp_path / "out" / "model.safetensors").stat().st_size > 1e6
    jax.tree.map(np.testing.assert_array_equal, huggingface.load(tmp_path / "out", None), model)


def test_one_dtype_becomes_another_on_the_way_out(tmp_path):
    huggingface.save(tmp_path / "out", _model("scout_tiny"), dtype="bfloat16")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    jax.tree.map(
        np.testing.assert_array_equal, huggingface.load(tmp_path / "out", None), _model("scout_tiny", "bfloat16")
    )


def test_weights_are_read_into_the_shardings_that_are_asked_for(tmp_path):
    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

    def cut(leaf):
        axis = next((i for i, size in enumerate(leaf.shape) if i and size % 4 == 0), None)
        return NamedSharding(mesh, PartitionSpec(*["x" if i == axis else None for i in range(leaf.ndim)]))

    for text_only in (False, True):
        model = huggingface.load(DATA / "mm_tiny", None, partial(jax.tree.map, cut), text_only)
        assert model.head[...].sharding.spec == PartitionSpec(None, "x")
        assert {leaf.sharding.mesh for leaf in jax.tree.leaves(model)} == {mesh}
        wanted = _model("mm_tiny") if not text_only else huggingface.load(DATA / "mm_tiny", None, text_only=True)
        jax.tree.map(np.testing.assert_array_equal, model, wanted)
    huggingface.save(tmp_path / "out", model)
    jax.tree.map(np.testing.assert_array_equal, huggingface.load(tmp_path / "out", None), model)


def test_text_alone_is_the_text_of_a_multimodal_checkpoint():
    whole, text = _model("mm_tiny"), huggingface.load(DATA / "mm_tiny", None, text_only=True)
    assert text.vision is None and text.config == replace(whole.config, vision=None)
    np.testing.assert_array_equal(text.periods.blocks[1].attention.q[...], whole.periods.blocks[1].attention.q[...])


@pytest.mark.parametrize("config", FULL, ids=["scout", "maverick", "multimodal"])
def test_the_tensors_of_the_published_models_hold_all_their_parameters(config):
    assert sum(int(np.prod(place.shape)) for place in places(config).values()) == cost.total(config)


# What the loaders of vLLM take (vllm/model_executor/models/llama4.py and mllama4.py): the names of the modules of
# `Llama4ForCausalLM`, q, k, v and gate, up apart (it stacks them itself), experts fused, towers under their own names.
VLLM = (
    r"(language_model\.)?model\.embed_tokens\.weight",
    r"(language_model\.)?model\.norm\.weight",
    r"(language_model\.)?lm_head\.weight",
    r"(language_model\.)?model\.layers\.\d+\.(input|post_attention)_layernorm\.weight",
    r"(language_model\.)?model\.layers\.\d+\.self_attn\.[qkvo]_proj\.weight",
    r"(language_model\.)?model\.layers\.\d+\.feed_forward\.(gate|up|down)_proj\.weight",
    r"(language_model\.)?model\.layers\.\d+\.feed_forward\.router\.weight",
    r"(language_model\.)?model\.layers\.\d+\.feed_forward\.experts\.(gate_up|down)_proj",
    r"(language_model\.)?model\.layers\.\d+\.feed_forward\.shared_expert\.(gate|up|down)_proj\.weight",
    r"vision_model\.patch_embedding\.linear\.weight",
    r"vision_model\.(class_embedding|positional_embedding_vlm)",
    r"vision_model\.layernorm_(pre|post)\.(weight|bias)",
    r"vision_model\.model\.layers\.\d+\.self_attn\.[qkvo]_proj\.(weight|bias)",
    r"vision_model\.model\.layers\.\d+\.mlp\.fc[12]\.(weight|bias)",
    r"vision_model\.model\.layers\.\d+\.(input|post_attention)_layernorm\.(weight|bias)",
    r"vision_model\.vision_adapter\.mlp\.fc[12]\.weight",
    r"multi_modal_projector\.linear_1\.weight",
)


@pytest.mark.parametrize("config", FULL, ids=["scout", "maverick", "multimodal"])
def test_names_are_those_that_vllm_loads(config):
    strange = [name for name in places(config) if not any(re.fullmatch(pattern, name) for pattern in VLLM)]
    assert not strange


def test_layers_with_experts_are_said_to_vllm_by_their_interval():
    def step(pattern, layers=4):
        config = replace(SCOUT_PICO, pattern=pattern, layers=layers)
        return compose_config(config, "float32", huggingface.Ids())["interleave_moe_layer_step"]

    assert [step(interleave(nope=4, moe=n), 12) for n in (1, 2, 3)] == [1, 2, 3]
    dense = replace(SCOUT_PICO.pattern[0], moe=False)
    assert step((dense,)) == 0


@pytest.mark.parametrize("config", FULL, ids=["scout", "maverick", "multimodal"])
def test_a_config_comes_back_as_it_went_out(config):
    irregular = replace(config, pattern=tuple(config.pattern[i % len(config.pattern)] for i in (0, 0, 3, 1)))
    for one in (config, irregular, replace(config, tempering=None, rope_scaling=None)):
        raw = json.loads(json.dumps(compose_config(one, "bfloat16", huggingface.Ids())))
        assert huggingface.parse_config(raw) == one


def test_a_tokenizer_goes_along_and_its_tokens_are_named(tmp_path):
    model = jax.jit(partial(Llama4, replace(TOY, vocab=272)))(jax.random.key(0))
    huggingface.save(tmp_path / "out", model, Bytes())
    assert (tmp_path / "out" / "tokenizer.json").exists()
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (256, [257, 260, 261])
    assert huggingface.Ids.read(tmp_path / "out") == replace(
        huggingface.Ids.of(Bytes()), image_start=None, image_end=None
    )


def test_ids_that_are_none_are_left_out(tmp_path):
    write = (tmp_path / "config.json").write_text
    write(json.dumps({"bos_token_id": "1", "eos_token_id": [1, "2"], "text_config": 5, "boi_token_index": 3}))
    assert huggingface.Ids.read(tmp_path) == huggingface.Ids(image_start=3)
    assert compose_generation(SCOUT, huggingface.Ids(), {})["eos_token_id"] is None


def test_tempering_is_said_to_vllm_where_it_looks_for_it():
    for config in (SCOUT, replace(SCOUT, tempering=None)):
        said = compose_generation(config, huggingface.Ids(), {})["attn_temperature_tuning"]
        assert said is (config.tempering is not None)


def test_what_is_there_is_not_overwritten(tmp_path):
    with pytest.raises(ValueError, match="is there already; name a folder that is not, or delete it"):
        huggingface.save(tmp_path, _model("scout_tiny"))


def test_nothing_is_left_where_writing_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(weights_out, "compose_config", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        huggingface.save(tmp_path / "out", _model("scout_tiny"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_has_its_name_only_when_it_is_whole(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(disk, "sync", lambda path: seen.append((tmp_path / "out").exists()))
    huggingface.save(tmp_path / "out", _model("scout_tiny"))
    assert seen[-1] and not any(seen[:-1]) and len(seen) > 3


def test_a_selection_bias_has_no_place(tmp_path):
    with pytest.raises(ValueError, match="selection bias that is not zero.*train on with bias_rate=0"):
        huggingface.save(tmp_path / "out", _model("scout_tiny"), bias=jnp.ones((2, 4, 4)))
    huggingface.save(tmp_path / "out", _model("scout_tiny"), bias=jnp.zeros((2, 4, 4)))


@pytest.mark.parametrize(
    ("change", "dtype", "message"),
    [
        (jnp.nan, None, "lm_head.weight would have weights that are NaN, infinite or too large for float32"),
        (1e6, "float16", "lm_head.weight would have weights .* too large for float16"),
        (1.0, "int8", "dtype is 'int8'; it must be one of"),
    ],
)
def test_weights_that_nobody_could_use_are_not_written(change, dtype, message, tmp_path):
    model = jax.tree.map(lambda leaf: leaf, _model("scout_tiny"))
    model.head.set_value(model.head[...].at[0, 0].set(change))
    with pytest.raises(ValueError, match=message):
        huggingface.save(tmp_path / "out", model, dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def test_quantised_parameters_are_not_written(tmp_path):
    model = jax.tree.map(lambda leaf: leaf.astype(jnp.int8), _model("scout_tiny"))
    with pytest.raises(ValueError, match="the parameter embed is int8; .*: quantised models are not written"):
        huggingface.save(tmp_path / "out", model)


def test_progress_counts_every_byte(tmp_path):
    seen = []
    model = huggingface.load(DATA / "scout_tiny", progress=lambda done, total: seen.append((done, total)))
    size = sum(tensor.bytes for tensor in files.open_tensors(DATA / "scout_tiny").values())
    assert seen[-1] == (size, size) and sorted(seen) == seen
    seen.clear()
    huggingface.save(tmp_path / "out", model, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (size, size)


def test_a_summary_says_what_a_checkpoint_is_without_reading_it(monkeypatch):
    monkeypatch.setattr(files.Tensor, "rows", lambda *_: pytest.fail("weights were read"))
    text = summarize(DATA / "mm_tiny")
    for part in ("text and images", "307,424 in all, 144,960 active", "4 tokens a tile (id 150)", "109 tensors in 1",
                 "float32", "generation_config.json", "chunks of 8", "NoPE+experts", "top 1"):  # fmt: skip
        assert part in text
    assert "vision        none" in summarize(DATA / "scout_tiny")


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the tokenizer has a vocabulary of 272, the model of 160; save it with"):
        huggingface.save(tmp_path / "out", _model("scout_tiny"), Bytes())
    seeing = replace(TOY, vocab=272, vision=replace(VISION_PICO, patch_token=7))
    model = jax.jit(partial(Llama4, seeing))(jax.random.key(0))
    with pytest.raises(ValueError, match="the tokenizer's patch is 268, the model's 7; save it with"):
        huggingface.save(tmp_path / "out", model, Bytes())
    assert list(tmp_path.iterdir()) == []


def test_a_parameter_stored_in_two_dtypes_becomes_one_that_holds_both(tmp_path):
    shutil.copytree(DATA / "scout_tiny", tmp_path / "mixed")
    tensors = load_file(tmp_path / "mixed" / "model.safetensors")
    for name, tensor in tensors.items():
        tensors[name] = tensor.astype(jnp.bfloat16 if ".layers.0." in name else np.float16)
    save_file(tensors, tmp_path / "mixed" / "model.safetensors")
    model = huggingface.load(tmp_path / "mixed", None)
    assert (model.embed[...].dtype, model.periods.blocks[0].attention.q[...].dtype) == (jnp.float16, jnp.float32)


def test_import_keeps_how_to_sample_and_says_where_to_temper(tmp_path):
    shutil.copytree(DATA / "mm_tiny", tmp_path / "from")
    said = {"temperature": 0.6, "attn_temperature_tuning": False}
    (tmp_path / "from" / "generation_config.json").write_text(json.dumps(said))
    (tmp_path / "from" / "preprocessor_config.json").write_text("{}")
    for name, text_only in (("text", True), ("whole", False)):
        command.import_(tmp_path / "from", tmp_path / name, text_only=text_only)
        found = json.loads((tmp_path / name / "generation_config.json").read_text())
        assert (found["temperature"], found["attn_temperature_tuning"], found["bos_token_id"]) == (0.6, True, 1)
        assert (tmp_path / name / "preprocessor_config.json").exists() != text_only


def test_import_converts_and_takes_the_tokenizer_along(tmp_path, capsys):
    shutil.copytree(DATA / "mm_tiny", tmp_path / "from")
    (tmp_path / "from" / "tokenizer.json").write_text("{}")
    command.import_(tmp_path / "from", tmp_path / "to", "bfloat16", text_only=True)
    assert "51 tensors in 1 file" in capsys.readouterr().out
    assert (tmp_path / "to" / "tokenizer.json").read_text() == "{}"
    got, wanted = (
        huggingface.load(tmp_path / "to", None),
        huggingface.load(DATA / "mm_tiny", "bfloat16", text_only=True),
    )
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    assert huggingface.Ids.read(tmp_path / "to").begin == 1


def test_the_command_says_what_is_wrong(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "models.huggingface", "inspect", str(tmp_path)],
        capture_output=True, text=True, cwd=DATA.parents[2],
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "has no config.json" in done.stderr
