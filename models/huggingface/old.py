"""Llama 4 checkpoints of transformers, text only: `Llama4ForCausalLM` folders in. A table of names and a loop."""

import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from models.config import Config, Layer, RopeScaling, Tempering, shortest
from models.llama4 import Llama4


@dataclass(frozen=True)
class Entry:
    """How one of our parameters is made of tensors there: by an einops pattern, of their stack z if there are several.

    Torch keeps linear weights as [out, in], experts as [in, out].
    """

    pattern: str
    tensors: tuple[str, ...]


TOP = {
    "embed": Entry("v d -> v d", ("model.embed_tokens.weight",)),
    "norm.scale": Entry("d -> d", ("model.norm.weight",)),
    "head": Entry("v d -> d v", ("lm_head.weight",)),
}
TOP_LEVEL = [""]
FORWARD = "feed_forward."
SHARED = "feed_forward.shared_expert."
LAYER = {
    "attention_norm.scale": Entry("d -> d", ("input_layernorm.weight",)),
    "attention.q": Entry("(h c) d -> d h c", ("self_attn.q_proj.weight",)),
    "attention.k": Entry("(k c) d -> d k c", ("self_attn.k_proj.weight",)),
    "attention.v": Entry("(k c) d -> d k c", ("self_attn.v_proj.weight",)),
    "attention.o": Entry("d (h c) -> h c d", ("self_attn.o_proj.weight",)),
    "feed_forward_norm.scale": Entry("d -> d", ("post_attention_layernorm.weight",)),
    "feed_forward.gate_up": Entry("z f d -> d z f", (FORWARD + "gate_proj.weight", FORWARD + "up_proj.weight")),
    "feed_forward.down": Entry("d f -> f d", (FORWARD + "down_proj.weight",)),
    "feed_forward.router": Entry("e d -> d e", (FORWARD + "router.weight",)),
    "feed_forward.experts.gate_up": Entry("e d (z f) -> e d z f", (FORWARD + "experts.gate_up_proj",)),
    "feed_forward.experts.down": Entry("e f d -> e f d", (FORWARD + "experts.down_proj",)),
    "feed_forward.shared.gate_up": Entry("z f d -> d z f", (SHARED + "gate_proj.weight", SHARED + "up_proj.weight")),
    "feed_forward.shared.down": Entry("d f -> f d", (SHARED + "down_proj.weight",)),
}

# One axis of an einops pattern: a letter, or several in parentheses.
AXIS = re.compile(r"\([^)]*\)|\S+")


def load(folder: str | Path, dtype: str = "float32") -> Llama4:
    """Reads a checkpoint folder: config.json, and model.safetensors or its shards with their index.

    Args:
        folder: as `Llama4ForCausalLM.save_pretrained` writes it.
        dtype: of the parameters; "bfloat16" halves the memory of a teacher that is only run.

    Raises:
        ValueError: the configuration is one this decoder cannot follow, tensors are missing or unknown, or one has
            another shape than the configuration says.
    """
    folder = Path(folder)
    config = read_config(folder)
    empty = jax.eval_shape(lambda: Llama4(config, jax.random.key(0)))
    names = [_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(empty)[0]]
    with ExitStack() as stack:
        readers = _open(folder, stack)
        _match(folder, set(readers), {source for name in names for source in _sources(name, config)})

        def fill(path: Any, leaf: Any) -> jax.Array:
            entry, prefixes = _origin(_name(path), config)
            if prefixes == TOP_LEVEL:
                return jnp.asarray(_assemble(entry, "", leaf.shape, readers), dtype)
            return jnp.asarray(np.stack([_assemble(entry, each, leaf.shape[1:], readers) for each in prefixes]), dtype)

        return jax.tree_util.tree_map_with_path(fill, empty)


