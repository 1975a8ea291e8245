"""Talking with a model: replies are those of the forward pass, and the command line says what is wrong."""

import io
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from distill.chat import Partner, Speaker, main, say, show
from distill.state import Weights
from models import huggingface, prompt
from models.images import split
from models.llama4 import Llama4
from models.prompt import Message, Prompt
from models.sampler import Sampler
from models.sampling import Sampling
from models.tokenizer import Bytes
from models.tower import VISION_PICO
from tests.distill.small import MOE

BYTES = Bytes()
CONFIG = replace(MOE, vocab=272, max_positions=128, vision=VISION_PICO.tiny())
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def weights():
    model = jax.jit(lambda: Llama4(CONFIG, jax.random.key(3)))()
    bias = jax.random.normal(jax.random.key(1), (CONFIG.periods, CONFIG.moe_per_period, CONFIG.experts))
    return Weights(model, bias)


@pytest.fixture(scope="module")
def folder(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("chat") / "model"
    huggingface.save(path, weights.model, BYTES)
    return path


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(autouse=True)
def silence(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))


def speaker(limit=20, **chosen):
    return Speaker(Sampler(slots=1, stride=1, **chosen), limit)


def likeliest(weights, asked: Prompt, count: int) -> list[int]:
    """Greedy tokens by the whole forward pass, on rows of one length, each padded behind."""
    images = None if asked.images is None else jnp.asarray(asked.images)[None]

    @jax.jit
    def forward(weights, tokens):
        return weights.model.logits(weights.model(tokens, None, weights.bias, images=images)[0])

    tokens = asked.tokens.tolist()
    for _ in range(count):
        row = jnp.asarray([tokens + [0] * (96 - len(tokens))])
        logits = forward(weights, row)[0, len(tokens) - 1]
        tokens.append(int(logits.at[BYTES.special("patch")].set(-jnp.inf).argmax()))  # which is never drawn
    return tokens[len(asked.tokens) :]


def seen():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    content = ("see ", split(image, CONFIG.vision.image, 1), "?")
    return prompt.chat(BYTES, [Message("user", content)], CONFIG.vision.tokens)


@pytest.mark.parametrize("asked", [prompt.text(BYTES, "once upon"), seen()], ids=["text", "image"])
def test_a_reply_is_what_the_forward_pass_finds_likeliest(weights, asked):
    greedy = speaker(sampling=GREEDY)
    assert list(greedy(weights, asked)) == likeliest(weights, asked, 20)


def test_the_image_is_seen(weights):
    asked = seen()
    other = Prompt(asked.tokens, -asked.images)
    greedy = speaker(sampling=GREEDY)
    assert list(greedy(weights, asked)) != list(greedy(weights, other))


def test_a_reply_ends_with_a_stop_token(weights):
    asked = prompt.text(BYTES, "once upon")
    free = list(speaker(sampling=GREEDY)(weights, asked))
    stop = free[7]
    assert list(speaker(sampling=GREEDY, stop=(stop,))(weights, asked)) == free[: free.index(stop) + 1]


def test_the_seed_is_all_of_chance(weights):
    asked = prompt.text(BYTES, "once upon")
    first, again, other = (list(speaker(seed=seed)(weights, asked)) for seed in (0, 0, 1))
    assert first == again != other


def test_a_reply_ends_where_positions_end(weights):
    asked = prompt.text(BYTES, "a" * 120)
    assert len(list(speaker(limit=50)(weights, asked))) == 128 - 121


def test_a_conversation_without_room_for_a_reply_is_refused(weights):
    with pytest.raises(ValueError, match="has 128 tokens and the model 128 positions: no room for a reply; begin anew"):
        next(speaker()(weights, prompt.text(BYTES, "a" * 127)))


def test_a_reply_of_no_tokens_is_refused():
    with pytest.raises(ValueError, match="--limit is 0; a reply needs at least 1 token"):
        speaker(limit=0)


def test_characters_come_whole_and_cannot_rule_the_terminal(weights, monkeypatch):
    tokens = [*"é\n\x1b[2J".encode(), 0xE2, BYTES.end]
    monkeypatch.setattr(Speaker, "__call__", lambda *_: iter(tokens))
    pieces = list(say(Partner(weights, BYTES), speaker(stop=(BYTES.end,)), prompt.text(BYTES, "")))
    assert "".join(pieces) == "é\n\ufffd[2J\ufffd"
    assert pieces[:2] == ["", "é"]


