"""The distillation step of the mini family on one device, in bfloat16, and its parts, each timed apart."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu_table import Contest, Refused, Row
from distill.data.batch import Batch
from distill.hold import AsItIs, Bfloat16, Hold, Rounded, held
from distill.mesh import Mesh
from distill.stage import Learner
from distill.state import Weights, create, moving
from distill.step import Slope, Step
from distill.teacher import LiveTeacher, StoredTeacher
from losses import Distill, ForwardKL, NoGate, Tally
from models import cost
from models.config import Config, Layer
from models.execution import Execution
from models.layout import Layout
from models.quantize import Recipe
from models.remat import Inputs

STEPS = 1_000_000
HELD = Bfloat16()
"""as a stage holds a teacher that it has no reason to hold otherwise"""
BARS = {"dense": 0.45, "mixture": 0.30, "many experts": 0.30}


def dense(config: Config) -> Config:
    """The same with a feed-forward as wide as what a token meets of a mixture: its expert and the shared one."""
    pattern = tuple(Layer(rope=layer.rope, moe=False) for layer in config.pattern)
    return replace(config, pattern=pattern, dense_width=config.expert_width * (1 + config.top_k))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A teacher, a student, rows of one document each, and how they are run."""

    name: str
    teacher: Config
    student: Config
    rows: int
    length: int
    chunk: int
    execution: Execution

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.rows * self.length

    @property
    def heard(self) -> float:
        """FLOPs of the teacher's pass, its head included."""
        return self.tokens * cost.forward_flops(self.teacher, self.length)

    @property
    def spoken(self) -> float:
        """Of these the head's: the student's half makes the teacher's logits, whoever made its hidden states."""
        return 2.0 * self.tokens * self.teacher.width * self.teacher.vocab

    @property
    def learned(self) -> float:
        """FLOPs of the student's passes, forward and backward."""
        return self.tokens * cost.train_flops(self.student, self.length)

    @property
    def updated(self) -> float:
        """Bytes of the update: weights and both moments read and written, the gradient read, and for its norm."""
        return 4.0 * cost.total(self.student) * 8

    @property
    def learner(self) -> Learner:
        """Forward KL at every position, and AdamW."""
        return Learner(
            name="student", model=self.student, loss=Distill(soft=ForwardKL(), gate=NoGate(), chunk=self.chunk)
        )

    def batch(self) -> Batch:
        """Random tokens [1 b t] of whole documents."""
        shape = 1, self.rows, self.length
        tokens = jax.random.randint(jax.random.key(0), shape, 0, self.teacher.vocab)
        ones, places = jnp.ones(shape, jnp.int32), jnp.broadcast_to(jnp.arange(self.length), shape)
        return Batch(
            tokens=tokens, labels=jnp.roll(tokens, -1, axis=-1), mask=ones > 0, segments=ones, positions=places
        )

    def voice(self, hold: Hold = HELD) -> LiveTeacher:
        """The teacher, held like this."""
        mesh = Mesh().build()
        weights = create(Learner(name="teacher", model=self.teacher), STEPS, mesh, 0).weights
        own = Weights(held(weights.model, hold, mesh), weights.bias)
        return LiveTeacher(own, hold.execution(self.execution))


ask = jax.jit(lambda teacher, batch: teacher.signal(jax.tree.map(lambda x: x[0], batch)))


def repeated(setting: Setting, teacher: Any, batch: Batch) -> Callable[[], Any]:
    """A step on this batch, again and again, from a state that it replaces."""
    step = jax.jit(Step((setting.learner,), STEPS, setting.execution), donate_argnums=0)
    states = (create(setting.learner, STEPS, Mesh().build(), 0),)

    def call() -> Any:
        nonlocal states
        states, metrics = step(states, teacher, batch)
        return metrics

    return call


