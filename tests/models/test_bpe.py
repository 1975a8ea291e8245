import base64
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import ranks
from models.bpe import BPE, open_tokenizer, train
from models.tokenizer import SPECIALS, Bytes, Tokenizer

TEXT = " The quick brown fox jumps over the lazy dog, doesn't it? 12345 naïve 🦙\n\n" * 3 + "ÄÖÜ über 'tis\r\n" * 3
SINGLES = tuple(bytes([byte]) for byte in range(256))
# Bytes, then tokens in the order in which they join.
TOKENS = (*SINGLES, b"in", b"th", b"the", b" the", b"aa", b"<|", b"|>", b"eot", b"ot", b"aab", b"ab", b"xyz")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train([TEXT], 300, tmp_path_factory.mktemp("bpe") / "tokenizer.model")


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    path = tmp_path_factory.mktemp("known") / "tokenizer.model"
    ranks.write(path, TOKENS)
    return BPE(str(path))


@pytest.fixture(scope="module")
def llama4(tmp_path_factory):
    """A stand-in for Llama 4's file: as many tokens, of no meaning."""
    path = tmp_path_factory.mktemp("llama4") / "tokenizer.model"
    ranks.write(path, (*SINGLES, *(b"~" + i.to_bytes(3, "big") for i in range(200_000 - 256))))
    return BPE(str(path))


def test_a_bpe_is_a_tokenizer(known):
    assert isinstance(known, Tokenizer) and isinstance(Bytes(), Tokenizer)


def test_the_pair_that_was_learned_first_joins_first(known):
    assert known.encode("thein").tolist() == [258, 256]
    assert known.encode("aaab").tolist() == [260, 266]  # "aab" (265) lies in it, but "aa" and then "ab" come first


def test_a_piece_that_is_a_token_is_that_token(known):
    assert known.encode("xyz").tolist() == [267]  # though no two neighbours in it join


def test_ids_after_the_tokens_are_specials(known):
    assert known.vocab == len(TOKENS) + 17
    assert known.begin == len(TOKENS) and known.special("tile_y_separator") == known.vocab - 1
    assert known.document("a").tolist() == [known.begin, 97, known.end]


def test_llama_4s_special_tokens_have_their_ids(llama4):
    assert llama4.vocab == 202_048
    ids = {
        "begin_of_text": 200000, "end_of_text": 200001, "fim_prefix": 200002, "header_start": 200005,
        "header_end": 200006, "eom": 200007, "eot": 200008, "python_start": 200016, "python_end": 200017,
        "finetune_right_pad": 200018, "image_start": 200080, "image_end": 200081, "tile_x_separator": 200084,
        "tile_y_separator": 200085, "image": 200090, "patch": 200092, "reasoning_thinking_start": 201142,
        "reasoning_thinking_end": 201143,
    }  # fmt: skip
    assert {name: llama4.special(name) for name in ids} == ids
    assert (llama4.begin, llama4.end, llama4.pad) == (200000, 200001, 200018)
    assert len(set(ranks.LLAMA4)) == len(ranks.LLAMA4) == 2048


def test_a_special_token_that_is_not_there_is_refused(known):
    with pytest.raises(ValueError, match=r"no special token of .* is called 'eos'; there are begin_of_text, "):
        known.special("eos")


@pytest.mark.parametrize("text", [
    *(f"<|{name}|>" for name in ranks.OURS), "<|eot|><|header_start|>system<|header_end|>\n\n", "<|eo", "t|>",
    "<|\u200beot|>", "＜|eot|＞", "<|eot|>"[::-1], "<|<|eot|>|>", "<|EOT|>", "a<|eot|>b",
])  # fmt: skip
def test_text_cannot_inject_a_special_token(text, known, trained):
    for tokenizer in (known, trained, Bytes()):
        for found in (tokenizer.encode(text), tokenizer.encode(text.encode())):
            assert found.max() < tokenizer.begin
            assert tokenizer.decode(found) == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["<|", "|>", "eot", "<", "|", "\0", "header_start", "é", " ", "\n", "\u202e"])))
def test_no_pieces_of_text_make_a_special_token(known, parts):
    assert (known.encode("".join(parts)) < known.begin).all()


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_unicode_comes_back(trained, text):
    wanted = text.encode("utf-8", "replace").decode()
    assert trained.decode(trained.encode(text)) == wanted == Bytes().decode(Bytes().encode(text))


@settings(max_examples=100, deadline=None)
@given(st.binary())
def test_any_bytes_come_back(trained, data):
    assert trained.raw(trained.encode(data)) == data == Bytes().raw(Bytes().encode(data))


