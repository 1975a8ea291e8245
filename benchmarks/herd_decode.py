"""Our side of the decoding benchmark: the sampler that rollouts use, with as many slots as there are prompts."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.generation import Generation  # noqa: E402
from benchmarks.herd import config  # noqa: E402
from benchmarks.worker import serve  # noqa: E402
from models.execution import Execution
from models.llama4 import Llama4  # noqa: E402
from models.request import Request  # noqa: E402
from models.sampler import Sampler  # noqa: E402


def build(work: Generation):
    """One round of generation: a function that returns the mean log-probability of what was drawn."""
    length = work.prompt + work.new
    sizes = config(work.size, length)
    model = jax.jit(lambda: Llama4(sizes, jax.random.key(0)))()
    sampler = Sampler(
        slots=work.batch,
        capacity=length,
        piece=work.prompt,
        stride=work.new,
        execution=Execution(dtype=work.dtype, unroll=work.size.layers),
    )
    prompts = [Request(prompt=n, sample=0, tokens=row, limit=work.new) for n, row in enumerate(work.prompts())]

    def step() -> float:
        completions = list(sampler(model, prompts))
        assert sum(len(each.tokens) for each in completions) == work.tokens
        return float(np.mean([each.logprobs for each in completions]))

    return step


if __name__ == "__main__":
    work = Generation.of_command_line()
    about = {"jax": jax.__version__, "flops": work.flops, "bytes": work.bytes}
    serve(build(work), about, work.steps)
