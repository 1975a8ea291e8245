import numpy as np
import pytest

from models.tokenizer import SPECIALS, Bytes

BYTES = Bytes()


def test_a_token_is_a_byte():
    assert BYTES.encode("Aé").tolist() == [65, 0xC3, 0xA9]


def test_the_vocabulary_is_256_bytes_and_16_specials():
    assert BYTES.vocab == 272
    assert sorted(BYTES.special(name) for name in SPECIALS) == list(range(256, 272))


def test_every_text_comes_back():
    text = "naïve 🦙\n\0 <|eot|>"
    assert BYTES.decode(BYTES.encode(text)) == text


def test_bytes_that_are_not_utf8_are_tokens_too():
    assert BYTES.encode(b"\xff\x00").tolist() == [255, 0]


def test_a_lone_surrogate_becomes_a_question_mark():
    assert BYTES.encode("\ud800").tolist() == [ord("?")]


@pytest.mark.parametrize("name", SPECIALS)
def test_text_cannot_inject_a_special_token(name):
    assert BYTES.encode(f"<|{name}|>").max() < 256


def test_a_document_stands_between_begin_and_end():
    assert BYTES.document("a").tolist() == [BYTES.begin, 97, BYTES.end] == [256, 97, 257]


def test_an_empty_document_is_begin_and_end():
    assert BYTES.document("").tolist() == [256, 257]


def test_ids_are_int32():
    assert BYTES.encode("a").dtype == BYTES.document("a").dtype == np.int32


def test_specials_can_be_read():
    assert BYTES.decode(BYTES.document("a")) == "<|begin_of_text|>a<|end_of_text|>"


def test_a_cut_character_can_be_read():
    assert BYTES.decode([0xC3]) == "\ufffd"


@pytest.mark.parametrize("wrong", [-1, 272])
def test_an_id_outside_the_vocabulary_is_named(wrong):
    with pytest.raises(ValueError, match=rf"token id {wrong} is outside the vocabulary: ids are 0 to 271"):
        BYTES.decode([1, wrong])


def test_an_unknown_special_is_named():
    with pytest.raises(ValueError, match="no special token is called 'bos'; there are begin_of_text, "):
        BYTES.special("bos")


def test_the_fingerprint_names_the_meaning_of_the_ids():
    assert BYTES.fingerprint == Bytes().fingerprint == "5a17e4c60af0"
