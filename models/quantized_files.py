"""A quantised model on disk: quantized.json, and safetensors files of one array each, with two int4 in a byte.

    quantized.json      the model's config, the recipe, and for every array its dtype, shape and files with sha256
    00000.safetensors   one array, or where layers are stacked its part in one repetition of the pattern

A router's selection bias is no weight of the model and is not kept: a model trained with one loses it here.
Nothing is unpickled; a file is read when its sha256 is right, and into a shape that the config and the recipe give.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import Sharding, SingleDeviceSharding
from jaxtyping import PyTree

from models.config import Config
from models.disk import check_free, new_folder, write_json
from models.huggingface.config_in import parse_config
from models.huggingface.config_out import Ids, compose_config
from models.huggingface.files import check_names, read_json, show
from models.llama4 import Llama4
from models.quantize import Recipe, quantize

INDEX = "quantized.json"
FORMAT = "herd quantized 1"
FLOATS = ("float32", "bfloat16", "float16")
STORED = {"bfloat16": "uint16"}
"""where it is not itself: safetensors for numpy reads no bfloat16"""


def save(folder: str | Path, model: Llama4, recipe: Recipe) -> None:
    """Writes a model that `quantize` made by this recipe; the host holds one file's array at a time.

    Raises:
        ValueError: there is something at `folder`, or the model is not what the recipe makes.
    """
    folder = Path(folder)
    check_free(folder)
    found, wanted = _named(model), _named(_abstract(model.config, recipe))
    for name, leaf in wanted.items():
        own = found.get(name)
        if own is None or own.shape != leaf.shape or not _same_kind(own.dtype.name, leaf.dtype.name):
            raise ValueError(f"{name} is not what {recipe} makes; save a model with the recipe that quantised it")
    with new_folder(folder) as beside:
        arrays, number = {}, 0
        for name, leaf in found.items():
            files = []
            for part in leaf if _stacked(name) else [leaf]:
                files.append(_write(beside / f"{number:05}.safetensors", np.asarray(part)))
                number += 1
            arrays[name] = {"dtype": leaf.dtype.name, "shape": leaf.shape, "files": files}
        about = {"format": FORMAT, "config": compose_config(model.config, "bfloat16", Ids())}
        about |= {"pattern": len(model.config.pattern), "recipe": asdict(recipe), "arrays": arrays}
        write_json(beside / INDEX, about)


def load(folder: str | Path, shardings: Callable[[Any], PyTree[Sharding]] | None = None) -> Llama4:
    """Reads what `save` wrote, bit for bit, file by file into place.

    Args:
        folder: with its quantized.json.
        shardings: from the abstract model to a tree of shardings like it; None puts all on one device.

    Raises:
        ValueError: a file is missing, damaged or not of this format, or the arrays are not those of config and recipe.
    """
    folder = Path(folder)
    about = read_json(folder / INDEX)
    if about.get("format") != FORMAT:
        raise ValueError(f"{folder / INDEX} is of format {show(about.get('format'))}; this version reads {FORMAT!r}")
    try:
        config = parse_config(about["config"])
        layers = config.pattern * config.periods
        config = replace(config, pattern=layers[: about["pattern"]])
        empty = _abstract(config, Recipe(**about["recipe"]))
        kinds = {name: str(entry["dtype"]) for name, entry in about["arrays"].items()}
        files = {name: [(str(one["name"]), str(one["sha256"])) for one in entry["files"]]
                 for name, entry in about["arrays"].items()}  # fmt: skip
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / INDEX} is damaged ({error!r}); copy the folder again") from error
    _match(folder, _named(empty), kinds, files)
    places = jax.tree.map(lambda _: SingleDeviceSharding(jax.local_devices()[0]), empty)
    places = _named(places if shardings is None else shardings(empty))
    leaves = []
    for name, leaf in _named(empty).items():
        kind = np.dtype(kinds[name])
        if _stacked(name):
            whole = jax.jit(partial(jnp.zeros, leaf.shape, kind), out_shardings=places[name])()
            for at, file in enumerate(files[name]):
                whole = _inserter(places[name])(whole, _read(folder, *file, kind, leaf.shape[1:]), at)
        else:
            whole = jax.device_put(_read(folder, *files[name][0], kind, leaf.shape), places[name])
        leaves.append(jax.block_until_ready(whole))
    return jax.tree.unflatten(jax.tree.structure(empty), leaves)


def pack(values: np.ndarray) -> np.ndarray:
    """Two int4 in a byte, the first in its low half; the last byte of an odd number of them is half empty."""
    halves = rearrange(values, "... -> (...)").view(np.uint8) & 0xF
    halves = np.pad(halves, (0, halves.size % 2))
    return halves[::2] | halves[1::2] << 4


def unpack(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Inverse of `pack`."""
    halves = rearrange([packed & 0xF, packed >> 4], "two n -> (n two)")[: math.prod(shape)]
    signed = (halves.astype(np.int8) ^ 8) - 8
    return np.ndarray(shape, jnp.int4, signed.data)


