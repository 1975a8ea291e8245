"""The peer: tunix's DistillationTrainer with LogitStrategy on its own Llama 3, its loop asked step by step."""

import logging
import os
from collections.abc import Iterator
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from flax import nnx  # noqa: E402
from tunix.distillation import distillation_trainer, strategies  # noqa: E402
from tunix.models.llama3 import model as llama3  # noqa: E402

from benchmarks.sizes import DENSE_STEP, Options, Size, Work  # noqa: E402
from benchmarks.worker import Line  # noqa: E402


def llama(size: Size, seed: int) -> nnx.Module:
    """tunix's Llama 3 of this size with random weights, also in the SwiGLU that tunix creates as zeros."""
    unsharded = llama3.ShardingConfig(
        emb_vd=(None, None),
        emb_dv=(None, None),
        q_weight_dnh=(None, None, None),
        kv_weight_dnh=(None, None, None),
        o_weight_nhd=(None, None, None),
        ffw_weight_df=(None, None),
        ffw_weight_fd=(None, None),
        rms_norm_weight=(None,),
        act_btd=(None, None, None),
        act_btf=(None, None, None),
        act_btnh=(None, None, None, None),
    )
    config = llama3.ModelConfig(
        num_layers=size.layers,
        vocab_size=size.vocab,
        embed_dim=size.width,
        hidden_dim=size.ffn,
        num_heads=size.heads,
        head_dim=size.head_dim,
        num_kv_heads=size.kv_heads,
        rope_theta=int(size.rope_theta),
        norm_eps=size.eps,
        shd_config=unsharded,
    )
    model = llama3.Llama3(config, rngs=nnx.Rngs(seed))
    state = nnx.state(model, nnx.Param)
    leaves, shape = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    leaves = [x if x.ndim == 1 else 0.02 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    nnx.update(model, jax.tree.unflatten(shape, leaves))
    count = sum(x.size for x in leaves)
    assert count == size.parameters, f"{count} parameters, {size.parameters} expected"
    return model


def forward(model: nnx.Module, input_tokens: jax.Array, input_mask: jax.Array) -> jax.Array:
    """Logits [b t v] under a causal mask."""
    length = input_tokens.shape[1]
    positions = jnp.broadcast_to(jnp.arange(length), input_tokens.shape)
    causal = jnp.tril(jnp.ones((length, length), bool))
    return model(input_tokens, positions, None, jnp.broadcast_to(causal, (*input_tokens.shape, length)))[0]


class Feed:
    """Batches that arrive when the driver asks; being asked for the next one means that the last step was issued."""

    def __init__(self, line: Line, work: Work, losses: list):
        rng = np.random.default_rng(work.seed)
        batch = rng.integers(0, work.teacher.vocab, (work.batch, work.length)).astype(np.int32)
        self.item = distillation_trainer.TrainingInput(input_tokens=batch, input_mask=np.ones_like(batch))
        self.line, self.losses = line, losses

    def __iter__(self) -> Iterator[distillation_trainer.TrainingInput]:
        while True:
            self.line.begin()
            yield self.item
            self.line.end(self.wait)

    def wait(self) -> float:
        """The loss, once the updated weights are there too: tunix computes both in one program."""
        return float(jax.block_until_ready(self.losses[-1]))


def train(options: Options) -> None:
    """Runs the trainer's loop until the driver stops."""
    work = options.work
    strategy = strategies.LogitStrategy(
        student_forward_fn=forward,
        teacher_forward_fn=forward,
        labels_fn=lambda input_tokens, input_mask: jax.nn.one_hot(input_tokens, work.teacher.vocab),
        temperature=1.0,
        alpha=1.0,
    )
    trainer = distillation_trainer.DistillationTrainer(
        student_model=llama(work.student, 1),
        teacher_model=llama(work.teacher, 0),
        strategy=strategy,
        optimizer=optax.adamw(work.rate, b1=work.beta1, b2=work.beta2, eps=work.eps, weight_decay=work.decay),
        training_config=distillation_trainer.TrainingConfig(eval_every_n_steps=1_000_000, max_steps=None),
    )
    losses: list = []
    buffered = trainer._buffer_metrics

    def remember(buffer, loss, *rest, **named):
        losses[:] = [loss]
        return buffered(buffer, loss, *rest, **named)

    trainer._buffer_metrics = remember
    about = {"tunix": version("google-tunix"), "jax": jax.__version__, "flops": work.flops}
    trainer.train(Feed(Line(about, options.steps), work, losses))


if __name__ == "__main__":
    logging.getLogger("absl").setLevel(logging.ERROR)
    options = Options.of(DENSE_STEP)
    if options.dtype != "float32":
        raise SystemExit("tunix's Llama 3 takes no compute type of its own: --dtype float32 is all there is")
    train(options)
