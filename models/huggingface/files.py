"""The files of a checkpoint, distrusted: safetensors headers and the index of shards, checked whole before any data.

A safetensors file is eight bytes with the length of a JSON header, the header, and the bytes of the tensors side by
side. Nothing is mapped into memory: mapped pages would count as ours, and a file that is cut short while it is read
would end the process instead of raising. Nothing is unpickled, ever.
"""

import json
import math
import os
import stat
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MOST_HEADER = 2**22
"""bytes of a header, an index or a config; the largest published one is a tenth of it"""
MOST_AXES = 8
DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}
"""what weights can be stored as, by the names of safetensors"""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor in a file: what its header says, checked; nothing is read yet. start: byte of the file."""

    name: str
    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, first: int, last: int) -> Shaped[np.ndarray, "..."]:
        """Rows first..last of the leading axis, read from the disk.

        Raises:
            ValueError: the file is shorter than when it was opened.
        """
        row = self.bytes // self.shape[0]
        out = np.empty((last - first, *self.shape[1:]), self.dtype)
        left, place = out.view(np.uint8).data.cast("B"), 0
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.start + first * row)
            while place < len(left):
                got = file.readinto(left[place : place + 2**30])
                if not got:
                    raise ValueError(f"{self.path} was cut short while {self.name} was read; download it again")
                place += got
        return out


def open_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint folder by name, from the headers of its files.

    Raises:
        ValueError: there are no weights, a shard is missing or damaged, or the index and the shards disagree.
    """
    if not (folder / INDEX).exists():
        if not (folder / SINGLE).exists():
            raise ValueError(_without_weights(folder))
        return read_header(regular(folder, SINGLE))
    if (folder / SINGLE).exists():
        raise ValueError(f"{folder} has both {SINGLE} and {INDEX}; delete the one that is not meant")
    shards = read_index(folder / INDEX)
    found: dict[str, Tensor] = {}
    for shard in sorted(set(shards.values())):
        for name, tensor in read_header(regular(folder, shard)).items():
            if name in found:
                raise ValueError(f"{folder} has {name} twice, in {found[name].path.name} and in {shard}; keep one")
            found[name] = tensor
    for name, shard in shards.items():
        if name not in found:
            raise ValueError(f"{INDEX} says that {name} is in {shard}, which does not have it; download both again")
        if found[name].path.name != shard:
            raise ValueError(f"{INDEX} says that {name} is in {shard}, but it is in {found[name].path.name}; mend it")
    return found


def read_index(path: Path) -> dict[str, str]:
    """The shard of every tensor, as the index says.

    Raises:
        ValueError: it is not an index, or names something that is not a file beside it.
    """
    shards = read_json(path).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{path} has no weight_map; it must say which shard each tensor is in")
    for name, shard in shards.items():
        _check_name(path, name)
        named = isinstance(shard, str) and Path(shard).name == shard != ".." and shard.isprintable()
        named = named and len(shard) < 256
        if not named or "\\" in shard:
            raise ValueError(f"{path} places {name} in {show(shard)}; it must be the name of a file beside it")
        if not shard.endswith(".safetensors"):
            raise ValueError(f"{path} places {name} in {shard!r}; only .safetensors files are read, never pickles")
    return shards


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, from its header alone.

    Raises:
        ValueError: it is no safetensors file, or a damaged one.
    """
    whole = path.stat().st_size
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if whole < 8 or size > whole - 8:
            raise ValueError(
                f"{path} is {whole} bytes and its header claims {size}; it is cut short or no safetensors file: "
                f"download it again"
            )
        if size > MOST_HEADER:
            raise ValueError(f"{path} has a header of {size} bytes; {MOST_HEADER} are the most that is read")
        header = _parse(file.read(size), path)
    header.pop("__metadata__", None)
    found = {name: _describe(path, name, entry, 8 + size) for name, entry in header.items()}
    end = 8 + size
    for tensor in sorted(found.values(), key=lambda one: (one.start, one.bytes)):
        if tensor.start != end:
            raise ValueError(
                f"{path} has {tensor.name} at byte {tensor.start} where byte {end} is due: tensors must lie side by "
                f"side, without gap or overlap; write the file again"
            )
        end += tensor.bytes
    if end != whole:
        raise ValueError(f"{path} is {whole} bytes, but its tensors end at byte {end}; download it again")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a checkpoint that holds an object.

    Raises:
        ValueError: it is missing, too large, or not that.
    """
    path = regular(path.parent, path.name)
    if path.stat().st_size > MOST_HEADER:
        raise ValueError(f"{path} is {path.stat().st_size} bytes; {MOST_HEADER} are the most that is read")
    return _parse(path.read_bytes(), path)


