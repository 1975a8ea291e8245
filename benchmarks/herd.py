"""Our side of the step benchmark: the step that a stage repeats, on a Llama 4 of the peers' sizes.

The loss is what the peers compute, forward KL at every position. `--gated` is the loss a Learner has by default, which
also looks at the labels to decide how far to trust the teacher. `--mixture` makes the student a mixture of experts.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.sizes import DENSE_STEP, MIXTURE_STEP, Options, Size, Work  # noqa: E402
from benchmarks.worker import serve  # noqa: E402
from distill.data.batch import Batch  # noqa: E402
from distill.mesh import Mesh  # noqa: E402
from distill.optim import AdamW, WarmupCosine  # noqa: E402
from distill.stage import Learner  # noqa: E402
from distill.state import create  # noqa: E402
from distill.step import Step  # noqa: E402
from distill.teacher import LiveTeacher  # noqa: E402
from losses import Distill, ForwardKL, NoGate  # noqa: E402
from models import cost  # noqa: E402
from models.config import Config, Layer, Tempering, interleave  # noqa: E402
from models.execution import Execution  # noqa: E402

STEPS = 1_000_000  # of the schedule, which stays flat


def config(size: Size, length: int) -> Config:
    """A dense size as plain Llama; one with experts as Llama 4, with QK-norm, NoPE layers and tempering."""
    mixture = size.experts > 0
    made = Config(
        vocab=size.vocab,
        width=size.width,
        layers=size.layers,
        heads=size.heads,
        kv_heads=size.kv_heads,
        head_dim=size.head_dim,
        expert_width=size.ffn,
        dense_width=size.ffn,
        experts=max(size.experts, 1),
        top_k=1,
        pattern=interleave(nope=4, moe=1) if mixture else (Layer(rope=True, moe=False),),
        chunk=8192,
        rope_theta=size.rope_theta,
        rope_scaling=None,
        qk_norm=mixture,
        tempering=Tempering(floor=8192, scale=0.1) if mixture else None,
        eps=size.eps,
        max_positions=length,
    )
    assert cost.total(made) == size.parameters, f"{cost.total(made)} parameters, {size.parameters} expected"
    return made


def learner(name: str, size: Size, work: Work, loss: Distill) -> Learner:
    """A learner of this size, with the peers' optimizer."""
    optimizer = AdamW(
        rate=WarmupCosine(peak=work.rate, warmup=0.0, floor=1.0),
        b1=work.beta1,
        b2=work.beta2,
        eps=work.eps,
        weight_decay=work.decay,
    )
    return Learner(name=name, model=config(size, work.length), loss=loss, optimizer=optimizer)


def batch(work: Work) -> Batch:
    """The peers' uniform random tokens as one micro-batch [1 b t] of whole documents."""
    rng = np.random.default_rng(work.seed)
    tokens = jnp.asarray(rng.integers(0, work.teacher.vocab, (1, work.batch, work.length)), jnp.int32)
    return Batch(
        tokens=tokens,
        labels=jnp.roll(tokens, -1, axis=-1),
        mask=jnp.ones(tokens.shape, bool),
        segments=jnp.ones_like(tokens),
        positions=jnp.broadcast_to(jnp.arange(work.length), tokens.shape),
    )


def build(options: Options, gated: bool):
    """The step: a function that returns the loss once the new weights are there."""
    work = options.work
    loss = Distill() if gated else Distill(soft=ForwardKL(), gate=NoGate())
    execution = Execution(dtype=options.dtype)
    student = learner("student", work.student, work, loss)
    mesh = Mesh().build()
    teacher = LiveTeacher(
        create(learner("teacher", work.teacher, work, loss), STEPS, mesh, work.seed).weights, execution
    )
    states = (create(student, STEPS, mesh, work.seed),)
    update = jax.jit(Step((student,), STEPS, execution), donate_argnums=0)
    rows = batch(work)

    def step() -> float:
        nonlocal states
        states, metrics = jax.block_until_ready(update(states, teacher, rows))
        return float(metrics["student/loss"].mean())

    return step


if __name__ == "__main__":
    parser = Options.parser()
    parser.add_argument("--mixture", action="store_true")
    parser.add_argument("--gated", action="store_true")
    said = parser.parse_args()
    options = Options.of(MIXTURE_STEP if said.mixture else DENSE_STEP, said)
    serve(build(options, said.gated), {"jax": jax.__version__, "flops": options.work.flops}, options.steps)
