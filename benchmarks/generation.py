"""What both sides of the decoding benchmark are asked for: prompts, and how many tokens after them.

Standard library and numpy only: the peers read it too.
"""

import argparse
from dataclasses import dataclass

import numpy as np

from benchmarks.sizes import DECODED, Size


@dataclass(frozen=True)
class Generation:
    """`new` tokens after each of `batch` random prompts, drawn at temperature 1 from the whole vocabulary."""

    size: Size
    batch: int
    prompt: int
    new: int
    dtype: str
    threads: int
    steps: int

    @staticmethod
    def of_command_line() -> "Generation":
        """As every worker is told."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--size", choices=DECODED, required=True)
        parser.add_argument("--batch", type=int, default=32)
        parser.add_argument("--prompt", type=int, default=32)
        parser.add_argument("--new", type=int, default=64)
        parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
        parser.add_argument("--threads", type=int, default=2)
        parser.add_argument("--steps", type=int, default=0, help="run so many alone instead of serving a driver")
        said = vars(parser.parse_args())
        return Generation(DECODED[said.pop("size")], **said)

    @property
    def tokens(self) -> int:
        """New tokens of all rows."""
        return self.batch * self.new

    @property
    def flops(self) -> int:
        """Counted: every token read, prompt and new, passes once, over as many keys as the row has on average."""
        length = self.prompt + self.new
        return self.size.forward_flops(self.batch, length // 2) * 2

    @property
    def bytes(self) -> int:
        """Read from memory at least: each step, all weights but the embedding, and the cache as full as on average."""
        width = {"float32": 4, "bfloat16": 2}[self.dtype]
        size = self.size
        weights = size.parameters - size.vocab * size.width
        cache = self.batch * (self.prompt + self.new // 2) * 2 * size.layers * size.kv_heads * size.head_dim
        return self.new * width * (weights + cache)

    def prompts(self) -> np.ndarray:
        """Random ids [batch prompt], the same on both sides."""
        return np.random.default_rng(0).integers(0, self.size.vocab, (self.batch, self.prompt))