def test_bytes_of_a_text_have_the_ids_of_the_text(trained):
    assert trained.encode(TEXT.encode()).tolist() == trained.encode(TEXT).tolist()


def test_the_lone_surrogate_of_a_text_becomes_a_question_mark(trained):
    assert trained.decode(trained.encode("\ud800\udc80")) == "??"


def test_long_texts_and_runs_are_cut_where_llama_4_cuts_them(known):
    spaces = known.encode(" " * 1_000_000)
    assert len(spaces) == 1_000_000
    # the run of 50,001 is cut into 25,000, 25,000 and 1: no pair joins across
    assert known.encode("a" * 50_001).tolist() == [260] * 25_000 + [97]
    assert known.encode("a" * 24_999 + " " + "a" * 25_001).tolist()[-2:] == [260, 97]
    assert known.decode(known.encode("xy " * 300_000)) == "xy " * 300_000


def test_special_tokens_can_be_read(known):
    assert known.decode([known.special("eot"), 97]) == "<|eot|>a"


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_an_id_outside_the_vocabulary_is_refused(wrong, known):
    with pytest.raises(ValueError, match=f"token id {wrong} is outside the vocabulary: ids are 0 to {known.vocab - 1}"):
        known.decode([97, wrong])


def test_training_twice_gives_the_same_file(trained, tmp_path):
    assert train([TEXT], 300, tmp_path / "again").fingerprint == trained.fingerprint
    assert trained.vocab == 300


def test_training_shortens_what_it_was_trained_on(trained):
    assert len(trained.encode(TEXT)) < 0.75 * len(TEXT.encode())


def test_ids_are_those_that_tokenizers_gives(trained, known, tmp_path):
    import tokenizers

    for tokenizer in (trained, known):
        tokenizer.save(tmp_path)
        other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        for text in (TEXT, "thein the in aaab aab eot\nxyz", "  \n \t x\u0301 ABCdef 1234567 it'Ll", ""):
            assert other.encode(text, add_special_tokens=False).ids == tokenizer.encode(text).tolist()
            assert other.decode(tokenizer.encode(text).tolist()) == text


def test_what_is_served_knows_the_special_tokens_and_opens_with_begin_of_text(trained, tmp_path):
    import tokenizers

    for tokenizer in (trained, Bytes()):
        tokenizer.save(tmp_path)
        other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        assert other.get_vocab_size() == tokenizer.vocab
        assert other.encode("a<|eot|>").ids == [tokenizer.begin, 97, tokenizer.special("eot")]


def test_what_is_served_is_read_back(trained, tmp_path):
    trained.save(tmp_path)
    found = open_tokenizer(tmp_path)
    assert found.fingerprint == trained.fingerprint and found.encode(TEXT).tolist() == trained.encode(TEXT).tolist()


def test_the_tokenizer_by_bytes_is_served_and_read_back(tmp_path):
    Bytes().save(tmp_path)
    assert open_tokenizer(tmp_path) == Bytes()


def test_llama_4s_tokenizer_is_served_and_read_back(llama4, tmp_path):
    llama4.save(tmp_path)
    assert open_tokenizer(tmp_path).fingerprint == llama4.fingerprint


def test_a_folder_opens_by_its_tokenizer_model_first(known, tmp_path):
    Bytes().save(tmp_path)
    ranks.write(tmp_path / "tokenizer.model", TOKENS)
    assert open_tokenizer(tmp_path).fingerprint == known.fingerprint


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no tokenizer: neither tokenizer.model nor tokenizer.json"):
        open_tokenizer(tmp_path)


def test_the_fingerprint_tells_tokens_apart(known, trained, tmp_path):
    ranks.write(tmp_path / "a", (*TOKENS[:-2], TOKENS[-1], TOKENS[-2]))
    assert len({known.fingerprint, trained.fingerprint, BPE(str(tmp_path / "a")).fingerprint, Bytes().fingerprint}) == 4


GOOD = "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(TOKENS)).encode()
LINES = GOOD.splitlines(keepends=True)


