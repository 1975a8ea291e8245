"""config.json out: what transformers 5 and vLLM read, of a Config of ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.config import Config
from models.huggingface.files import read_json
from models.tokenizer import Tokenizer
from models.tower import Vision

VERSION = "5.12.1"
"""of transformers: the oldest that what we write was read with"""


@dataclass(frozen=True, kw_only=True)
class Ids:
    """The special tokens that a checkpoint names; None where nobody said."""

    begin: int | None = None
    end: int | list[int] | None = None
    pad: int | None = None
    image_start: int | None = None
    image_end: int | None = None

    @staticmethod
    def of(tokenizer: Tokenizer) -> "Ids":
        """Those of a tokenizer: a text ends with end_of_text, a turn of a chat with eom or eot."""
        return Ids(
            begin=tokenizer.begin,
            end=[tokenizer.end, tokenizer.special("eom"), tokenizer.special("eot")],
            pad=tokenizer.pad,
            image_start=tokenizer.special("image_start"),
            image_end=tokenizer.special("image_end"),
        )

    @staticmethod
    def read(folder: Path) -> "Ids":
        """Those in the config.json of another checkpoint; what is no id is left out."""
        raw = read_json(folder / "config.json")
        text = raw["text_config"] if isinstance(raw.get("text_config"), dict) else raw

        def one(of: dict[str, Any], name: str) -> int | None:
            return of[name] if type(of.get(name)) is int else None

        ends = text.get("eos_token_id")
        several = isinstance(ends, list) and all(type(end) is int for end in ends)
        return Ids(
            begin=one(text, "bos_token_id"),
            end=ends if several else one(text, "eos_token_id"),
            pad=one(text, "pad_token_id"),
            image_start=one(raw, "boi_token_index"),
            image_end=one(raw, "eoi_token_index"),
        )


def compose_config(config: Config, dtype: str, ids: Ids) -> dict[str, Any]:
    """config.json: of a `Llama4ForCausalLM`, or of a `Llama4ForConditionalGeneration` where there is vision.

    Layers are listed one by one, which says everything; vLLM goes by interleave_moe_layer_step, which has no word for
    an irregular pattern of experts.
    """
    outer = {"dtype": dtype, "tie_word_embeddings": False, "transformers_version": VERSION}
    text = _text(config, ids)
    if config.vision is None:
        return {"architectures": ["Llama4ForCausalLM"], **text, **outer}
    marks = {"boi_token_index": ids.image_start, "eoi_token_index": ids.image_end}
    return {
        "architectures": ["Llama4ForConditionalGeneration"],
        "model_type": "llama4",
        "text_config": text | {"dtype": dtype},
        "vision_config": _vision(config.vision) | {"dtype": dtype},
        "image_token_index": config.vision.patch_token,
        **{name: mark for name, mark in marks.items() if mark is not None},
        **outer,
    }


def compose_generation(config: Config, ids: Ids, said: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json: where a text begins and ends, unless another checkpoint's `said` otherwise.

    Greedy unless it says how to sample.
    """
    own = {"bos_token_id": ids.begin, "eos_token_id": ids.end, "pad_token_id": ids.pad}
    # vLLM takes this from here alone, whatever config.json says; below 32K tokens it is otherwise off.
    fixed = {"attn_temperature_tuning": config.tempering is not None, "transformers_version": VERSION}
    return own | dict(said) | fixed


def _text(config: Config, ids: Ids) -> dict[str, Any]:
    layers = config.pattern * config.periods
    moe = [i for i, layer in enumerate(layers) if layer.moe]
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low,
            "high_freq_factor": scaling.high,
            "original_max_position_embeddings": scaling.original,
        }
    tempering = config.tempering
    return {
        "model_type": "llama4_text",
        "attention_bias": False,
        "attention_chunk_size": config.chunk,
        "attention_dropout": 0.0,
        "attn_temperature_tuning": tempering is not None,
        "attn_scale": 0.1 if tempering is None else tempering.scale,
        "floor_scale": 8192 if tempering is None else tempering.floor,
        "bos_token_id": ids.begin,
        "eos_token_id": ids.end,
        "pad_token_id": ids.pad,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.width,
        "interleave_moe_layer_step": _step(moe, len(layers)),
        "intermediate_size": config.expert_width,
        "intermediate_size_mlp": config.dense_width,
        "layer_types": ["chunked_attention" if layer.rope else "full_attention" for layer in layers],
        "max_position_embeddings": config.max_positions,
        "moe_layers": moe,
        "no_rope_layers": [int(layer.rope) for layer in layers],
        "num_attention_heads": config.heads,
        "num_experts_per_tok": config.top_k,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "num_local_experts": config.experts,
        "rms_norm_eps": config.eps,
        "rope_parameters": rope,
        "tie_word_embeddings": False,
        "use_cache": True,
        "use_qk_norm": config.qk_norm,
        "vocab_size": config.vocab,
    }


def _step(moe: list[int], layers: int) -> int:
    """The interval that gives these MoE layers; 0 where none does, which vLLM takes as no experts at all."""
    steps = (step for step in range(1, layers + 1) if list(range(step - 1, layers, step)) == moe)
    return next(steps, 0)


def _vision(vision: Vision) -> dict[str, Any]:
    return {
        "model_type": "llama4_vision_model",
        "attention_dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_size": vision.width,
        "image_size": vision.image,
        "intermediate_size": vision.hidden,
        "multi_modal_projector_bias": False,
        "norm_eps": 1e-5,
        "num_attention_heads": vision.heads,
        "num_channels": vision.channels,
        "num_hidden_layers": vision.layers,
        "patch_size": vision.patch,
        "pixel_shuffle_ratio": vision.ratio,
        "projector_dropout": 0.0,
        "projector_input_dim": vision.output,
        "projector_output_dim": vision.output,
        "rope_parameters": {"rope_type": "default", "rope_theta": vision.rope_theta},
        "vision_feature_select_strategy": "default",
        "vision_output_dim": vision.output,
    }