def check_names(complaint: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses what has other names than are wanted, and says which."""
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unknown:
        raise ValueError(f"{complaint}: {len(missing)} missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}")


def show(value: Any) -> str:
    """A value out of a file, short enough to print."""
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    """A JSON object that says nothing twice and has no number that is not one."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"it has {twice[:200]!r} twice")
        return found

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} does not hold proper JSON ({error}); download it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a JSON {type(found).__name__} where an object is due; download it again")
    return found


def _describe(path: Path, name: str, entry: Any, origin: int) -> Tensor:
    """One entry of a header, checked by itself."""
    _check_name(path, name)
    known = isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}
    if not known or not _whole(entry["shape"], range(MOST_AXES + 1)) or not _whole(entry["data_offsets"], (2,)):
        raise ValueError(
            f"{path} describes {name} as {show(entry)}; it must have dtype, shape and data_offsets, the last "
            f"two in whole numbers"
        )
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise ValueError(
            f"{path} stores {name} as {show(entry['dtype'])}; only {', '.join(DTYPES)} are read: of a quantised "
            f"checkpoint, take the original"
        )
    dtype, (first, last) = DTYPES[entry["dtype"]], entry["data_offsets"]
    if last - first != math.prod(entry["shape"]) * dtype.itemsize:
        raise ValueError(
            f"{path} gives {name} the bytes {first} to {last}, but {entry['dtype']}{entry['shape']} takes "
            f"{math.prod(entry['shape']) * dtype.itemsize}; write the file again"
        )
    return Tensor(name=name, path=path, dtype=dtype, shape=tuple(entry["shape"]), start=origin + first)


def _whole(found: Any, lengths: Container[int]) -> bool:
    """Whether it is a list of such a length of whole numbers from 0, of a size that a file can have."""
    return isinstance(found, list) and len(found) in lengths and all(type(x) is int and 0 <= x < 2**62 for x in found)


def _check_name(path: Path, name: str) -> None:
    """Names are printed, so they must be such as can be."""
    if len(name) > 256 or not name.isprintable():
        raise ValueError(f"{path} names a tensor {show(name)}; a name must be printable and of at most 256 letters")


def regular(folder: Path, name: str) -> Path:
    """A file of the folder, or of the cache that the folder is a snapshot in; a link to anywhere else is refused."""
    path = folder / name
    if not path.exists():
        raise ValueError(f"{folder} lacks {name}; download the whole checkpoint")
    home = folder.resolve()
    # The cache of huggingface_hub: snapshots/<commit>/<name> is a link to blobs/<hash>.
    cache = [home.parent.parent / "blobs"] if home.parent.name == "snapshots" else []
    if path.resolve().parent not in (home, *cache):
        raise ValueError(f"{path} is a link to {path.resolve()}, outside its folder; put the file itself there")
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path} is not a regular file; put the checkpoint's file there")
    return path


def _without_weights(folder: Path) -> str:
    if any(folder.glob("consolidated*.pth")) or (folder / "params.json").exists():
        return (
            f"{folder} is in Meta's own layout, whose weights are pickles, which are never read; convert it with "
            f"transformers' convert_llama4_weights_to_hf, or download the Hugging Face layout"
        )
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        return (
            f"{folder} has its weights as pickles, which are never read; load them with transformers and write them "
            f"again with save_pretrained(..., safe_serialization=True)"
        )
    return f"{folder} lacks {SINGLE} and {INDEX}; download the whole checkpoint"