def read_config(folder: str | Path) -> Config:
    """The configuration in a checkpoint folder."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json; it must be a folder written by save_pretrained")
    return parse_config(json.loads(path.read_text()))


def parse_config(raw: Mapping[str, Any]) -> Config:
    """Config of a transformers `Llama4TextConfig` as a dict, of version 5 or older.

    What old files leave out has the default of transformers: an interval of 4, a tempering of 8192 and 0.1.

    Raises:
        ValueError: it says something that this decoder does not do, or lacks a size.
    """
    _refuse_strangers(raw)
    try:
        return Config(
            vocab=raw["vocab_size"],
            width=raw["hidden_size"],
            layers=raw["num_hidden_layers"],
            heads=raw["num_attention_heads"],
            kv_heads=raw["num_key_value_heads"],
            head_dim=raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"],
            expert_width=raw["intermediate_size"],
            dense_width=raw["intermediate_size_mlp"],
            experts=raw["num_local_experts"],
            top_k=raw["num_experts_per_tok"],
            pattern=_pattern(raw),
            chunk=raw["attention_chunk_size"],
            rope_theta=float((raw.get("rope_parameters") or raw)["rope_theta"]),
            rope_scaling=_scaling(raw.get("rope_parameters") or raw.get("rope_scaling") or {}),
            qk_norm=raw["use_qk_norm"],
            # A bool, or in the published files the integer 4, which means true.
            tempering=_tempering(raw) if raw.get("attn_temperature_tuning", True) else None,
            eps=raw["rms_norm_eps"],
            max_positions=raw["max_position_embeddings"],
        )
    except KeyError as missing:
        raise ValueError(f"config.json lacks {missing}; it must be the config of a Llama4ForCausalLM") from missing


def _refuse_strangers(raw: Mapping[str, Any]) -> None:
    if raw.get("model_type") != "llama4_text":
        raise ValueError(
            f'config.json has model_type "{raw.get("model_type")}"; only the text decoder "llama4_text" can be read. '
            f"Save the language model of a multimodal checkpoint by itself, as a Llama4ForCausalLM"
        )
    wanted = {"tie_word_embeddings": False, "attention_bias": False, "hidden_act": "silu"}
    for name, value in wanted.items():
        if raw.get(name, value) != value:
            raise ValueError(f"config.json has {name} = {raw[name]!r}; this decoder only has {name} = {value!r}")
    if raw.get("attention_chunk_size") is None:
        raise ValueError("config.json has no attention_chunk_size; set it, to the longest row for no chunks at all")


def _pattern(raw: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The shortest pattern of the per-layer lists, or of the intervals where a list is not given."""
    layers = range(raw["num_hidden_layers"])
    interval = raw.get("no_rope_layer_interval") or 4
    # Despite its name, 1 means rotary; an empty list means the interval.
    ropes = raw.get("no_rope_layers") or [int((i + 1) % interval != 0) for i in layers]
    experts = raw.get("moe_layers")
    if experts is None:
        step = raw["interleave_moe_layer_step"]
        experts = range(step - 1, len(layers), step)
    if len(ropes) != len(layers):
        raise ValueError(f"config.json lists {len(ropes)} no_rope_layers for {len(layers)} layers; one for each is due")
    return shortest(tuple(Layer(rope=bool(ropes[i]), moe=i in experts) for i in layers))


def _scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise ValueError(f'config.json has rope_type "{kind}"; Llama 4 has "llama3" or "default"')
    return RopeScaling(
        factor=rope["factor"],
        low=rope["low_freq_factor"],
        high=rope["high_freq_factor"],
        original=rope["original_max_position_embeddings"],
    )


def _tempering(raw: Mapping[str, Any]) -> Tempering:
    return Tempering(floor=int(raw.get("floor_scale", 8192)), scale=raw.get("attn_scale", 0.1))


def _name(path: Any) -> str:
    """Dotted name of one of our parameters; nnx keeps the array of a parameter under `value`."""
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")


def _origin(name: str, config: Config) -> tuple[Entry, list[str]]:
    """Where a parameter comes from: its entry, and the prefix of every layer that its leading axis stacks."""
    inside = re.fullmatch(r"periods\.blocks\.(\d+)\.(.+)", name)
    if inside is None:
        return TOP[name], TOP_LEVEL
    layers = range(int(inside[1]), config.layers, len(config.pattern))
    return LAYER[inside[2]], [f"model.layers.{layer}." for layer in layers]


def _sources(name: str, config: Config) -> list[str]:
    entry, prefixes = _origin(name, config)
    return [prefix + tensor for prefix in prefixes for tensor in entry.tensors]


def _open(folder: Path, stack: ExitStack) -> dict[str, Callable[[], np.ndarray]]:
    """A reader for every tensor of the folder; nothing is read yet."""
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    shards = json.loads(index.read_text())["weight_map"].values() if index.exists() else ["model.safetensors"]
    readers = {}
    for name in sorted(set(shards)):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} lacks {name}; download the whole checkpoint")
        file = stack.enter_context(safe_open(folder / name, framework="numpy"))
        readers |= {tensor: partial(file.get_tensor, tensor) for tensor in file.keys()}  # noqa: SIM118 (no mapping)
    return readers


def _match(folder: Path, found: set[str], wanted: set[str]) -> None:
    missing, unknown = sorted(wanted - found), sorted(found - wanted)
    if missing or unknown:
        raise ValueError(
            f"The tensors of {folder} are not those of its config.json: "
            f"{len(missing)} missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}"
        )


def _assemble(
    entry: Entry, prefix: str, shape: tuple[int, ...], readers: Mapping[str, Callable[[], np.ndarray]]
) -> np.ndarray:
    """One parameter of one layer, of this shape."""
    source, target = entry.pattern.split(" -> ")
    sizes = dict(zip(target.split(), shape, strict=True))
    wanted = tuple(math.prod(sizes[letter] for letter in axis.strip("()").split()) for axis in AXIS.findall(source))
    several = len(entry.tensors) > 1
    wanted = wanted[1:] if several else wanted
    tensors = []
    for name in entry.tensors:
        tensor = readers[prefix + name]()
        if tensor.shape != wanted:
            raise ValueError(f"{prefix + name} is of shape {tensor.shape}; by config.json it must be {wanted}")
        tensors.append(tensor)
    return rearrange(np.stack(tensors) if several else tensors[0], entry.pattern, **sizes)
