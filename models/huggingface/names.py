"""The table of names: which tensor of a checkpoint is which part of which of our parameters, in what layout.

The names are those of transformers' `Llama4ForCausalLM` and, with a vision tower, `Llama4ForConditionalGeneration`,
which are also those that vLLM's loaders of the two take (vllm/model_executor/models/llama4.py and mllama4.py).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from models.config import Config
from models.tower import Vision


@dataclass(frozen=True)
class Entry:
    """How one of our parameters is made of tensors there: by an einops pattern.

    Torch keeps linear weights as [out, in], experts as [in, out]. Several tensors lie side by side along the axis `1`.
    """

    pattern: str
    tensors: tuple[str, ...]


def _one(pattern: str, tensor: str) -> Entry:
    return Entry(pattern, (tensor,))


TOP = {
    "embed": _one("v d -> v d", "model.embed_tokens.weight"),
    "norm.scale": _one("d -> d", "model.norm.weight"),
    "head": _one("v d -> d v", "lm_head.weight"),
}
LAYER = {
    "attention_norm.scale": _one("d -> d", "input_layernorm.weight"),
    "attention.q": _one("(h c) d -> d h c", "self_attn.q_proj.weight"),
    "attention.k": _one("(k c) d -> d k c", "self_attn.k_proj.weight"),
    "attention.v": _one("(k c) d -> d k c", "self_attn.v_proj.weight"),
    "attention.o": _one("d (h c) -> h c d", "self_attn.o_proj.weight"),
    "feed_forward_norm.scale": _one("d -> d", "post_attention_layernorm.weight"),
}
DENSE = {
    "feed_forward.gate_up": Entry("f d -> d 1 f", ("feed_forward.gate_proj.weight", "feed_forward.up_proj.weight")),
    "feed_forward.down": _one("d f -> f d", "feed_forward.down_proj.weight"),
}
SHARED = "feed_forward.shared_expert."
MOE = {
    "feed_forward.router": _one("e d -> d e", "feed_forward.router.weight"),
    "feed_forward.experts.gate_up": _one("e d (z f) -> e d z f", "feed_forward.experts.gate_up_proj"),
    "feed_forward.experts.down": _one("e f d -> e f d", "feed_forward.experts.down_proj"),
    "feed_forward.shared.gate_up": Entry("f d -> d 1 f", (SHARED + "gate_proj.weight", SHARED + "up_proj.weight")),
    "feed_forward.shared.down": _one("d f -> f d", SHARED + "down_proj.weight"),
}
TOWER = {
    "vision.patch": _one("w i -> i w", "vision_model.patch_embedding.linear.weight"),
    "vision.class_token": _one("w -> w", "vision_model.class_embedding"),
    "vision.position": _one("n w -> n w", "vision_model.positional_embedding_vlm"),
    "vision.norm_before.scale": _one("w -> w", "vision_model.layernorm_pre.weight"),
    "vision.norm_before.bias": _one("w -> w", "vision_model.layernorm_pre.bias"),
    "vision.norm_after.scale": _one("w -> w", "vision_model.layernorm_post.weight"),
    "vision.norm_after.bias": _one("w -> w", "vision_model.layernorm_post.bias"),
    "vision.adapter_up": _one("a s -> s a", "vision_model.vision_adapter.mlp.fc1.weight"),
    "vision.adapter_down": _one("o a -> a o", "vision_model.vision_adapter.mlp.fc2.weight"),
    "vision.projector": _one("d a -> a d", "multi_modal_projector.linear_1.weight"),
}
TOWER_LAYER = {
    "attention_norm.scale": _one("w -> w", "input_layernorm.weight"),
    "attention_norm.bias": _one("w -> w", "input_layernorm.bias"),
    **{f"attention.{x}": _one("(h c) w -> w h c", f"self_attn.{x}_proj.weight") for x in "qkv"},
    **{f"attention.{x}_bias": _one("(h c) -> h c", f"self_attn.{x}_proj.bias") for x in "qkv"},
    "attention.o": _one("w (h c) -> h c w", "self_attn.o_proj.weight"),
    "attention.o_bias": _one("w -> w", "self_attn.o_proj.bias"),
    "feed_forward_norm.scale": _one("w -> w", "post_attention_layernorm.weight"),
    "feed_forward_norm.bias": _one("w -> w", "post_attention_layernorm.bias"),
    "up": _one("f w -> w f", "mlp.fc1.weight"),
    "up_bias": _one("f -> f", "mlp.fc1.bias"),
    "down": _one("w f -> f w", "mlp.fc2.weight"),
    "down_bias": _one("w -> w", "mlp.fc2.bias"),
}
LANGUAGE = "language_model."
"""what multimodal checkpoints put before the names of the text decoder"""

# One axis of an einops pattern: a letter, or several in parentheses.
_AXIS = re.compile(r"\([^)]*\)|\S+")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a tensor of a checkpoint lies in one of our parameters.

    tensor: its name there. shape: its shape there. parameter: dotted name of ours. start: where in our parameter its
    block begins. block: the shape of that block. pattern, sizes: the einops pattern from there to the block without
    its leading layer axis, and the sizes of the letters in it.
    """

    tensor: str
    shape: tuple[int, ...]
    parameter: str
    start: tuple[int, ...]
    block: tuple[int, ...]
    pattern: str
    sizes: Mapping[str, int]

    @property
    def lead(self) -> str:
        """The letter that the tensor's leading axis begins with: whole steps of it lie side by side in the file."""
        return self.pattern.strip("(").split(maxsplit=1)[0]

    @property
    def axes(self) -> int:
        """Of the block, without a leading layer axis."""
        return len(self.pattern.split(" -> ")[1].split())

    @property
    def axis(self) -> int:
        """Where the leading letter is in the block."""
        return len(self.block) - self.axes + self.pattern.split(" -> ")[1].split().index(self.lead)

    @property
    def back(self) -> str:
        """The pattern from the block to the tensor."""
        source, target = self.pattern.split(" -> ")
        return f"{target} -> {source}"


