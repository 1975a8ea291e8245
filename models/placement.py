"""Placement: where the arrays of a model lie on a mesh, in the letters of its legend; no mesh axis is named here.

Dense products are left to the partitioner, which has nothing to choose: weights are gathered where they are read, and
the stream stays where its rows and columns are. What tokens do to each other (experts, attention) is a `shard_map`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.experimental.layout import Format, Layout
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as Spec
from jaxtyping import Array, Float, Int

T = TypeVar("T")


@dataclass(frozen=True)
class Placement:
    """A mesh and the rules by which letters lie along its axes.

    rules: mesh axes of each letter. A dimension is cut over as many of them, from the left, as are not taken by a
        dimension before it and divide it.
    stored: letters along which weights are cut to be kept, and gathered to be read; the others stay cut in products.
    """

    mesh: jax.sharding.Mesh
    rules: tuple[tuple[str, tuple[str, ...]], ...]
    stored: tuple[str, ...]

    @property
    def platform(self) -> str:
        """What the devices are: "cpu", "gpu" or "tpu"."""
        return self.mesh.devices.flat[0].platform

    def axes(self, letter: str) -> tuple[str, ...]:
        """Mesh axes of a letter, those of one device left out."""
        return tuple(axis for axis in dict(self.rules).get(letter, ()) if self.mesh.shape[axis] > 1)

    def parts(self, letter: str) -> int:
        """How many parts a dimension of this letter is cut into, where it divides."""
        return self._product(self.axes(letter))

    def spec(self, letters: tuple[str, ...], shape: tuple[int, ...], without: tuple[str, ...] = ()) -> Spec:
        """How an array lies whose trailing dimensions carry these letters; those in `without` are not cut."""
        spec: list[tuple[str, ...] | None] = [None] * len(shape)
        taken: set[str] = set()
        for place, letter in enumerate(letters, start=len(shape) - len(letters)):
            cut: tuple[str, ...] = ()
            least = self._tile if letter in self.stored else 1
            for axis in () if letter in without else self.axes(letter):
                if axis not in taken and shape[place] % (self._product((*cut, axis)) * least) == 0:
                    cut = (*cut, axis)
            taken |= set(cut)
            spec[place] = cut or None
        return Spec(*spec)

    def sharding(self, letters: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding:
        """The same as a sharding."""
        return NamedSharding(self.mesh, self.spec(letters, shape))

    def format(self, letters: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding | Format:
        """The same and, on a TPU, the order in which numbers lie.

        There gate and up of a feed-forward lie one after the other: side by side they were copied before they were
        read, which took as much memory again as the weights.
        """
        place = self.sharding(letters, shape)
        if self.platform != "tpu" or "2" not in letters:
            return place
        order, pair = list(range(len(shape))), len(shape) - len(letters) + letters.index("2")
        order[pair - 1], order[pair] = order[pair], order[pair - 1]
        return Format(Layout(tuple(order)), place)

    def shardings(self, tree: Any) -> Any:
        """How the arrays of a tree lie, abstract or not: parameters by their letters, all else whole everywhere."""
        return self._by_letters(self.sharding, tree)

    def formats(self, tree: Any) -> Any:
        """The same as `format` says."""
        return self._by_letters(self.format, tree)

    def _by_letters(self, place: Callable[..., Any], tree: Any) -> Any:
        def one(leaf: object) -> Any:
            if isinstance(leaf, nnx.Variable):
                axes = tuple(leaf.get_metadata().get("axes", ()))
                return jax.tree.map(lambda array: place(axes, array.shape), leaf)
            return NamedSharding(self.mesh, Spec())

        return jax.tree.map(one, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))

    def hold(self, x: Array, letters: tuple[str, ...]) -> Array:
        """Keeps an array, and its gradient, where its letters say."""
        return jax.lax.with_sharding_constraint(x, self.sharding(letters, x.shape))

    def gather(self, module: T) -> T:
        """A module with its weights as products read them; their gradients come back cut as the weights are kept.

        Experts are left as they are: whoever sends tokens to them gathers them.
        """

        def one(param: nnx.Param) -> nnx.Variable:
            if "e" in param.axes or not any(letter in self.stored for letter in param.axes):
                return param
            value = param[...]
            kept = NamedSharding(self.mesh, self.spec(param.axes, value.shape))
            read = NamedSharding(self.mesh, self.spec(param.axes, value.shape, self.stored))
            return param.replace(_gather(kept, read, value))

        return jax.tree.map(one, module, is_leaf=lambda leaf: isinstance(leaf, nnx.Param))

    def split(self, function: Callable[..., Any], operands: tuple[Any, ...], letters: tuple[Any, ...], out: Any) -> Any:
        """What `function` makes of its part of the operands, on every device; letters of operands and result as trees.

        A letter's axes are left out where a dimension does not divide, for all operands alike.
        """
        sizes: dict[str, int] = {}
        for tree, names in zip(operands, letters, strict=True):
            for leaf in jax.tree.leaves(tree):
                sizes |= dict(zip(names or (), leaf.shape, strict=False))
        fixed = {letter: self.spec((letter,), (size,))[0] for letter, size in sizes.items()}
        specs = tuple(Spec(*[fixed[letter] for letter in names or ()]) for names in letters)
        outs = jax.tree.map(
            lambda names: Spec(*[fixed.get(letter) for letter in names or ()]), out, is_leaf=_is_letters
        )
        return jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=outs, check_vma=False)(*operands)

    def look_up(self, table: Float[Array, "v d"], ids: Int[Array, "b t"], dtype: str) -> Float[Array, "b t d"]:
        """Rows of a table that is cut along d: ids travel, then the slices of the rows that were found.

        Of one that is cut along v, as those who decode have it, every device gives the rows that it has. Neither the
        table nor its gradient is ever whole on a device.
        """
        words, width = (along(cut) for cut in self.spec(("v", "d"), table.shape))
        rows, columns = (self.spec(("b", "t"), ids.shape)[n] for n in (0, 1))
        if words:
            return self._look_up_words(words, table, ids, dtype)
        if not width:
            return self.hold(table[ids].astype(dtype), ("b", "t", "d"))

        def find(table: Array, ids: Array) -> Array:
            every = jax.lax.all_gather(ids, width)
            # In float32 until they are found: so the gradient of a row adds up in float32.
            found = table[every].astype(dtype)
            own = jax.lax.all_to_all(found, width, 0, 0, tiled=True)
            return rearrange(own, "n b t d -> b t (n d)")

        specs = Spec(None, width), Spec(rows, columns)
        call = jax.shard_map(find, mesh=self.mesh, in_specs=specs, out_specs=Spec(rows, columns), check_vma=False)
        return call(table, ids)

    def _look_up_words(self, words: tuple[str, ...], table: Array, ids: Array, dtype: str) -> Array:
        def find(table: Array, ids: Array) -> Array:
            own = ids - jax.lax.axis_index(words) * table.shape[0]
            here = (own >= 0) & (own < table.shape[0])
            found = jnp.take(table, own, axis=0, mode="clip").astype(dtype)
            return jax.lax.psum(jnp.where(here[..., None], found, 0), words)

        rows = Spec(*self.spec(("b", "t"), ids.shape))
        call = jax.shard_map(find, mesh=self.mesh, in_specs=(Spec(words), rows), out_specs=rows, check_vma=False)
        return call(table, ids)

    @property
    def _tile(self) -> int:
        """Rows of which parts of a weight are whole numbers: a TPU gathers thinner ones by adding them up."""
        return 8 if self.platform == "tpu" else 1

    def _product(self, axes: tuple[str, ...]) -> int:
        size = 1
        for axis in axes:
            size *= self.mesh.shape[axis]
        return size


def _is_letters(one: Any) -> bool:
    return one is None or isinstance(one, tuple) and all(isinstance(letter, str) for letter in one)


def along(entry: Any) -> tuple[str, ...]:
    """Mesh axes of a dimension, of which a spec names one as it is, several as a tuple, none as None."""
    return entry if isinstance(entry, tuple) else () if entry is None else (entry,)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gather(kept: NamedSharding, read: NamedSharding, weight: Array) -> Array:
    return jax.lax.with_sharding_constraint(jax.lax.with_sharding_constraint(weight, kept), read)


def _gather_forward(kept: NamedSharding, read: NamedSharding, weight: Array) -> tuple[Array, None]:
    return _gather(kept, read, weight), None


def _gather_backward(kept: NamedSharding, read: NamedSharding, _: None, slope: Array) -> tuple[Array]:
    return (jax.lax.with_sharding_constraint(slope, kept),)


_gather.defvjp(_gather_forward, _gather_backward)
