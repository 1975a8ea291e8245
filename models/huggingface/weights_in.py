"""Weights in: tensor by tensor from the disk into arrays that are already where, and in the dtype, they will stay."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial, reduce
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jaxtyping import Array, PyTree, Shaped

from models.config import Config
from models.huggingface.config_in import read_config
from models.huggingface.files import Tensor, check_names, open_tensors
from models.huggingface.names import LANGUAGE, Place, parameter_name, places
from models.llama4 import Llama4

PIECE = 2**24
"""bytes read from the disk at once, or one row of a tensor's leading axis where that is more"""
LOADED = ("float32", "bfloat16", "float16")

Progress = Callable[[int, int], None]
"""told after every tensor: bytes of the checkpoint read, and bytes to read"""


@dataclass(frozen=True)
class Source:
    """A tensor on disk and its place in a parameter of ours."""

    tensor: Tensor
    place: Place


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose every header has been read and held against its configuration; no weights yet."""

    folder: Path
    config: Config
    sources: Mapping[str, Source]
    """by the name of the tensor; without those of a vision tower that is left out"""

    @property
    def bytes(self) -> int:
        """Size of the weights on disk."""
        return sum(source.tensor.bytes for source in self.sources.values())


def load(
    folder: str | Path,
    dtype: str | None = "float32",
    shardings: Callable[[Any], PyTree[Sharding]] | None = None,
    text_only: bool = False,
    progress: Progress | None = None,
) -> Llama4:
    """Reads a checkpoint folder: config.json, and model.safetensors or its shards with their index.

    Beside the finished arrays the host holds a few pieces, of 16 MiB or one row of a tensor's leading axis (an expert)
    where that is more. Of several processes each reads every piece and keeps its own part.

    Args:
        folder: as `save_pretrained` of a `Llama4ForCausalLM` or `Llama4ForConditionalGeneration` writes it.
        dtype: of the parameters, float32, bfloat16 or float16; None keeps what is stored, and makes float32 of a
            parameter that is stored in both of the others.
        shardings: from the abstract model to a tree of shardings like it; None puts all on one device.
        text_only: leave out the vision tower of a multimodal checkpoint.
        progress: told how far it is.

    Raises:
        ValueError: the configuration is one this model cannot follow, a file is missing or damaged, tensors are missing
            or unknown or of another shape than the configuration says: all before memory is spent. Or, while reading,
            a weight is NaN or infinite, or too large for the dtype.
    """
    if dtype is not None and dtype not in LOADED:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(LOADED)}, or None for what is stored")
    checkpoint = open_checkpoint(folder, text_only)
    parts: dict[str, list[Source]] = {}
    for source in checkpoint.sources.values():
        parts.setdefault(source.place.parameter, []).append(source)
    empty = jax.eval_shape(lambda: Llama4(checkpoint.config, jax.random.key(0)))
    targets, structure = jax.tree_util.tree_flatten_with_path(empty)
    everywhere = _everywhere(empty, shardings)
    done, leaves = 0, []
    for (path, leaf), sharding in zip(targets, everywhere, strict=True):
        sources = parts.pop(parameter_name(path))
        kind = np.dtype(dtype or reduce(jnp.promote_types, [source.tensor.dtype for source in sources]))
        array = None
        for source in sources:
            array = _put(array, leaf.shape, kind, sharding, source)
            done += source.tensor.bytes
            if progress is not None:
                progress(done, checkpoint.bytes)
        leaves.append(array)
    assert not parts, f"no parameter takes {sorted(parts)}"
    return jax.tree.unflatten(structure, leaves)


def open_checkpoint(folder: str | Path, text_only: bool = False) -> Checkpoint:
    """Reads the configuration and all headers and holds them against each other.

    Raises:
        ValueError: as `load`, for all but the weights themselves.
    """
    folder = Path(folder)
    whole = read_config(folder)
    config = replace(whole, vision=None) if text_only else whole
    tensors, wanted = open_tensors(folder), places(whole)
    _match(folder, tensors, wanted)
    sources = {}
    for place in places(config).values():
        name = place.tensor if config == whole else LANGUAGE + place.tensor
        sources[name] = Source(tensors[name], place)
    return Checkpoint(folder, config, sources)


def _match(folder: Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, Place]) -> None:
    check_names(f"The tensors of {folder} are not those of its config.json", tensors, wanted)
    for name, place in wanted.items():
        if tensors[name].shape != place.shape:
            raise ValueError(f"{name} is of shape {tensors[name].shape}; by config.json it must be {place.shape}")


def _everywhere(empty: Any, shardings: Callable[[Any], PyTree[Sharding]] | None) -> Sequence[Sharding]:
    """A sharding for every leaf."""
    if shardings is None:
        return [SingleDeviceSharding(jax.local_devices()[0])] * len(jax.tree.leaves(empty))
    return jax.tree.leaves(shardings(empty), is_leaf=lambda one: isinstance(one, Sharding))


def _put(array: Array | None, shape: tuple[int, ...], dtype: np.dtype, sharding: Sharding, source: Source) -> Array:
    """The parameter with one more of its tensors in it: a new array for the first, and then always that one."""
    for start, piece in pieces(source, dtype):
        place = _narrowed(sharding, piece.shape, shape)
        part = jax.make_array_from_callback(piece.shape, place, lambda index, piece=piece: piece[index])
        if piece.shape == shape:
            return part
        whole = jax.jit(partial(jnp.zeros, shape, dtype), out_shardings=sharding)() if array is None else array
        # Wait: the next piece must not be read while this one is still on the host.
        array = jax.block_until_ready(_inserter(sharding)(whole, part, np.asarray(start, np.int32)))
        del part, piece
    assert array is not None
    return array


@cache
def _inserter(sharding: Sharding) -> Callable[[Array, Array, np.ndarray], Array]:
    """Writes a part into an array, in place."""

    def insert(array: Array, part: Array, start: Array) -> Array:
        return jax.lax.dynamic_update_slice(array, part, tuple(start))

    return jax.jit(insert, donate_argnums=0, out_shardings=sharding)


def _narrowed(sharding: Sharding, piece: tuple[int, ...], shape: tuple[int, ...]) -> Sharding:
    """The sharding of a piece of a parameter: as the parameter's, but whole along the axes where it is thinner."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    names = (*sharding.spec, *[None] * (len(shape) - len(sharding.spec)))
    kept = [name if size == all_of_it else None for name, size, all_of_it in zip(names, piece, shape, strict=True)]
    return NamedSharding(sharding.mesh, PartitionSpec(*kept))


