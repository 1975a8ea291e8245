import json

import pytest

from models import served
from models.tokenizer import Bytes
from models.tower import VISION, VISION_PICO


@pytest.fixture
def folder(tmp_path):
    Bytes().save(tmp_path)
    served.write_processor(tmp_path, VISION_PICO)
    return tmp_path


def read(path):
    return json.loads(path.read_text())


def test_a_served_tokenizer_is_four_files(tmp_path):
    Bytes().save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "chat_template.jinja", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip


def test_every_special_token_is_named_with_its_id(folder):
    added = read(folder / "tokenizer.json")["added_tokens"]
    assert {one["content"]: one["id"] for one in added}["<|eot|>"] == Bytes().special("eot")
    assert all(one["special"] and not one["normalized"] for one in added) and len(added) == 16


def test_begin_end_and_pad_have_their_roles(folder):
    wanted = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<|finetune_right_pad|>"}
    assert read(folder / "special_tokens_map.json") == wanted
    assert read(folder / "tokenizer_config.json").items() >= wanted.items()


def test_every_pair_of_tokens_that_is_a_token_is_a_merge(tmp_path):
    tokens = (*(bytes([byte]) for byte in range(256)), b"bc", b"ab", b"abc")
    served.write(tmp_path, tokens, ("begin_of_text",))
    assert read(tmp_path / "tokenizer.json")["model"]["merges"] == [["b", "c"], ["a", "b"], ["a", "bc"], ["ab", "c"]]


def test_the_image_processor_has_the_tiles_of_the_model(folder, tmp_path):
    assert read(folder / "preprocessor_config.json")["size"] == {"height": 16, "width": 16}
    served.write_processor(tmp_path, VISION)
    both = read(tmp_path / "processor_config.json")
    assert (both["patch_size"], both["pixel_shuffle_ratio"], both["processor_class"]) == (14, 0.5, "Llama4Processor")
