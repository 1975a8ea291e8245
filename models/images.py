"""Images to tiles: what the vision tower is given, equal to transformers' Llama 4 image processor bit by bit.

Letters: y and x rows and columns of pixels, i tiles.
"""

import io
import math
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float32, Int, Shaped, UInt8

TILES = 16
"""tiles that the canvas of Llama 4 has at most"""
LONGEST = 16384
"""pixels of the longest side that is read"""
LARGEST = 100_000_000
"""pixels of the largest image that is read"""
# Only formats that Pillow decodes by itself: for some it starts other programs (EPS: ghostscript).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


@dataclass(frozen=True)
class Tiled:
    """An image as tiles in reading order; if there are several, the whole image in one more tile comes last.

    tiles: from -1 (black, padding) to 1. rows, columns: tiles of the canvas.
    """

    tiles: Float32[np.ndarray, "i 3 y x"]
    rows: int
    columns: int


def read_image(source: str | Path | bytes) -> UInt8[np.ndarray, "y x 3"]:
    """Red, green and blue of an image file, or of the bytes of one: its first frame, turned as its EXIF tag says.

    Grey and palette images become red, green and blue; an alpha channel is dropped, as transformers does.

    Raises:
      ValueError: not an image that can be read, damaged, larger than LARGEST or LONGEST, or of more than 8 bits.
    """
    from PIL import Image, ImageOps

    name = f"an image of {len(source)} bytes" if isinstance(source, bytes) else f"image {source}"
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise ValueError(f"{name}: there is no such file")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            size, mode = image.size, image.mode
            if _fits(size) and not mode.startswith(("I", "F")):
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise ValueError(f"{name} cannot be read ({error}); it must be a whole {', '.join(FORMATS)} file") from error
    if not _fits(size):
        raise ValueError(
            f"{name} is {size[0]} x {size[1]} pixels; at most {LONGEST} a side and {LARGEST} in all are read: shrink it"
        )
    raise ValueError(f'{name} has more than 8 bits a channel (mode "{mode}"); convert it to 8 bits')


def _fits(size: tuple[int, int]) -> bool:
    return max(size) <= LONGEST and math.prod(size) <= LARGEST


def split(image: Shaped[np.ndarray, "..."], side: int, most: int = TILES) -> Tiled:
    """An image (bytes [y, x, 3]) on its canvas of at most `most` tiles of `side` x `side` pixels.

    It is shrunk as little as the canvas asks, grown only to fill a tile, and padded with black on the right and below.

    Raises:
      ValueError: the array is not an image of 8-bit red, green and blue, or is empty; side or most are less than 1.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"an image must be a uint8 array [rows, columns, 3], not {image.dtype} {list(image.shape)}; "
            f"models.images.read_image makes one of a file"
        )
    if side < 1 or most < 1:
        raise ValueError(f"tiles of {side} pixels, at most {most}: both must be at least 1")
    size = image.shape[:2]
    rows, columns = canvas(size, side, most)
    filled = np.zeros((rows * side, columns * side, 3), np.uint8)
    height, width = fitted(size, (rows * side, columns * side), side)
    filled[:height, :width] = resize(image, height, width)
    tiles = rearrange(filled, "(r y) (k x) c -> (r k) c y x", r=rows, k=columns)
    if len(tiles) > 1:
        whole = rearrange(resize(image, side, side), "y x c -> 1 c y x")
        tiles = np.concatenate((tiles, whole))
    return Tiled(_LEVELS[tiles], rows, columns)


def canvas(size: tuple[int, int], side: int, most: int = TILES) -> tuple[int, int]:
    """Rows and columns of the canvas for an image of (rows, columns) pixels.

    The one that grows it least; where every canvas shrinks it, the one that shrinks it least; of equals the smallest.
    """
    shapes = np.array([(r, k) for r in range(1, most + 1) for k in range(1, most // r + 1)])
    # In float32, as the reference: it decides what is equal.
    scales = ((shapes * side).astype(np.float32) / np.array(size, np.float32)).min(1)
    chosen = scales[scales >= 1].min() if (scales >= 1).any() else scales.max()
    equals = shapes[scales == chosen]
    rows, columns = equals[equals.prod(1).argmin()].tolist()
    return rows, columns


def fitted(size: tuple[int, int], room: tuple[int, int], side: int) -> tuple[int, int]:
    """Rows and columns of pixels that an image of `size` takes on a canvas of `room` pixels, its proportions kept."""
    height, width = (min(max(old, side), most) for old, most in zip(size, room, strict=True))
    down, across = height / size[0], width / size[1]
    if across < down:
        return max(min(math.floor(size[0] * across), height), 1), width
    return height, max(min(math.floor(size[1] * down), width), 1)


def resize(image: UInt8[np.ndarray, "y x c"], height: int, width: int) -> UInt8[np.ndarray, "y2 x2 c"]:
    """Bilinear with antialiasing in the integers of torch's kernel for bytes: columns first, then rows.

    torch takes that kernel on processors with AVX2, AVX-512 or NEON; on others it differs by a level here and there.
    """
    return _resize(_resize(image, width, 1), height, 0)


def _resize(image: UInt8[np.ndarray, "y x c"], new: int, axis: int) -> UInt8[np.ndarray, "y2 x2 c"]:
    if image.shape[axis] == new:
        return image
    index, weight, bits = _taps(image.shape[axis], new)
    total = np.full((*image.shape[:axis], new, *image.shape[axis + 1 :]), 1 << (bits - 1), np.int32)
    for tap in range(index.shape[1]):
        factor = np.expand_dims(weight[:, tap], tuple(other for other in range(3) if other != axis))
        total += image.take(index[:, tap], axis) * factor
    return np.clip(total >> bits, 0, 255).astype(np.uint8)


def _taps(old: int, new: int) -> tuple[Int[np.ndarray, "n taps"], Int[np.ndarray, "n taps"], int]:
    """Which old pixels make each new one, their weights as integers, and the bits after the point of those."""
    scale = old / new
    reach = max(scale, 1.0)
    middle = scale * (np.arange(new) + 0.5)
    first = np.maximum((middle - reach + 0.5).astype(int), 0)
    after = np.minimum((middle + reach + 0.5).astype(int), old)
    index = first[:, None] + np.arange((after - first).max())
    weight = np.maximum(1 - np.abs((index - middle[:, None] + 0.5) * (1 / reach)), 0)
    weight = np.where(index < after[:, None], weight, 0)
    weight /= weight.cumsum(1)[:, -1:]  # cumsum adds one after the other, as the kernel does; sum would not
    bits = 0
    while bits < 22 and int(0.5 + weight.max() * 2 ** (bits + 1)) < 2**15:  # weights are 16 bits wide
        bits += 1
    return np.minimum(index, old - 1), (weight * 2**bits + 0.5).astype(np.int32), bits


def _levels() -> Float32[np.ndarray, "256"]:
    """What each of the 256 levels becomes: (level / 255 - mean) / std, with mean and std 0.5, in bfloat16 throughout.

    The model was trained on these: they are up to 0.004 from the exact quotients.
    """
    level = (np.arange(256, dtype=np.float32) * np.float32(1 / 255)).astype(jnp.bfloat16)
    half = np.float32(0.5).astype(jnp.bfloat16)
    return ((level - half) / half).astype(np.float32)


_LEVELS = _levels()