def pieces(source: Source, dtype: np.dtype) -> Iterator[tuple[list[int], Shaped[np.ndarray, "..."]]]:
    """A tensor in our layout and dtype, some of its rows at a time, each with where in the parameter it begins.

    Raises:
        ValueError: a weight is NaN or infinite, or too large for the dtype.
    """
    tensor, place = source.tensor, source.place
    size = place.sizes[place.lead]
    rows, step = tensor.shape[0] // size, max(1, PIECE * size // tensor.bytes)
    for first in range(0, size, step):
        last = min(first + step, size)
        raw = tensor.rows(first * rows, last * rows)
        laid = rearrange(raw, place.pattern, **{**place.sizes, place.lead: last - first})
        with np.errstate(over="ignore", invalid="ignore"):
            piece = np.ascontiguousarray(laid, dtype)
        if not np.isfinite(piece).all():
            _refuse(tensor, raw, dtype)
        start = list(place.start)
        start[place.axis] += first
        yield start, piece[(None,) * (len(place.block) - piece.ndim)]


def _refuse(tensor: Tensor, raw: Shaped[np.ndarray, "..."], dtype: np.dtype) -> None:
    """Says why a weight is not finite."""
    if np.isfinite(raw).all():
        raise ValueError(f"{tensor.name} has weights too large for {dtype.name}; load it in bfloat16 or float32")
    raise ValueError(f"{tensor.name} in {tensor.path} has weights that are NaN or infinite; download it again")
