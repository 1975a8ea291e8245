"""Sampler: completions of prompts, in a fixed number of slots that refill while the others decode."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from models.cache import Cache, extend
from models.execution import Execution
from models.llama4 import Llama4
from models.ready import Weights, make_ready
from models.request import Completion, Request, stack_images
from models.sampling import Sampling
from models.slots import Slots


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Draws completions. Tokens and log-probabilities are a function of weights, prompt, sample and seed alone.

    They do not depend, in any bit, on the slot, on what the other slots do or on the order of the requests: each token
    has a random number of its own, and no row's arithmetic mixes with another's. Other slots, piece or capacity are
    other shapes, whose products may round differently.

    slots: completions under way at once. capacity: tokens of prompt and completion together, for which there is room.
    piece: prompts are read so many tokens at a time, filled up; about the usual length of a prompt.
    stride: tokens that are drawn before the host looks again; it looks earlier where enough slots are free to refill.
    stop: tokens that end a completion. seed: of all chance. routes: say which experts every token was sent to.
    execution: as for the model, which is made ready for it first (see `make_ready`). Without a dispatch it takes one
        that gives each token its own arithmetic, whoever else goes to its expert. With a placement it draws on a mesh:
        weights lie by its rules (`distill.mesh.resting`), and each device has its rows of the slots, and its heads.
    """

    slots: int = 32
    capacity: int = 512
    piece: int = 32
    stride: int = 32
    sampling: Sampling = Sampling()
    stop: tuple[int, ...] = ()
    seed: int = 0
    routes: bool = False
    execution: Execution = Execution()

    def __post_init__(self):
        """Refuses sizes of nothing."""
        for name in ("slots", "capacity", "piece", "stride"):
            if vars(self)[name] < 1:
                raise ValueError(f"Sampler.{name} is {vars(self)[name]}; it must be at least 1")

    @property
    def refill(self) -> int:
        """Slots that are refilled together: a divisor of all, an eighth of them or less."""
        return max(n for n in range(1, max(1, self.slots // 8) + 1) if self.slots % n == 0)

    def __call__(
        self, model: Llama4, requests: Iterable[Request], bias: Float[Array, "p m e"] | None = None
    ) -> Iterator[Completion]:
        """Completions as they end; requests are taken as slots become free. `bias` is as for the model.

        Raises:
            ValueError: a request does not fit (see `Request.check`), or the capacity is beyond max_positions.
        """
        said: dict[int, list[tuple[np.ndarray, ...]]] = {}
        for slot, request, drawn, done in self._run(model, requests, bias):
            said.setdefault(slot, []).append(drawn)
            if done:
                tokens, logprobs, routes = map(np.concatenate, zip(*said.pop(slot), strict=True))
                yield Completion(
                    prompt=request.prompt, sample=request.sample, tokens=tokens, logprobs=logprobs,
                    stopped=int(tokens[-1]) in self.stop, routes=routes if self.routes else None,
                )  # fmt: skip

    def stream(self, model: Llama4, request: Request, bias: Float[Array, "p m e"] | None = None) -> Iterator[int]:
        """The tokens of one completion, `stride` at a time, for someone who reads along: with one slot it goes fastest.

        Raises:
            ValueError: as when it is called.
        """
        for _, _, (tokens, *_), _ in self._run(model, [request], bias):
            yield from map(int, tokens)

    def _run(
        self, model: Llama4, requests: Iterable[Request], bias: Float[Array, "p m e"] | None
    ) -> Iterator[tuple[int, Request, tuple[np.ndarray, ...], bool]]:
        """What each slot drew since the host last looked: slot, request, what it drew, and if it ended.

        Drawn are tokens, log-probabilities, and routes: of the tokens, at first those of the prompt before them.
        """
        config, waiting, more = model.config, iter(requests), True
        weights = make_ready(model, bias, self.execution)
        state = _start(weights[0].config, self.slots, self.capacity, self.execution.dtype, self.execution.placement)
        held: dict[int, Request] = {}
        before: dict[int, np.ndarray] = {}
        while True:
            while more and self.slots - len(held) >= self.refill:
                group = list(islice(waiting, self.refill))
                more = len(group) == self.refill
                for request in group:
                    request.check(config, self.capacity)
                free = [slot for slot in range(self.slots) if slot not in held][: len(group)]
                held |= dict(zip(free, group, strict=True))
                if group:
                    state, routes = self._admit(weights, state, free, group)
                    before |= {slot: each[: len(held[slot].tokens)] for slot, each in zip(free, routes, strict=False)}
            if not held:
                return
            state, drawn = _decode(replace(self, seed=0), weights, state, self.slots - self.refill if more else 0)
            tokens, logprobs, routes, there, alive = jax.device_get(drawn)
            for slot in list(held):
                own, done = there[:, slot], not alive[slot]
                led = [before.pop(slot)] if slot in before else []
                said = tokens[own, slot], logprobs[own, slot], np.concatenate([*led, routes[own, slot]])
                yield slot, held[slot], said, done
                if done:
                    del held[slot]

    def _admit(
        self, weights: Weights, state: Slots, free: list[int], group: list[Request]
    ) -> tuple[Slots, Int[np.ndarray, "b n l r"]]:
        """Puts up to `refill` requests into free slots; the rows of this batch that have none go nowhere.

        Returns the slots, and where the tokens of the prompts went.
        """
        tokens = np.zeros((self.refill, -(-self.capacity // self.piece) * self.piece), np.int32)
        numbers = np.zeros((5, self.refill), np.int32)
        numbers[0] = self.slots
        for row, (slot, request) in enumerate(zip(free, group, strict=True)):
            tokens[row, : len(request.tokens)] = request.tokens
            numbers[:, row] = slot, len(request.tokens), request.prompt, request.sample, request.limit
        images = stack_images(group, self.refill)
        # Another seed is another number, not another program.
        key = jax.random.key(self.seed)
        state, routes = _read(replace(self, seed=0), weights, state, tokens, numbers, images, key)
        return state, np.asarray(routes)

    def kept(self, model: Llama4) -> tuple[int, int]:
        """MoE layers of which routes are kept, and experts of a token in each."""
        config = model.config
        return config.periods * config.moe_per_period if self.routes else 0, config.top_k


_start = jax.jit(Slots.create, static_argnums=(0, 1, 2, 3, 4))


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _read(
    sampler: Sampler,
    weights: Weights,
    state: Slots,
    tokens: Int[Array, "b n"],
    numbers: Int[Array, "5 b"],
    images: Float[Array, "b i c y x"] | None,
    key: PRNGKeyArray,
) -> tuple[Slots, Int[Array, "b n l r"]]:
    """Reads prompts, piece by piece, and puts them into slots; numbers are slot, length, prompt, sample and limit.

    Returns the slots, and where the tokens went; of no layer, if nobody asks.
    """
    (model, bias), (slots, lengths, prompts, samples, limits) = weights, numbers
    rows, n = tokens.shape
    execution = sampler.execution.steady(model.config, rows * sampler.piece)
    cache = Cache.create(model.config, rows, sampler.capacity, execution.dtype)
    whole = None
    if images is not None:
        # By itself, as a tile among others could round otherwise. An image may lie across pieces: all is read at once.
        tiles = rearrange(images, "b i c y x -> (b i) 1 1 c y x")
        features = lax.map(lambda tile: model.look(tile, execution), tiles)
        features = rearrange(features, "(b i) 1 k d -> b (i k) d", b=rows)
        whole = model.read(tokens, cache.place(lengths, n), execution, features)

    def cut(array: Array, i: Array) -> Array:
        return lax.dynamic_slice_in_dim(array, i * sampler.piece, sampler.piece, axis=1)

    def read(i: Array, carry: tuple[Cache, Array, Array]) -> tuple[Cache, Array, Array]:
        cache, last, routes = carry
        counts = jnp.clip(lengths - i * sampler.piece, 0, sampler.piece)
        layout = cache.place(counts, sampler.piece)
        x = model.read(cut(tokens, i), layout, execution) if whole is None else cut(whole, i)
        hidden, cache, _, went = extend(model, x, layout, cache, bias, execution)
        routes = lax.dynamic_update_slice_in_dim(routes, went[:, :, : routes.shape[2]], i * sampler.piece, axis=1)
        end = jnp.take_along_axis(hidden, jnp.maximum(counts - 1, 0)[:, None, None], axis=1)[:, 0]
        return cache, jnp.where(counts[:, None] > 0, end, last), routes

    pieces = (jnp.max(lengths) + sampler.piece - 1) // sampler.piece
    last = jnp.zeros((rows, model.config.width), execution.dtype)
    nowhere = jnp.zeros((rows, n, *sampler.kept(model)), jnp.int32)
    cache, last, routes = lax.fori_loop(0, pieces, read, (cache, last, nowhere))
    chance = jax.vmap(partial(jax.random.fold_in, key))(prompts)
    new = Slots(
        cache=cache,
        keys=jax.vmap(jax.random.fold_in)(chance, samples),
        logits=_score(model, last[:, None], execution),
        drawn=jnp.zeros_like(limits),
        limits=limits,
        alive=limits > 0,
    )
    return state.put(new, slots, execution.placement), routes


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _decode(
    sampler: Sampler, weights: Weights, state: Slots, enough: Int[Array, ""]
) -> tuple[
    Slots, tuple[Int[Array, "t b"], Float[Array, "t b"], Int[Array, "t b l r"], Bool[Array, "t b"], Bool[Array, " b"]]
]:
    """Draws a token in every slot alive, up to `stride` times, as long as more than `enough` slots are alive.

    Returns tokens, log-probabilities, routes, which of them are there, and which slots go on. The last token of a
    completion is not read, and goes nowhere: -1.
    """
    (model, bias), stop = weights, jnp.asarray(sampler.stop, jnp.int32)
    execution = sampler.execution.steady(model.config, sampler.slots)
    # A patch that was drawn would be read as part of an image by whoever reads the row again.
    patch = None if model.config.vision is None else model.config.vision.patch_token
    shape = (sampler.stride, sampler.slots)
    kept = sampler.kept(model)
    routes = jnp.zeros((*shape, *kept), jnp.int32)
    out = jnp.zeros(shape, jnp.int32), jnp.zeros(shape), routes, jnp.zeros(shape, bool)

    def go_on(carry: tuple[Array, Slots, tuple[Array, ...]]) -> Array:
        return (carry[0] < sampler.stride) & (jnp.sum(carry[1].alive) > enough)

    def step(carry: tuple[Array, Slots, tuple[Array, ...]]) -> tuple[Array, Slots, tuple[Array, ...]]:
        i, state, out = carry
        uniform = jax.vmap(lambda key, n: jax.random.uniform(jax.random.fold_in(key, n)))(state.keys, state.drawn)
        tokens, logprobs = sampler.sampling.draw(execution.placement, state.logits, uniform, patch)
        stopped = jnp.any(tokens[:, None] == stop, axis=-1)
        alive = state.alive & ~stopped & (state.drawn + 1 < state.limits)
        layout = state.cache.place(alive.astype(jnp.int32), 1)
        x = model.read(rearrange(tokens, "b -> b 1"), layout, execution)
        hidden, cache, _, went = extend(model, x, layout, state.cache, bias, execution)
        went = jnp.where(alive[:, None, None], went[:, 0, : kept[0]], -1)
        new = tokens, logprobs, went, state.alive
        out = tuple(old.at[i].set(each) for old, each in zip(out, new, strict=True))
        logits = _score(model, hidden, execution)
        new = replace(state, cache=cache, logits=logits, drawn=state.drawn + 1, alive=alive)
        return i + 1, new.hold(execution.placement), out

    _, state, out = lax.while_loop(go_on, step, (jnp.int32(0), state, out))
    tokens, logprobs, routes, there = out
    return state, (tokens, logprobs, routes, there, state.alive)


def _score(model: Llama4, hidden: Float[Array, "b 1 d"], execution: Execution) -> Float[Array, "b v"]:
    """Logits of the next token; on a mesh each device has those of its part of the vocabulary first."""
    logits, place = model.logits(hidden), execution.placement
    return (logits if place is None else place.hold(logits, ("b", "t", "v")))[:, 0]