def steps(setting: Setting, rounds: int) -> list[Row | Refused]:
    """The step with its teacher in it, its two halves apart, and the step with what is computed twice."""
    teacher, batch = setting.voice(), setting.batch()
    known = replace(batch, targets=jax.tree.map(lambda x: x[None], ask(teacher, batch)))
    leaner = replace(setting, execution=replace(setting.execution, remat=Inputs()))
    both, tokens, bar = setting.heard + setting.learned, setting.tokens, BARS[setting.name]
    own, alone = setting.learned + setting.spoken, setting.heard - setting.spoken
    found = Contest(part="step", rounds=rounds).rows([
        ({"name": f"{setting.name}, teacher in it", "flops": both, "tokens": tokens, "bar": bar},
         lambda: repeated(setting, teacher, batch)),
        ({"name": f"{setting.name}, teacher's states there", "flops": own, "tokens": tokens},
         lambda: repeated(setting, StoredTeacher(), known)),
        ({"name": f"{setting.name}, teacher alone", "flops": alone, "tokens": tokens},
         lambda: functools.partial(ask, teacher, batch)),
        ({"name": f"{setting.name}, layers computed twice", "flops": both, "tokens": tokens},
         lambda: repeated(leaner, teacher, batch)),
    ])  # fmt: skip
    return found + [overlap(setting.name, found)]


def overlap(name: str, rows: list[Row | Refused]) -> Row | Refused:
    """The step with its teacher in it, of teacher and step one after the other."""
    seconds = {row.name: row.seconds for row in rows if isinstance(row, Row)}
    parts = [f"{name}, {part}" for part in ("teacher in it", "teacher's states there", "teacher alone")]
    if not all(part in seconds for part in parts):
        return Refused("overlap", name, "one of its three was not measured")
    both, step, teacher = (seconds[part] for part in parts)
    told = f"{both / (step + teacher):.3f} of step and teacher one after the other, {both / step:.2f} of the step alone"
    return Row(part="overlap", name=name, seconds=both, note=told)


def parts(setting: Setting, rounds: int) -> list[Row | Refused]:
    """The student's step in pieces, forward and backward, each for all its layers; what is left is the rest."""
    model, execution, tokens = setting.student, setting.execution, setting.tokens
    state = create(setting.learner, STEPS, Mesh().build(), 0)
    batch = jax.tree.map(lambda x: x[0], setting.batch())
    layout = batch.layout()
    sides: list[Side] = [*_attention(setting, layout), _feed(setting, state.weights.model, layout)]
    signal = ask(setting.voice(), setting.batch())
    hidden = jax.random.normal(jax.random.key(1), (setting.rows, setting.length, model.width), execution.dtype)

    @functools.partial(jax.grad, argnums=(0, 1))
    def loss(hidden: jax.Array, head: jax.Array, signal: Any, batch: Batch) -> jax.Array:
        return setting.learner.loss(hidden, head.astype(hidden.dtype), signal, batch.labels, batch.place(), 0.0)[
            0
        ].total

    heads = 3 * 2.0 * tokens * model.width * model.vocab + setting.spoken
    head = state.weights.model.head[...]
    step, params = Step((setting.learner,), STEPS, execution), moving(state)
    one = Tally(jnp.float32(1.0), jnp.float32(1.0))
    slope = Slope(jax.tree.map(jnp.zeros_like, params), {"loss": one}, None, jnp.zeros((0, model.experts)))
    update = jax.jit(lambda state, slope: step.update(setting.learner, state, slope)[0])
    sides += [
        ({"name": "head and loss", "flops": heads},
         lambda: functools.partial(jax.jit(loss), hidden, head, signal, batch)),
        ({"name": "optimizer", "bytes": setting.updated}, lambda: functools.partial(update, state, slope)),
    ]  # fmt: skip
    named = [({**about, "name": f"{setting.name}, {about['name']}"}, make) for about, make in sides]
    return Contest(part="parts", rounds=rounds).rows(named)


Side = tuple[dict[str, Any], Callable[[], Callable[[], Any]]]
"""what a row says, and what makes the call that is timed"""


