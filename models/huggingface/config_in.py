"""config.json in: a Config of what transformers wrote, version 5 or older, distrusted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.config import Config, Layer, RopeScaling, Tempering, shortest
from models.huggingface.files import read_json, show
from models.tower import Vision

MOST = 2**24
"""the largest of any size; of the published ones, the vocabulary is the largest, at 202048"""
MOST_LAYERS = 4096
MOST_POSITIONS = 2**31 - 1
"""positions are of 32 bits"""


def read_config(folder: str | Path, text_only: bool = False) -> Config:
    """The configuration in a checkpoint folder; `text_only` leaves out its vision tower.

    Raises:
        ValueError: there is none, or it is one that this model cannot follow.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        meta = " (params.json is of Meta's own layout)" if (folder / "params.json").exists() else ""
        raise ValueError(f"{folder} has no config.json{meta}; it must be a folder written by save_pretrained")
    return parse_config(read_json(folder / "config.json"), text_only)


def parse_config(raw: Mapping[str, Any], text_only: bool = False) -> Config:
    """Config of a `Llama4TextConfig` or `Llama4Config` of transformers as a dict; `text_only` leaves out the vision.

    What old files leave out has the default of transformers: an interval of 4, a tempering of 8192 and 0.1. What it
    says about code to run (auto_map) is never looked at.

    Raises:
        ValueError: it says something that this model does not do, or lacks a size, or has one that cannot be.
    """
    kind = raw.get("model_type")
    if kind not in ("llama4", "llama4_text"):
        raise ValueError(f"config.json has model_type {show(kind)}; it must be llama4 or llama4_text, of a Llama 4")
    if raw.get("quantization_config") is not None:
        raise ValueError("config.json has a quantization_config; quantised checkpoints are not read: take the original")
    if kind == "llama4_text":
        return _text(raw, None)
    _expect(raw, {"tie_word_embeddings": False})
    text = _object(raw, "text_config")
    if text.get("model_type", "llama4_text") != "llama4_text":
        raise ValueError(f"config.json has a text_config of {show(text.get('model_type'))}; it must be llama4_text")
    return _text(text, None if text_only else _vision(_object(raw, "vision_config"), raw))


def _text(raw: Mapping[str, Any], vision: Vision | None) -> Config:
    _expect(raw, {"tie_word_embeddings": False, "attention_bias": False, "hidden_act": "silu"})
    if raw.get("attention_chunk_size") is None:
        raise ValueError("config.json has no attention_chunk_size; set it, to the longest row for no chunks at all")
    rope = _rope(raw)
    head_dim = raw.get("head_dim") or _size(raw, "hidden_size") // _size(raw, "num_attention_heads")
    return Config(
        vocab=_size(raw, "vocab_size"),
        width=_size(raw, "hidden_size"),
        layers=_size(raw, "num_hidden_layers", MOST_LAYERS),
        heads=_size(raw, "num_attention_heads"),
        kv_heads=_size(raw, "num_key_value_heads"),
        head_dim=_size({"head_dim": head_dim}, "head_dim"),
        expert_width=_size(raw, "intermediate_size"),
        dense_width=_size(raw, "intermediate_size_mlp"),
        experts=_size(raw, "num_local_experts"),
        top_k=_size(raw, "num_experts_per_tok"),
        pattern=_pattern(raw),
        chunk=_size(raw, "attention_chunk_size", MOST_POSITIONS),
        rope_theta=_number(rope, "rope_theta"),
        rope_scaling=_scaling(rope),
        qk_norm=_switch(raw, "use_qk_norm", True),
        tempering=_tempering(raw),
        eps=_number(raw, "rms_norm_eps"),
        max_positions=_size(raw, "max_position_embeddings", MOST_POSITIONS),
        vision=vision,
    )


def _vision(raw: Mapping[str, Any], whole: Mapping[str, Any]) -> Vision:
    output = _size(raw, "vision_output_dim")
    _expect(
        raw,
        {
            "hidden_act": "gelu",
            "multi_modal_projector_bias": False,
            "vision_feature_select_strategy": "default",
            # transformers names it three times, and its layers only fit when all are the same.
            "projector_input_dim": output,
            "projector_output_dim": output,
        },
    )
    rope = raw.get("rope_parameters") or {"rope_theta": raw.get("rope_theta", 10000.0)}
    if not isinstance(rope, dict):
        raise ValueError(f"config.json has rope_parameters = {show(rope)}; it must be an object")
    return Vision(
        width=_size(raw, "hidden_size"),
        layers=_size(raw, "num_hidden_layers", MOST_LAYERS),
        heads=_size(raw, "num_attention_heads"),
        hidden=_size(raw, "intermediate_size"),
        image=_size(raw, "image_size"),
        patch=_size(raw, "patch_size"),
        channels=_size(raw, "num_channels"),
        ratio=_number(raw, "pixel_shuffle_ratio"),
        output=output,
        rope_theta=_number(rope, "rope_theta"),
        patch_token=_size(whole, "image_token_index", least=0),
    )