def _abstract(config: Config, recipe: Recipe) -> Llama4:
    return jax.eval_shape(lambda: quantize(Llama4(config, jax.random.key(0)), recipe))


def _named(tree: PyTree) -> dict[str, Any]:
    """Leaves by dotted name: `head.values`, `norm.scale`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda one: isinstance(one, Sharding))[0]
    # nnx keeps what a parameter holds under `value`.
    keys = [jax.tree_util.keystr(path, simple=True, separator=".") + "." for path, _ in leaves]
    return {key.replace(".value.", ".").rstrip("."): leaf for key, (_, leaf) in zip(keys, leaves, strict=True)}


def _stacked(name: str) -> bool:
    return name.startswith("periods.")


def _same_kind(one: str, other: str) -> bool:
    return one == other or (one in FLOATS and other in FLOATS)


def _match(
    folder: Path, wanted: Mapping[str, Any], kinds: Mapping[str, str], files: Mapping[str, list[tuple[str, str]]]
) -> None:
    check_names(f"The arrays of {folder} are not those of its config and recipe", kinds, wanted)
    for name, leaf in wanted.items():
        if not _same_kind(kinds[name], leaf.dtype.name):
            raise ValueError(f"{folder} has {name} in {show(kinds[name])}; by its recipe it must be {leaf.dtype.name}")
        count = leaf.shape[0] if _stacked(name) else 1
        if len(files[name]) != count:
            raise ValueError(f"{folder} has {name} in {len(files[name])} files; it must be {count}")
        for file, _ in files[name]:
            path = folder / file
            if Path(file).name != file or not path.is_file() or path.is_symlink():
                raise ValueError(f"{folder} has no file {show(file)}, where {name} is; copy the folder again")


def _write(path: Path, array: np.ndarray) -> dict[str, str]:
    """Writes one array; its name and sha256."""
    from safetensors.numpy import save_file

    whole = np.ascontiguousarray(array)
    save_file(
        {"array": pack(whole) if array.dtype == jnp.int4 else whole.view(STORED.get(array.dtype.name, array.dtype))},
        path,
    )
    return {"name": path.name, "sha256": _digest(path)}


def _read(folder: Path, name: str, sha256: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    from safetensors.numpy import load_file

    path = folder / name
    if _digest(path) != sha256:
        raise ValueError(f"{path} is damaged: its sha256 is not the one in {INDEX}; copy it again")
    array, size = load_file(path).get("array"), math.prod(shape)
    stored = ((-(-size // 2),), "uint8") if dtype == jnp.int4 else (shape, STORED.get(dtype.name, dtype.name))
    if array is None or (array.shape, array.dtype.name) != stored:
        raise ValueError(
            f"{path} does not hold {dtype.name}{list(shape)}, as the config and the recipe say; copy it again"
        )
    return unpack(array, shape) if dtype == jnp.int4 else array.view(dtype)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _inserter(sharding: Sharding) -> Callable[..., Any]:
    """Writes one repetition's part into a stacked array, in place."""
    insert = partial(jax.lax.dynamic_update_index_in_dim, axis=0)
    return jax.jit(insert, donate_argnums=0, out_shardings=sharding)
