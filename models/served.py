"""The files from which transformers and vLLM make a tokenizer and an image processor, beside the weights of a model."""

from pathlib import Path
from typing import Any

from models.disk import write_json
from models.images import TILES
from models.ranks import characters
from models.tokenizer import SPLIT
from models.tower import Vision

TEMPLATE = r"""{{- bos_token }}
{%- for message in messages %}
    {%- set role = 'ipython' if message.role == 'tool' else message.role %}
    {{- '<|header_start|>' + role + '<|header_end|>\n\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {{- '<|image|>' if part.type == 'image' else part.text }}
        {%- endfor %}
    {%- endif %}
    {{- '<|eom|>' if role == 'ipython' else '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|header_start|>assistant<|header_end|>\n\n' }}
{%- endif %}
"""
"""models.prompt.encode as a Jinja template. Text that reads like a special token becomes one there: transformers has no
other way to write them; models.prompt has."""


def write(folder: str | Path, tokens: tuple[bytes, ...], specials: tuple[str, ...]) -> None:
    """tokenizer.json, tokenizer_config.json, special_tokens_map.json and chat_template.jinja, into an existing folder.

    transformers gives the ids of our own encode, after one begin_of_text.
    """
    roles = {"bos_token": "begin_of_text", "eos_token": "end_of_text", "pad_token": "finetune_right_pad"}
    named = {role: f"<|{name}|>" for role, name in roles.items()}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **named,
    }
    write_json(Path(folder) / "tokenizer.json", _describe(tokens, specials))
    write_json(Path(folder) / "tokenizer_config.json", config)
    write_json(Path(folder) / "special_tokens_map.json", named)
    (Path(folder) / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")


def write_processor(folder: str | Path, vision: Vision) -> None:
    """preprocessor_config.json and processor_config.json of a model that sees, into an existing folder."""
    images = {
        "image_processor_type": "Llama4ImageProcessorFast",
        "processor_class": "Llama4Processor",
        "size": {"height": vision.image, "width": vision.image},
        "max_patches": TILES,
        "resize_to_max_canvas": False,
        "resample": 2,  # bilinear, in Pillow's numbers
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "rescale_factor": 1 / 255,
        **dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"), True),
    }
    both = {"processor_class": "Llama4Processor", "patch_size": vision.patch, "pixel_shuffle_ratio": vision.ratio}
    write_json(Path(folder) / "preprocessor_config.json", images)
    write_json(Path(folder) / "processor_config.json", both)


def _describe(tokens: tuple[bytes, ...], specials: tuple[str, ...]) -> dict[str, Any]:
    """tokenizer.json."""
    char = characters()
    texts = ["".join(char[byte] for byte in token) for token in tokens]
    added = [{"id": len(tokens) + i, "content": f"<|{name}|>", "special": True} for i, name in enumerate(specials)]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    begin = {"id": f"<|{specials[0]}|>", "ids": [len(tokens)], "tokens": [f"<|{specials[0]}|>"]}
    opening = [{"SpecialToken": {"id": begin["id"], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    second = [{"SpecialToken": {"id": begin["id"], "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [one | plain for one in added],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False},
                level,
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": opening,
            "pair": opening + second,
            "special_tokens": {begin["id"]: begin},
        },
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # as tiktoken: a piece that is a token is that token
            "vocab": {text: rank for rank, text in enumerate(texts)},
            "merges": _merges(tokens, texts),
        },
    }


def _merges(tokens: tuple[bytes, ...], texts: list[str]) -> list[list[str]]:
    """Every pair of tokens that is a token, in the order of what they make: tiktoken joins any such pair."""
    rank = {token: i for i, token in enumerate(tokens)}
    found = []
    for token in tokens:
        pairs = ((rank.get(token[:cut]), rank.get(token[cut:])) for cut in range(1, len(token)))
        found += sorted((left, right) for left, right in pairs if left is not None and right is not None)
    return [[texts[left], texts[right]] for left, right in found]