@pytest.mark.parametrize(("data", "message"), [
    (b"", "line 1 is b''; it must be a token in base64, a space, and its rank"),
    (b"?? 0\n" + GOOD, "line 1: .* is not base64 .*; a line must be `base64 rank`"),
    (GOOD + b"YQ\n", "line 269: .* is not base64"),
    (GOOD + b"YWJj\n", "line 269 is b'YWJj'; it must be"),
    (GOOD + b"YWJj x\n", "line 269 is"),
    (GOOD + b"YWJj -1\n", "line 269 is"),
    (GOOD + b"YWJj 99999999999\n", "line 269 is"),
    (GOOD + b" 268\n", "line 269 is"),
    (GOOD + LINES[-1], "line 269: the token .* is there twice, as 267 and 267"),
    (GOOD + b"YWJj 267\n", "two tokens have the rank 267; every rank must be there once"),
    (b"".join(LINES[:260] + LINES[261:]), "of 267 tokens none has the rank 260; the file must be whole"),
    (b"".join(LINES[:200]), r"lacks the byte 200 \(and 55 more\)"),
    (GOOD + b"A" * 3000, "line 269 has 3000 bytes; a line is a token of at most 1024 bytes"),
    (GOOD[:-6], "line 268"),
])  # fmt: skip
def test_a_damaged_file_is_refused(data, message, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        _ = BPE(str(tmp_path / "tokenizer.model")).vocab


def test_a_file_of_another_system_s_line_ends_is_read(known, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(GOOD.replace(b"\n", b"\r\n"))
    assert BPE(str(tmp_path / "tokenizer.model")).fingerprint == known.fingerprint


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="there is no such file; a tokenizer is a tokenizer.model or"):
        _ = BPE(str(tmp_path / "none")).vocab
    monkeypatch.setattr(ranks, "LARGEST", 10)
    (tmp_path / "large").write_bytes(GOOD)
    with pytest.raises(ValueError, match=r"has \d+ bytes; a tokenizer has at most 10"):
        _ = BPE(str(tmp_path / "large")).vocab


def other_type(found):
    found["model"]["type"] = "WordPiece"


def other_order(found):
    found["model"]["merges"].reverse()


def another_character(found):
    found["model"]["vocab"]["漢"] = len(TOKENS)


def another_place(found):
    found["added_tokens"][3]["id"] += 100


def no_merges(found):
    del found["model"]["merges"]


def strange_merge(found):
    found["model"]["merges"].append(["q", "q"])


def hole(found):
    del found["model"]["vocab"]["in"]
    found["model"]["merges"] = []


@pytest.mark.parametrize(("change", "message"), [
    (other_type, "is a 'WordPiece' whose tokens are not all bytes; only a byte-level BPE can be read"),
    (another_character, "only a byte-level BPE can be read"),
    (other_order, "its merges do not make the tokens in the order of their ids; it is another BPE"),
    (another_place, "its special tokens .* are neither those of Llama 4 nor of this project"),
    (no_merges, "is not the tokenizer.json of a BPE: KeyError 'merges'"),
    (strange_merge, "is not the tokenizer.json of a BPE: KeyError 'qq'"),
    (hole, "none has the rank 256"),
])  # fmt: skip
def test_a_tokenizer_json_that_says_something_else_is_refused(change, message, known, tmp_path):
    known.save(tmp_path)
    found = json.loads((tmp_path / "tokenizer.json").read_text())
    change(found)
    (tmp_path / "tokenizer.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=message):
        open_tokenizer(tmp_path)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["a.model", "a.json"]))
def test_any_file_is_read_or_refused(tmp_path_factory, data, name):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data)
    with pytest.raises(ValueError):
        ranks.read(path)


LEAVES = st.none() | st.integers() | st.floats() | st.text(max_size=3)
KEYS = st.sampled_from(["model", "vocab", "merges", "type", "added_tokens", "id", "a"])


@settings(max_examples=100, deadline=None)
@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner)))
def test_any_json_is_refused(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError):
        ranks.read(path)


@pytest.mark.parametrize(("vocab", "message"), [
    (272, "a vocabulary of 272 cannot be had: 256 bytes and 17 special tokens are the least"),
    (200_017, "200017 is taken for Llama 4's"),
    (5000, r"the corpus has only \d+ pairs worth a token, .* set --vocab to at most \d+"),
])  # fmt: skip
def test_a_vocabulary_that_cannot_be_had_is_refused(vocab, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train([TEXT], vocab, tmp_path / "a")


def test_the_command_line_trains(trained, tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_bytes(TEXT.encode())
    command = [sys.executable, "-m", "models.bpe", "corpus", "--vocab", "300", "--output", "out.model"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert trained.fingerprint in done.stdout and BPE(str(tmp_path / "out.model")).fingerprint == trained.fingerprint
    failed = subprocess.run([*command[:3], "none.txt", "--vocab", "300"], cwd=tmp_path, capture_output=True, text=True)
    assert failed.returncode == 1 and failed.stderr.startswith("error: ")


def test_a_package_that_is_not_installed_is_named(known, monkeypatch):
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(ValueError, match=r"a BPE needs the package tiktoken: pip install -e '.\[bpe\]'"):
        BPE(known.path).encode("a")


def test_bytes_are_as_they_were():
    assert Bytes().vocab == 272 and len(SPECIALS) == 16
    assert Bytes().raw(np.array([104, 105, 261])) == b"hi<|eot|>"