def _attention(setting: Setting, layout: Layout) -> Iterator[Side]:
    model, see = setting.student, setting.execution.seeing()
    shape, counts = (setting.rows, setting.length), (model.heads, model.kv_heads, model.kv_heads)
    q, k, v = (
        jax.random.normal(key, (*shape, heads, model.head_dim), setting.execution.dtype)
        for key, heads in zip(jax.random.split(jax.random.key(2), 3), counts, strict=True)
    )  # fmt: skip
    for name, rope in (("rotary", True), ("NoPE", False)):
        count = sum(layer.rope == rope for layer in model.pattern) * model.periods
        seen = min(model.chunk, setting.length) if rope else setting.length
        flops = 3 * 4.0 * setting.tokens * model.heads * model.head_dim * (seen + 1) / 2

        def layer(q: jax.Array, k: jax.Array, v: jax.Array, rope: bool = rope) -> jax.Array:
            return jnp.sum(see(q, k, v, layout, model.chunk if rope else None).astype(jnp.float32))

        slopes = jax.grad(layer, argnums=(0, 1, 2))

        def make(slopes: Any = slopes, count: int = count) -> Callable[[], Any]:
            return functools.partial(jax.jit(functools.partial(_times, slopes, count)), q, k, v)

        if count:
            yield {"name": f"attention of {count} {name} layers", "flops": count * flops}, make


def _feed(setting: Setting, model: Any, layout: Layout) -> Side:
    """All layers of experts with their routers, or all feed-forwards: the first of them, as often as there are."""
    config, execution = setting.student, setting.execution
    place = next((i for i, layer in enumerate(config.pattern) if layer.moe), 0)
    count = config.periods * config.moe_per_period or config.layers
    block = jax.tree.map(lambda x: x[0], model.periods.blocks[place])
    x = jax.random.normal(jax.random.key(3), (setting.rows, setting.length, config.width), execution.dtype)
    width = config.expert_width * (1 + config.top_k) if config.moe_per_period else config.dense_width

    def layer(x: jax.Array, block: Any) -> jax.Array:
        y, _ = execution.ready(block).feed(x, layout.valid, None, execution.sending())
        return jnp.sum(y.astype(jnp.float32))

    slopes = jax.grad(layer, argnums=(0, 1))
    flops = 3 * 2.0 * setting.tokens * 3 * config.width * width * count
    kind = "layers of experts" if config.moe_per_period else "feed-forwards"
    make = lambda: functools.partial(jax.jit(functools.partial(_times, slopes, count)), x, block)  # noqa: E731
    return {"name": f"{count} {kind}", "flops": flops}, make


def _times(call: Callable[..., Any], count: int, x: jax.Array, *rest: Any) -> Any:
    """A call `count` times, each on what the one before it gave; all slopes are kept, as those of a stack of layers."""

    def again(x: jax.Array, _: None) -> tuple[jax.Array, Any]:
        first, *others = call(x, *rest)
        return x + 1e-6 * first.astype(x.dtype), others

    return jax.lax.scan(again, x, None, length=count)


def shrunk_teachers(setting: Setting, rounds: int) -> list[Row | Refused]:
    """The teacher's pass with weights in float32, bfloat16, 8 and 4 bits; all but float32 compute in bfloat16."""
    batch = setting.batch()
    ways: dict[str, Hold] = {
        "float32 weights": AsItIs(),
        "bfloat16 weights": Bfloat16(),
        "int8 weights": Rounded(recipe=Recipe(bits=8)),
        "int4 weights": Rounded(recipe=Recipe(bits=4)),
    }
    sides = [
        ({"name": f"{setting.name}, {name}", "flops": setting.heard, "tokens": setting.tokens},
         functools.partial(lambda hold: functools.partial(ask, setting.voice(hold), batch), hold))
        for name, hold in ways.items()
    ]  # fmt: skip
    return Contest(part="teacher", rounds=rounds).rows(sides)
