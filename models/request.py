"""Request: a prompt to complete, and the Completion that comes of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from models.config import Config
from models.vision import check_images


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt to complete.

    prompt, sample: numbers of the prompt and of the completion asked of it; with the seed they are what chance is.
    tokens: of the prompt, at least one. limit: tokens of the completion at most.
    images: normalised tiles, in the order of the patch tokens that stand for them; None for text.
    """

    prompt: int
    sample: int
    tokens: Int[np.ndarray, " n"]
    limit: int
    images: Float[np.ndarray, "i c y x"] | None = None

    def check(self, config: Config, capacity: int) -> None:
        """Refuses a request that has no room or no meaning.

        Raises:
            ValueError: the prompt is empty or has ids that are not in the vocabulary; prompt and limit together are
                more than the capacity; its numbers are out of range; its images are not those of its patch tokens.
        """
        n, name = len(self.tokens), f"Request(prompt={self.prompt}, sample={self.sample})"
        if not (0 <= self.prompt < 2**31 and 0 <= self.sample < 2**31):
            raise ValueError(f"{name}: both numbers must be at least 0 and below 2**31")
        if n == 0 or self.limit < 1:
            raise ValueError(f"{name} has {n} tokens and a limit of {self.limit}; both must be at least 1")
        if n + self.limit > capacity:
            raise ValueError(
                f"{name} has {n} tokens and a limit of {self.limit}, but there is room for {capacity} in all; "
                f"raise Sampler.capacity, or shorten it"
            )
        if np.min(self.tokens) < 0 or np.max(self.tokens) >= config.vocab:
            raise ValueError(f"{name} has ids outside the vocabulary of {config.vocab}; is it another tokenizer's?")
        if config.vision is not None:
            check_images(config.vision, self.tokens[None], None if self.images is None else self.images[None])
        elif self.images is not None:
            raise ValueError(f"{name} has images, but this model has no vision tower; leave them out")


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What followed a prompt.

    tokens: with the stop token, where it came to one. logprobs: of each token, see Sampling.
    stopped: it ended with a stop token, not at its limit.
    routes: the experts that every token of prompt and completion was sent to, by MoE layer in order; -1 of the last,
        which nobody read. None if the sampler was not asked (Sampler.routes).
    """

    prompt: int
    sample: int
    tokens: Int[np.ndarray, " m"]
    logprobs: Float[np.ndarray, " m"]
    stopped: bool
    routes: Int[np.ndarray, "nm l r"] | None = None


def stack_images(requests: Sequence[Request], rows: int) -> Float[np.ndarray, "b i c y x"] | None:
    """Images of a batch of prompts, zeros behind those of prompts that have fewer; None if none has any."""
    some = [(row, one.images) for row, one in enumerate(requests) if one.images is not None and len(one.images)]
    if not some:
        return None
    # A power of two, so that few numbers of images are each compiled for.
    most = 1 << (max(len(each) for _, each in some) - 1).bit_length()
    stacked = np.zeros((rows, most, *some[0][1].shape[1:]), np.float32)
    for row, each in some:
        stacked[row, : len(each)] = each
    return stacked
