"""Talk with a checkpoint, or with what a run trained.

    python -m distill.chat FOLDER                         a folder in the Hugging Face layout
    python -m distill.chat runs/herd distil scout         a learner of a run: its stage and name
    python -m distill.chat FOLDER "Who are you?"          one answer; the question may come from a pipe, too
    python -m distill.chat runs/herd --complete "def "    goes on with a text: for models that never saw a chat
    python -m distill.chat FOLDER --image cat.png "What is it?"

In a chat /new begins anew and /exit (or Ctrl-D) ends; Ctrl-C cuts an answer short.
"""

import argparse
import codecs
import logging
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distill.run import Run, load_run
from distill.state import Weights
from distill.trained import is_run, learners, load_weights
from models import huggingface, prompt
from models.bpe import named_tokenizer, open_tokenizer
from models.execution import Execution
from models.images import TILES, Tiled, read_image, split
from models.prompt import Message
from models.request import Request
from models.sampler import Sampler
from models.sampling import Sampling
from models.tokenizer import Tokenizer


@dataclass(frozen=True)
class Partner:
    """Who answers."""

    weights: Weights
    tokenizer: Tokenizer

    def __post_init__(self) -> None:
        vocab = self.weights.model.config.vocab
        if self.tokenizer.vocab != vocab:
            raise ValueError(
                f"the model has a vocabulary of {vocab}, the tokenizer of {self.tokenizer.vocab}; "
                f"set --tokenizer to the one it was trained with"
            )

    @property
    def patches(self) -> int | None:
        """Patch tokens of a tile; None for a model that sees nothing."""
        vision = self.weights.model.config.vision
        return None if vision is None else vision.tokens

    def look(self, path: Path, tiles: int | None) -> Tiled:
        """An image as this model sees it, in at most so many tiles; None: as many as its tokenizer can tell apart."""
        vision = self.weights.model.config.vision
        if vision is None:
            raise ValueError(f"--image {path}: the model has no vision tower; leave it out, or use a model with one")
        if tiles is None:
            tiles = TILES if _separates(self.tokenizer) else 1
        return split(read_image(path), vision.image, tiles)


def open_partner(path: Path, names: Sequence[str], tokenizer: str | None, dtype: str) -> Partner:
    """The model at a path, and its tokenizer or the one that was asked for (a path, or `bytes`).

    Raises:
      ValueError: there is no model, several where none was named, or its tokenizer is missing or another's.
    """
    asked = named_tokenizer(tokenizer)
    if is_run(path):
        run = load_run(path)
        stage, learner = names or _only(run)
        return Partner(load_weights(path, stage, learner), asked or run.tokenizer)
    if names:
        raise ValueError(f"{path} is a checkpoint, which has no stage and learner {' '.join(names)}; leave them out")
    return Partner(Weights(huggingface.load(path, dtype), None), asked or open_tokenizer(path))


@dataclass(frozen=True)
class Speaker:
    """How replies are drawn, and of how many tokens at most. The same weights, prompt and seed give the same reply."""

    sampler: Sampler
    limit: int

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"--limit is {self.limit}; a reply needs at least 1 token")

    def __call__(self, weights: Weights, asked: prompt.Prompt) -> Iterator[int]:
        """The tokens of a reply, each as soon as it is drawn: to the limit, or as far as there are positions.

        Raises:
          ValueError: the prompt leaves no room for a reply.
        """
        count, most = len(asked.tokens), weights.model.config.max_positions
        if count >= most:
            raise ValueError(
                f"the conversation has {count} tokens and the model {most} positions: no room for a reply; begin anew"
            )
        limit = min(self.limit, most - count)
        request = Request(prompt=0, sample=0, tokens=asked.tokens, limit=limit, images=asked.images)
        # Few shapes are compiled, however long prompts are.
        capacity = min(1 << (count + limit - 1).bit_length(), most)
        yield from replace(self.sampler, capacity=capacity).stream(weights.model, request, weights.bias)


