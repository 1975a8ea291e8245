"""Weights out: a folder that transformers and vLLM read, written beside its place and renamed when it is whole."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from models.config import Config
from models.disk import check_free, new_folder, write_json
from models.huggingface.config_out import Ids, compose_config, compose_generation
from models.huggingface.files import DTYPES, INDEX, SINGLE
from models.huggingface.names import Place, parameter_name, places
from models.huggingface.weights_in import PIECE, Progress
from models.llama4 import Llama4
from models.served import write_processor
from models.tokenizer import Tokenizer

NAMES = {dtype.name: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Item:
    """One tensor to write: its place, the parameter it is in, and the dtype it gets."""

    place: Place
    leaf: Array
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return int(np.prod(self.place.shape)) * self.dtype.itemsize


def save(
    folder: str | Path,
    model: Llama4,
    tokenizer: Tokenizer | None = None,
    *,
    ids: Ids | None = None,
    copied: Iterable[Path] = (),
    generation: Mapping[str, Any] | None = None,
    bias: Float[Array, "p m e"] | None = None,
    shard_bytes: float = 5e9,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes config.json, the weights with their index (one file when they fit), generation_config.json, a tokenizer.

    The host holds a piece at a time, of 16 MiB or one expert where that is more. Nothing has the name `folder` until
    all of it is on the disk.

    Args:
        folder: must not exist.
        model: with parameters in float32, bfloat16 or float16.
        tokenizer: writes its own files; its special tokens go into the configuration.
        ids: the special tokens where there is no tokenizer.
        copied: files that are put beside the weights as they are, such as those of another checkpoint's tokenizer.
        generation: what another checkpoint's generation_config.json says, such as how to sample.
        bias: the selection bias of the routers, if they were trained with one.
        shard_bytes: the most that one file holds, unless a tensor is larger.
        dtype: of what is written; None keeps that of the parameters.
        progress: told how far it is, in bytes.

    Raises:
        ValueError: there is something at `folder`, the tokenizer is another model's, the bias is not zero, a weight is
            not finite or does not fit the dtype, or the parameters are quantised or lie with other processes.
    """
    folder = Path(folder)
    items = _items(model, dtype)
    check_free(folder)
    _check_bias(bias)
    if tokenizer is not None:
        _check_tokenizer(model.config, tokenizer)
    ids = Ids.of(tokenizer) if tokenizer is not None else ids or Ids()
    with new_folder(folder) as beside:
        _write_weights(beside, items, shard_bytes, progress)
        main = max({item.dtype for item in items}, key=lambda one: sum(i.bytes for i in items if i.dtype == one))
        write_json(beside / "config.json", compose_config(model.config, main.name, ids))
        write_json(beside / "generation_config.json", compose_generation(model.config, ids, generation or {}))
        if tokenizer is not None:
            _write_readers(beside, tokenizer, model)
        for path in copied:
            shutil.copyfile(path, beside / path.name)


def _check_bias(bias: Float[Array, "p m e"] | None) -> None:
    if bias is not None and bool(np.any(np.asarray(bias) != 0)):
        raise ValueError(
            "the routers have a selection bias that is not zero, and a Llama 4 checkpoint has no place for it; train "
            "on with bias_rate=0 and without it, or balance by the loss alone"
        )


def _check_tokenizer(config: Config, tokenizer: Tokenizer) -> None:
    if tokenizer.vocab != config.vocab:
        raise ValueError(
            f"the tokenizer has a vocabulary of {tokenizer.vocab}, the model of {config.vocab}; save it with the "
            f"tokenizer that it was trained with"
        )
    if config.vision is not None and config.vision.patch_token != tokenizer.special("patch"):
        raise ValueError(
            f"the tokenizer's patch is {tokenizer.special('patch')}, the model's {config.vision.patch_token}; save it "
            f"with the tokenizer that it was trained with"
        )