def test_a_question_on_the_command_line_is_answered(folder, weights, capsys):
    main([str(folder), "hi", "--system", "Be brief", "--temperature", "0", "--limit", "9"])
    asked = prompt.chat(BYTES, [Message("system", "Be brief"), Message("user", "hi")])
    free = Weights(weights.model, None)
    greedy = speaker(sampling=GREEDY, limit=9, stop=prompt.stops(BYTES))
    assert capsys.readouterr().out == "".join(say(Partner(free, BYTES), greedy, asked)) + "\n"


def test_a_question_may_come_from_a_pipe(folder, capsys, monkeypatch):
    main([str(folder), "hi", "--limit", "9"])
    first = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\n"))
    main([str(folder), "--limit", "9"])
    assert capsys.readouterr().out == first


def test_a_text_is_gone_on_with(folder, capsys):
    main([str(folder), "once upon", "--complete", "--limit", "9", "--seed", "5"])
    first = capsys.readouterr().out
    main([str(folder), "once upon", "--limit", "9", "--seed", "5"])
    assert first and capsys.readouterr().out != first


def test_a_model_that_sees_goes_out_with_its_image_processor(folder):
    names = {path.name for path in folder.iterdir()}
    assert names > {"preprocessor_config.json", "processor_config.json", "tokenizer.json", "chat_template.jinja"}


def test_an_image_is_shown(folder, picture, capsys):
    for arguments in (["--image", str(picture)], []):
        main([str(folder), "what is it?", *arguments, "--limit", "9", "--temperature", "0"])
    assert len(set(capsys.readouterr().out.split("\n")[:2])) == 2


def test_a_chat_remembers_until_it_begins_anew(folder, capsys, monkeypatch):
    terminal = io.StringIO("")
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    lines = iter(["hi", "hi", "/new", "hi", "/exit"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    main([str(folder), "--limit", "5", "--temperature", "0", "--top-p", "1"])
    first, second, anew = capsys.readouterr().out.split("\n")[:3]
    assert first == anew != second


def test_a_chat_without_room_goes_on_when_it_begins_anew(folder, capsys, monkeypatch):
    terminal = io.StringIO("")
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    lines = iter(["hi", "a" * 200, "/new", "hi", "/exit"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    main([str(folder), "--limit", "5", "--temperature", "0", "--top-p", "1"])
    said = capsys.readouterr()
    first, anew = said.out.split("\n")[:2]
    assert first == anew and "no room for a reply; begin anew" in said.err


def test_a_chat_ends_with_the_input(folder, capsys, monkeypatch):
    terminal = io.StringIO("")
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)

    def end(_):
        raise EOFError

    monkeypatch.setattr("builtins.input", end)
    main([str(folder)])
    assert capsys.readouterr().out == "\n"


def test_ctrl_c_cuts_an_answer_short_and_keeps_what_was_said(capsys):
    def pieces():
        yield "so far"
        raise KeyboardInterrupt

    assert show(pieces()) == "so far"
    assert capsys.readouterr().out == "so far\n"


@pytest.mark.parametrize(("arguments", "message"), [
    (["{none}"], "is neither a run nor a checkpoint: it has no config.json"),
    (["{folder}", "a", "b"], "is a checkpoint, which has no stage and learner a b; leave them out"),
    (["{folder}", "a", "b", "c", "d"], "is followed by 4 words; put what you say in quotes"),
    (["{folder}", "hi", "--image", "{none}"], "there is no such file"),
    (["{folder}", "hi", "--limit", "0"], "--limit is 0; a reply needs at least 1 token"),
    (["{folder}", "hi", "--temperature", "-1"], "Sampling.temperature is -1.0"),
    (["{folder}", "hi", "--tokenizer", "{bpe}"], "vocabulary of 272, the tokenizer of 273; set --tokenizer to the one"),
    (["{folder}", "hi", "--tiles", "2", "--image", "{picture}"], "an image of 1 x 2 tiles needs separators"),
    (["{blind}", "hi", "--image", "{picture}", "--tokenizer", "bytes"], "the model has no vision tower; leave it out"),
    (["{blind}", "hi"], "has no tokenizer: neither tokenizer.model nor tokenizer.json"),
])  # fmt: skip
def test_what_is_wrong_is_said(arguments, message, folder, picture, tmp_path):
    from models import ranks

    ranks.write(tmp_path / "bpe", tuple(bytes([byte]) for byte in range(256)))
    if "{blind}" in arguments:
        blind = replace(CONFIG, vision=None)
        huggingface.save(tmp_path / "blind", jax.jit(lambda: Llama4(blind, jax.random.key(0)))())
    places = {"none": tmp_path / "none", "folder": folder, "bpe": tmp_path / "bpe", "picture": picture,
              "blind": tmp_path / "blind"}  # fmt: skip
    with pytest.raises(SystemExit, match=r"^error: ") as stop:
        main([argument.format(**places) for argument in arguments])
    assert message in str(stop.value)
