"""The sizes both sides of the step benchmark are built from, and the arithmetic they cost.

Standard library only: the peers read it from an environment that has nothing of the project.
"""

import argparse
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Size:
    """One decoder: RMSNorm, grouped-query attention with RoPE, SwiGLU, an untied head; `experts` = 0 is dense.

    With experts, every layer has a router, `experts` SwiGLUs of width `ffn` of which a token uses one, and one shared.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    experts: int = 0
    rope_theta: float = 500_000.0
    eps: float = 1e-5

    @property
    def _attention(self) -> int:
        return 2 * self.width * self.head_dim * (self.heads + self.kv_heads)

    @property
    def parameters(self) -> int:
        """How many parameters the model has: embedding, layers with their two norms, final norm, head."""
        swiglu = 3 * self.width * self.ffn
        feed = swiglu if self.experts == 0 else (self.experts + 1) * swiglu + self.width * self.experts
        return 2 * self.vocab * self.width + self.layers * (self._attention + feed + 2 * self.width) + self.width

    def forward_flops(self, batch: int, length: int) -> int:
        """FLOPs of one forward pass: two per weight a token meets, and attention over the whole square of positions.

        The causal half that a kernel may skip is counted, on both sides; the embedding lookup is not.
        """
        swiglu = 3 * self.width * self.ffn
        feed = swiglu if self.experts == 0 else 2 * swiglu + self.width * self.experts
        weights = self.layers * (self._attention + feed) + self.width * self.vocab
        square = 2 * length * self.heads * self.head_dim * self.layers
        return 2 * batch * length * (weights + square)


@dataclass(frozen=True, kw_only=True)
class Work:
    """One distillation step: the teacher's forward pass, the student's forward and backward, forward KL, AdamW."""

    teacher: Size
    student: Size
    batch: int = 8
    length: int = 256
    rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    decay: float = 0.1
    seed: int = 0

    @property
    def tokens(self) -> int:
        """Tokens in one step."""
        return self.batch * self.length

    @property
    def flops(self) -> int:
        """Counted FLOPs of one step: the teacher forward, the student three times forward."""
        return self.teacher.forward_flops(self.batch, self.length) + 3 * self.student.forward_flops(
            self.batch, self.length
        )


TEACHER = Size(vocab=8192, width=512, layers=8, heads=8, kv_heads=4, head_dim=64, ffn=1536)
STUDENT = Size(vocab=8192, width=256, layers=4, heads=4, kv_heads=2, head_dim=64, ffn=768)
MIXTURE = Size(vocab=8192, width=256, layers=4, heads=4, kv_heads=2, head_dim=64, ffn=512, experts=16)
PICO = Size(vocab=272, width=64, layers=4, heads=4, kv_heads=2, head_dim=16, ffn=104, experts=16)
DENSE_20M = Size(vocab=8192, width=384, layers=8, heads=6, kv_heads=3, head_dim=64, ffn=1152)
MIXTURE_20M = Size(vocab=8192, width=256, layers=4, heads=4, kv_heads=2, head_dim=64, ffn=512, experts=8)
DECODED = {"pico": PICO, "dense": DENSE_20M, "mixture": MIXTURE_20M}
DENSE_STEP = Work(teacher=TEACHER, student=STUDENT)
MIXTURE_STEP = Work(teacher=TEACHER, student=MIXTURE)


@dataclass(frozen=True)
class Options:
    """What a worker was asked for: the work, the dtype its matmuls read, threads, steps to run without a driver."""

    work: Work
    dtype: str
    threads: int
    steps: int

    @staticmethod
    def parser() -> argparse.ArgumentParser:
        """The command line every worker understands."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--vocab", type=int, default=8192)
        parser.add_argument("--batch", type=int, default=8)
        parser.add_argument("--length", type=int, default=256)
        parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
        parser.add_argument("--threads", type=int, default=2)
        parser.add_argument("--steps", type=int, default=0, help="run so many steps alone instead of serving a driver")
        return parser

    @staticmethod
    def of(work: Work, said: argparse.Namespace | None = None) -> "Options":
        """`work` in the shape that the command line says."""
        said = Options.parser().parse_args() if said is None else said
        work = replace(
            work,
            batch=said.batch,
            length=said.length,
            teacher=replace(work.teacher, vocab=said.vocab),
            student=replace(work.student, vocab=said.vocab),
        )
        return Options(work, said.dtype, said.threads, said.steps)