def places(config: Config) -> dict[str, Place]:
    """Every tensor of a checkpoint of this configuration by its name, in the order of the layers."""
    prefix = LANGUAGE if config.vision is not None else ""
    text = _text_sizes(config)
    found = []
    for parameter, entry in TOP.items():
        found += _place(parameter, entry, prefix, None, text)
    for layer in range(config.layers):
        period, slot = divmod(layer, len(config.pattern))
        moe = config.pattern[slot].moe
        sizes = text | {"f": config.expert_width if moe else config.dense_width}
        for parameter, entry in (LAYER | (MOE if moe else DENSE)).items():
            where = f"{prefix}model.layers.{layer}."
            found += _place(f"periods.blocks.{slot}.{parameter}", entry, where, period, sizes)
    if config.vision is not None:
        sizes = _tower_sizes(config.vision) | {"d": config.width}
        for parameter, entry in TOWER.items():
            found += _place(parameter, entry, "", None, sizes)
        for layer in range(config.vision.layers):
            for parameter, entry in TOWER_LAYER.items():
                where = f"vision_model.model.layers.{layer}."
                found += _place(f"vision.blocks.{parameter}", entry, where, layer, sizes)
    return {place.tensor: place for place in found}


def parameter_name(path: Any) -> str:
    """Dotted name of one of our parameters; nnx keeps the array of a parameter under `value`."""
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")


def _text_sizes(config: Config) -> dict[str, int]:
    return {
        "v": config.vocab,
        "d": config.width,
        "h": config.heads,
        "k": config.kv_heads,
        "c": config.head_dim,
        "e": config.experts,
        "z": 2,
    }


def _tower_sizes(vision: Vision) -> dict[str, int]:
    return {
        "i": vision.channels * vision.patch**2,
        "n": vision.side**2 + 1,
        "w": vision.width,
        "h": vision.heads,
        "c": vision.head_dim,
        "f": vision.hidden,
        "s": vision.hidden,
        "a": vision.output,
        "o": vision.output,
    }


def _place(parameter: str, entry: Entry, prefix: str, layer: int | None, sizes: Mapping[str, int]) -> list[Place]:
    """The places of the tensors of one parameter; `layer` is their index in its leading axis, if it stacks layers."""
    source, target = entry.pattern.split(" -> ")
    axes = [axis.strip("()").split() for axis in _AXIS.findall(source)]
    used = {letter: sizes[letter] for axis in axes for letter in axis}
    shape = tuple(math.prod(used[letter] for letter in axis) for axis in axes)
    block = tuple(used.get(letter, 1) for letter in target.split())
    lead = () if layer is None else (layer,)
    return [
        Place(
            tensor=prefix + tensor,
            shape=shape,
            parameter=parameter,
            start=(*lead, *(part if letter == "1" else 0 for letter in target.split())),
            block=(*(1 for _ in lead), *block),
            pattern=entry.pattern,
            sizes=used,
        )
        for part, tensor in enumerate(entry.tensors)
    ]