def say(partner: Partner, speaker: Speaker, asked: prompt.Prompt) -> Iterator[str]:
    """A reply as text, piece by piece, without the token that ends it; control characters cannot reach a terminal."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in speaker(partner.weights, asked):
        if token not in speaker.sampler.stop:
            yield _visible(decoder.decode(partner.tokenizer.raw([token])))
    yield _visible(decoder.decode(b"", final=True))


def talk(partner: Partner, speaker: Speaker, system: str | None, images: list[Tiled]) -> None:
    """Questions from the terminal and answers to it, until /exit, Ctrl-D, or Ctrl-C where a question is due."""
    opening = [] if system is None else [Message("system", system)]
    messages, shown = list(opening), list(images)
    while True:
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if line == "/exit":
            return
        if line == "/new":
            messages, shown = list(opening), list(images)
            continue
        asked = [*messages, Message("user", (*shown, line))]
        try:
            said = show(say(partner, speaker, prompt.chat(partner.tokenizer, asked, partner.patches)))
        except ValueError as error:  # no room for a reply: /new makes some
            print(f"error: {error}", file=sys.stderr)
            continue
        messages, shown = [*asked, Message("assistant", said)], []


def show(pieces: Iterator[str]) -> str:
    """Prints text as it comes, and returns it; Ctrl-C cuts it short."""
    said = ""
    try:
        for piece in pieces:
            said += piece
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" [cut short]", end="", file=sys.stderr)
    print()
    return said


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Exit code 1: a clear error."""
    options = _parser().parse_args(arguments)
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns of folders that are only read, which is meant
    try:
        names, question = _sort(options.path, options.words)
        if question is None and not sys.stdin.isatty():
            question = sys.stdin.read().removesuffix("\n")
        partner = open_partner(options.path, names, options.tokenizer, options.dtype)
        images = [partner.look(path, options.tiles) for path in options.image]
        sampling = Sampling(temperature=options.temperature, top_k=options.top_k, top_p=options.top_p)
        sampler = Sampler(
            slots=1, stride=1, sampling=sampling, stop=prompt.stops(partner.tokenizer), seed=options.seed,
            execution=Execution(dtype=options.dtype),
        )  # fmt: skip
        speaker = Speaker(sampler, options.limit)
        if options.complete:
            asked = prompt.text(partner.tokenizer, (*images, question or ""), partner.patches)
            show(say(partner, speaker, asked))
        elif question is None:
            talk(partner, speaker, options.system, images)
        else:
            messages = [] if options.system is None else [Message("system", options.system)]
            messages.append(Message("user", (*images, question)))
            show(say(partner, speaker, prompt.chat(partner.tokenizer, messages, partner.patches)))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m distill.chat", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="a run, or a folder in the Hugging Face layout")
    parser.add_argument("words", nargs="*", help="of a run: stage and learner; then what to say (default: from stdin)")
    parser.add_argument("--system", help="what the chat is opened with")
    parser.add_argument("--image", type=Path, action="append", default=[], help="shown with the first question")
    parser.add_argument("--tiles", type=int, help="tiles of an image at most (default: 16, or 1 if by bytes)")
    parser.add_argument("--complete", action="store_true", help="go on with the text instead of answering it")
    parser.add_argument("--temperature", type=float, default=0.6, help="0: the likeliest token (default: %(default)s)")
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest tokens")
    parser.add_argument("--top-p", type=float, default=0.9, help="draw from so much likelihood (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=512, help="tokens of an answer at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of chance (default: %(default)s)")
    parser.add_argument("--tokenizer", help="a tokenizer file, a folder with one, or `bytes`")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="default: %(default)s")
    return parser


def _sort(path: Path, words: Sequence[str]) -> tuple[Sequence[str], str | None]:
    """Stage and learner, and what to say: one word is what to say, two name a learner, three are both."""
    if len(words) > 3:
        raise ValueError(f"{path} is followed by {len(words)} words; put what you say in quotes")
    names = words[:2] if len(words) > 1 else []
    return names, words[-1] if len(words) in (1, 3) else None


def _only(run: Run) -> tuple[str, str]:
    """The one learner of a run's last stage."""
    stages = learners(run.config)
    every = [f"{stage} {one['name']}" for stage, taught in stages.items() for one in taught]
    last, names = list(stages.items())[-1]
    if len(names) > 1:
        raise ValueError(f"{run.path} has several learners; name a stage and one of its learners: {', '.join(every)}")
    return last, names[0]["name"]


def _separates(tokenizer: Tokenizer) -> bool:
    try:
        prompt.picture(tokenizer, 1, 2, 0)
    except ValueError:
        return False
    return True


def _visible(text: str) -> str:
    """Text in which control characters, by which a terminal could be ruled, are replaced."""
    return "".join("\ufffd" if unicodedata.category(char) == "Cc" and char not in "\n\t" else char for char in text)


if __name__ == "__main__":
    main()