def _pattern(raw: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The shortest pattern of the per-layer lists, or of the intervals where a list is not given."""
    layers = range(_size(raw, "num_hidden_layers", MOST_LAYERS))
    # Despite its name, 1 means rotary; an empty list means the interval.
    ropes = _numbers(raw, "no_rope_layers", 2)
    if not ropes:
        interval = _size(raw, "no_rope_layer_interval") if raw.get("no_rope_layer_interval") else 4
        ropes = [int((i + 1) % interval != 0) for i in layers]
    experts = _numbers(raw, "moe_layers", len(layers))
    if experts is None:
        step = _size(raw, "interleave_moe_layer_step")
        experts = list(range(step - 1, len(layers), step))
    if len(ropes) != len(layers):
        raise ValueError(f"config.json lists {len(ropes)} no_rope_layers for {len(layers)} layers; one for each is due")
    # transformers masks by layer_types and turns by no_rope_layers; a Llama 4 says the same in both.
    kinds = ["chunked_attention" if rope else "full_attention" for rope in ropes]
    if raw.get("layer_types") not in (None, kinds):
        raise ValueError(
            f"config.json has layer_types = {show(raw['layer_types'])} that are not those of its no_rope_layers; a "
            f"layer with rotary positions must be chunked_attention, one without full_attention"
        )
    chosen = set(experts)
    return shortest(tuple(Layer(rope=bool(ropes[i]), moe=i in chosen) for i in layers))


def _rope(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary positions: rope_parameters, or in older versions rope_theta beside rope_scaling."""
    if raw.get("rope_parameters"):
        return _object(raw, "rope_parameters")
    scaling = _object(raw, "rope_scaling") if raw.get("rope_scaling") else {}
    return scaling | ({"rope_theta": raw["rope_theta"]} if "rope_theta" in raw else {})


def _scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise ValueError(f"config.json has rope_type {show(kind)}; Llama 4 has llama3 or default")
    return RopeScaling(
        factor=_number(rope, "factor"),
        low=_number(rope, "low_freq_factor"),
        high=_number(rope, "high_freq_factor"),
        original=_size(rope, "original_max_position_embeddings", MOST_POSITIONS),
    )


def _tempering(raw: Mapping[str, Any]) -> Tempering | None:
    # A bool, or in the published files the integer 4, which means true.
    on = raw.get("attn_temperature_tuning", True)
    if not isinstance(on, int):
        raise ValueError(f"config.json has attn_temperature_tuning = {show(on)}; it must be true or false")
    if not on:
        return None
    whole = {"floor_scale": 8192, "attn_scale": 0.1, **raw}
    floor = _number(whole, "floor_scale")
    floor = int(floor) if floor.is_integer() else floor
    return Tempering(
        floor=_size({"floor_scale": floor}, "floor_scale", MOST_POSITIONS), scale=_number(whole, "attn_scale")
    )


def _expect(raw: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses what this model has only one way of."""
    for name, value in wanted.items():
        if raw.get(name, value) != value:
            raise ValueError(f"config.json has {name} = {show(raw[name])}; this model only has {name} = {value!r}")


def _size(raw: Mapping[str, Any], name: str, most: int = MOST, least: int = 1) -> int:
    value = _present(raw, name)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"config.json has {name} = {show(value)}; it must be a whole number from {least} to {most}")
    return value


def _number(raw: Mapping[str, Any], name: str) -> float:
    value = _present(raw, name)
    if type(value) not in (int, float) or not abs(value) < 1e18:
        raise ValueError(f"config.json has {name} = {show(value)}; it must be a number")
    return float(value)


def _switch(raw: Mapping[str, Any], name: str, default: bool) -> bool:
    value = raw.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"config.json has {name} = {show(value)}; it must be true or false")
    return value


def _numbers(raw: Mapping[str, Any], name: str, below: int) -> list[int] | None:
    """A list of whole numbers from 0 to below, or None where there is none."""
    value = raw.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(one) is int and 0 <= one < below for one in value):
        raise ValueError(f"config.json has {name} = {show(value)}; it must list whole numbers below {below}")
    return value


def _object(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = _present(raw, name)
    if not isinstance(value, dict):
        raise ValueError(f"config.json has {name} = {show(value)}; it must be an object")
    return value


def _present(raw: Mapping[str, Any], name: str) -> Any:
    if name not in raw:
        raise ValueError(f"config.json lacks {name}; it must be the config of a Llama 4, as save_pretrained writes it")
    return raw[name]