def _write_readers(folder: Path, tokenizer: Tokenizer, model: Llama4) -> None:
    """What makes tokens of text, and tiles of images."""
    tokenizer.save(folder)
    if model.config.vision is not None:
        write_processor(folder, model.config.vision)


def _items(model: Llama4, dtype: str | None) -> list[Item]:
    """Every tensor in order."""
    if dtype is not None and dtype not in NAMES:
        raise ValueError(
            f"dtype is {dtype!r}; it must be one of {', '.join(NAMES)}, or None for that of the parameters"
        )
    leaves = {parameter_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(model)[0]}
    found = []
    for place in places(model.config).values():
        leaf = leaves.get(place.parameter)
        if leaf is None or leaf.dtype.name not in NAMES:
            what = "not there" if leaf is None else leaf.dtype.name
            raise ValueError(
                f"the parameter {place.parameter} is {what}; it must be float32, bfloat16 or float16: quantised models "
                f"are not written, save the model they were made from"
            )
        if not leaf.is_fully_addressable:
            raise ValueError(
                f"the parameter {place.parameter} lies with other processes too; save from a run with one process, "
                f"which can read the same checkpoint"
            )
        found.append(Item(place, leaf, np.dtype(dtype or leaf.dtype)))
    return found


def _write_weights(folder: Path, items: Sequence[Item], shard_bytes: float, progress: Progress | None) -> None:
    shards = _shards(items, shard_bytes)
    total, done = sum(item.bytes for item in items), 0
    index = {}
    for number, shard in enumerate(shards, start=1):
        name = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        with open(folder / name, "wb") as file:
            file.write(_header(shard))
            for item in shard:
                for piece in _pieces(item):
                    _write_all(file, piece)
                index[item.place.tensor] = name
                done += item.bytes
                if progress is not None:
                    progress(done, total)
    if len(shards) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": index})


def _shards(items: Sequence[Item], most: float) -> list[list[Item]]:
    """Cut in order, each as full as it gets."""
    shards: list[list[Item]] = [[]]
    full = 0
    for item in items:
        if shards[-1] and full + item.bytes > most:
            shards.append([])
            full = 0
        shards[-1].append(item)
        full += item.bytes
    return shards


def _header(items: Sequence[Item]) -> bytes:
    """What stands before the tensors: its own length in 8 bytes, then JSON, filled up so that they are aligned."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for item in items:
        offsets = [end, end + item.bytes]
        header[item.place.tensor] = {
            "dtype": NAMES[item.dtype.name],
            "shape": list(item.place.shape),
            "data_offsets": offsets,
        }
        end = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _pieces(item: Item) -> Iterator[np.ndarray]:
    """A tensor in the checkpoint's layout, some of its rows at a time."""
    place = item.place
    size = place.sizes[place.lead]
    step = max(1, PIECE * size // item.bytes)
    for first in range(0, size, step):
        start, shape = list(place.start), list(place.block)
        start[place.axis], shape[place.axis] = start[place.axis] + first, min(step, size - first)
        piece = np.asarray(_cutter(tuple(shape))(item.leaf, np.asarray(start, np.int32)))
        layers = (0,) * (piece.ndim - place.axes)
        laid = rearrange(piece[layers], place.back, **{**place.sizes, place.lead: shape[place.axis]})
        with np.errstate(over="ignore", invalid="ignore"):
            out = np.ascontiguousarray(laid, item.dtype)
        if not np.isfinite(out).all():
            raise ValueError(
                f"{place.tensor} would have weights that are NaN, infinite or too large for {item.dtype.name}; train "
                f"again from the last good checkpoint, or write another dtype"
            )
        yield out


@cache
def _cutter(shape: tuple[int, ...]) -> Callable[[Array, np.ndarray], Array]:
    """Cuts a piece of this shape out of a parameter, where the parameter is."""
    return jax.jit(lambda leaf, start: jax.lax.dynamic_slice(leaf, tuple(start), shape))


def _write_all(file: BinaryIO, piece: np.ndarray) -> None:
    file.write(piece.view(np.uint8).data)
