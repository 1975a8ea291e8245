"""Exchange: expert parallelism. Tokens travel to the devices that hold their experts, and the answers travel back."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from models.capacity import Capacity, Slots, answer, fill, place_in_slots, take_back
from models.dispatch import Dispatch
from models.placement import Placement, along
from models.rounds import Rounds, take_turns


@dataclass(frozen=True)
class Exchange:
    """A dispatch on a mesh, each device answering for the experts that it holds.

    With `Capacity` every device sends a fixed number of places for each expert, and what is beyond is dropped as by
    `Capacity` itself, counted on each device alone. With any other dispatch nothing is dropped: a device has room for
    all tokens that could come, and `dispatch` pays for those that do. With `Rounds` it has room for somewhat more than
    an even share, and what is beyond comes in another round.
    """

    placement: Placement
    dispatch: Dispatch

    def __call__(
        self,
        x: Float[Array, "b t d"],
        ids: Int[Array, "b t r"],
        scores: Float[Array, "b t r"],
        gate_up: Float[Array, "e d 2 f"],
        down: Float[Array, "e f d"],
    ) -> Float[Array, "b t d"]:
        """See Dispatch."""
        place = self.placement
        up, lower = place.spec(("e", "d", "2", "f"), gate_up.shape), place.spec(("e", "f", "d"), down.shape)
        tokens = place.spec(("b", "t"), x.shape[:2])
        there = _There(along(up[0]), along(up[1]), along(lower[2]), along(lower[1]), place.mesh)
        call = jax.shard_map(
            partial(_local, there, self.dispatch),
            mesh=place.mesh,
            in_specs=(tokens, tokens, tokens, up, lower),
            out_specs=tokens,
            check_vma=False,
        )
        return call(x, ids, scores, gate_up, down)


@dataclass(frozen=True)
class _There:
    """Mesh axes along which the experts lie, and along which each is cut."""

    experts: tuple[str, ...]
    up_width: tuple[str, ...]
    down_width: tuple[str, ...]
    hidden: tuple[str, ...]
    mesh: jax.sharding.Mesh

    @property
    def hosts(self) -> int:
        """Devices that the experts are spread over."""
        count = 1
        for axis in self.experts:
            count *= self.mesh.shape[axis]
        return count


def _local(
    there: _There, dispatch: Dispatch, x: Array, ids: Array, scores: Array, gate_up: Array, down: Array
) -> Array:
    flat, ids, scores = (rearrange(each, "b t n -> (b t) n") for each in (x, ids, scores))
    if there.up_width:
        gate_up = jax.lax.all_gather(gate_up, there.up_width, axis=1, tiled=True)
    if there.down_width:
        down = jax.lax.all_gather(down, there.down_width, axis=2, tiled=True)
    if there.hosts == 1:
        y = dispatch(flat, ids, scores, gate_up, down)
    elif isinstance(dispatch, Capacity):
        y = _by_capacity(there, dispatch, flat, ids, scores, gate_up, down)
    elif isinstance(dispatch, Rounds):
        y = _in_rounds(there, dispatch, flat, ids, scores, gate_up, down)
    else:
        y = _dropless(there, dispatch, flat, ids, scores, gate_up, down)
    # Each device has answered with its part of the hidden channels.
    y = jax.lax.psum(y, there.hidden) if there.hidden else y
    return rearrange(y, "(b t) d -> b t d", b=x.shape[0])


def _by_capacity(there: _There, dispatch: Capacity, x, ids, scores, gate_up, down) -> Float[Array, "n d"]:
    experts = gate_up.shape[0] * there.hosts
    slots = place_in_slots(ids, experts, dispatch.room(ids.size, experts))
    sent = rearrange(fill(x, scores, slots), "(h e) c d -> h e c d", h=there.hosts)
    came = jax.lax.all_to_all(sent, there.experts, 0, 0, tiled=True)
    answers = answer(rearrange(came, "h e c d -> e (h c) d"), gate_up, down)
    back = rearrange(answers, "e (h c) d -> h e c d", h=there.hosts)
    found = jax.lax.all_to_all(back, there.experts, 0, 0, tiled=True)
    return take_back(rearrange(found, "h e c d -> (h e) c d"), slots, scores.shape)


def _in_rounds(there: _There, dispatch: Rounds, x, ids, scores, gate_up, down) -> Float[Array, "n d"]:
    """As many exchanges, of a few places for each pair of devices, as the one with the most to send needs."""
    own, choice = gate_up.shape[0], rearrange(ids, "n r -> (n r)")

    def ask(sent: Array, slots: Slots) -> Array:
        expert = jnp.where(slots.filled, jnp.take(choice, slots.choice, mode="clip") % own, own)
        came, asked = (jax.lax.all_to_all(each, there.experts, 0, 0, tiled=True) for each in (sent, expert))
        rows, asked = rearrange(came, "h c d -> (h c) d"), rearrange(asked, "h c -> (h c) 1")
        answers = dispatch(rows, asked, jnp.ones(asked.shape, scores.dtype), gate_up, down)
        back = rearrange(answers, "(h c) d -> h c d", h=there.hosts)
        return jax.lax.all_to_all(back, there.experts, 0, 0, tiled=True)

    room = min(ids.size, Rounds.suited(ids.size, there.hosts).rows)
    agree = lambda longest: jax.lax.pmax(longest, there.experts)  # noqa: E731
    return take_turns(x, ids // own, scores, there.hosts, room, ask, agree)


def _dropless(there: _There, dispatch: Dispatch, x, ids, scores, gate_up, down) -> Float[Array, "n d"]:
    """Every device has as many places for each other one as that has choices: enough, should all go to one."""
    own = gate_up.shape[0]
    # What goes nowhere, one past the last expert, comes out as one past the last device.
    slots = place_in_slots(ids // own, there.hosts, ids.size)
    sent = fill(x, scores, slots)
    expert = jnp.where(slots.filled, jnp.take(rearrange(ids, "n r -> (n r)"), slots.choice, mode="clip") % own, own)
    came, asked = (jax.lax.all_to_all(each, there.experts, 0, 0, tiled=True) for each in (sent, expert))
    rows, asked = rearrange(came, "h c d -> (h c) d"), rearrange(asked, "h c -> (h c) 1")
    answers = dispatch(rows, asked, jnp.ones(asked.shape, scores.dtype), gate_up, down)
    back = rearrange(answers, "(h c) d -> h c d", h=there.hosts)
    return take_back(jax.lax.all_to_all(back, there.experts, 0, 0, tiled=True), slots, scores.shape)
