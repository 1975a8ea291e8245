"""Image preprocessing equals that of transformers: every pixel of every tile of 20 odd sizes, at three tile sizes.

    make proofs                        # or, where torch, torchvision and transformers are installed:
    python proofs/images.py            # compares
    python proofs/images.py --write    # and makes tests/data/images.npz anew: what the tests hold a sample of it to

Half a minute.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from peers.vision import load_torchvision

ROOT = Path(__file__).parents[1]
SAMPLE = 300
# Rows and columns: a pixel, a line, narrower and wider than a tile by one, whole tiles, more than the canvas holds.
SIZES = (
    (1, 1), (1, 500), (700, 1), (3, 2), (17, 1000), (336, 336), (337, 336), (335, 337), (672, 336), (671, 1009),
    (1344, 1345), (50, 70), (899, 31), (2000, 1501), (640, 480), (333, 999), (1500, 4000), (5, 4001), (1009, 1007),
    (336, 1680),
)  # fmt: skip
SIDES = (336, 28, 16)


def draw(size: tuple[int, int], seed: int) -> np.ndarray:
    """A random image [y, x, 3] of bytes."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def load_processor(side: int):
    """transformers' processor for tiles of `side` pixels."""
    load_torchvision()
    from transformers.models.llama4 import image_processing_llama4 as llama4

    llama4.find_supported_resolutions.cache_clear()  # it forgets that the tile size is among its arguments
    return llama4.Llama4ImageProcessor(size={"height": side, "width": side})


def sample(tiles: np.ndarray, seed: int) -> np.ndarray:
    """Some of the values of tiles, at places that follow from the seed."""
    return tiles.ravel()[np.random.default_rng([seed, 1]).integers(0, tiles.size, SAMPLE)]


def main() -> None:
    """Compare, say what was seen, fail if anything differs by more than 1e-3."""
    sys.path.insert(0, str(ROOT))
    from models import images

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    recorded = {"sizes": np.array(SIZES), "sides": np.array(SIDES)}
    for side in SIDES:
        processor = load_processor(side)
        worst, canvases, means, samples = 0.0, [], [], []
        for seed, (rows, columns) in enumerate(SIZES):
            size = (rows, columns) if side == 336 else (-(-rows // 12), -(-columns // 12))
            image = draw(size, seed)
            found = processor(image, return_tensors="pt", input_data_format="channels_last")
            wanted, ours = found["pixel_values"].float().numpy(), images.split(image, side)
            assert wanted.shape == ours.tiles.shape, f"{size}: {ours.tiles.shape}, transformers {wanted.shape}"
            assert found["aspect_ratios"][0].tolist() == [ours.rows, ours.columns], f"{size}: another canvas"
            worst = max(worst, float(np.abs(wanted - ours.tiles).max()))
            canvases.append((ours.rows, ours.columns))
            means.append(wanted.mean((0, 2, 3), dtype=np.float64))
            samples.append(sample(wanted, seed))
        print(f"tiles of {side}: {len(SIZES)} images, {sum(r * c for r, c in canvases)} tiles, worst error {worst:.1e}")
        assert worst <= 1e-3
        recorded |= {f"canvases{side}": np.array(canvases), f"means{side}": np.array(means)}
        recorded[f"samples{side}"] = np.array(samples, np.float16)  # they have 8 bits after the leading one
    if write:
        np.savez_compressed(ROOT / "tests" / "data" / "images.npz", **recorded)


if __name__ == "__main__":
    main()
