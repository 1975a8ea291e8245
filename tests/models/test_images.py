import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import images

# Of transformers' processor, by proofs/images.py, which compares every pixel.
EXPECTED = np.load(Path(__file__).parents[1] / "data" / "images.npz")


def drawn(size, seed):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def file(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("side", EXPECTED["sides"].tolist())
def test_tiles_are_those_of_transformers_on_20_odd_sizes(side):
    for seed, (rows, columns) in enumerate(EXPECTED["sizes"].tolist()):
        size = (rows, columns) if side == 336 else (-(-rows // 12), -(-columns // 12))
        found = images.split(drawn(size, seed), side)
        assert [found.rows, found.columns] == EXPECTED[f"canvases{side}"][seed].tolist(), size
        count = found.rows * found.columns
        assert found.tiles.shape == (count + (count > 1), 3, side, side)
        places = np.random.default_rng([seed, 1]).integers(0, found.tiles.size, 300)
        np.testing.assert_allclose(found.tiles.ravel()[places], EXPECTED[f"samples{side}"][seed], atol=1e-3)
        means = found.tiles.mean((0, 2, 3), dtype=np.float64)
        np.testing.assert_allclose(means, EXPECTED[f"means{side}"][seed], atol=1e-9)


def test_an_image_of_the_size_of_a_tile_is_that_tile():
    image = drawn((16, 16), 0)
    found = images.split(image, 16)
    assert found.tiles.shape == (1, 3, 16, 16)
    assert np.abs(found.tiles[0].transpose(1, 2, 0) - (image / 127.5 - 1)).max() < 0.004  # bfloat16


def test_black_is_minus_one_and_white_is_one():
    image = np.stack([np.zeros((4, 4), np.uint8)] * 2 + [np.full((4, 4), 255, np.uint8)], -1)
    assert images.split(image, 4).tiles.mean((0, 2, 3)).tolist() == [-1, -1, 1]


def test_tiles_are_in_reading_order_and_the_whole_image_is_last():
    image = np.zeros((8, 12, 3), np.uint8)
    for row in range(2):
        for column in range(3):
            image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 40 * (3 * row + column)
    found = images.split(image, 4)
    assert (found.rows, found.columns) == (2, 3)
    assert (np.diff(found.tiles[:6].mean((1, 2, 3))) > 0).all()
    assert found.tiles[6].mean() == pytest.approx(found.tiles[:6].mean(), abs=0.01)


def test_a_small_image_is_grown_to_one_tile_and_padded_below():
    found = images.split(np.full((2, 4, 3), 255, np.uint8), 8)
    assert (found.rows, found.columns) == (1, 1)
    assert (found.tiles[0, 0, :4] == 1).all() and (found.tiles[0, 0, 4:] == -1).all()


@pytest.mark.parametrize(("size", "most", "canvas"), [
    ((10, 10), 16, (1, 1)), ((11, 10), 16, (2, 1)), ((1000, 1000), 16, (4, 4)), ((10, 1000), 16, (1, 16)),
    ((30, 20), 16, (3, 2)), ((30, 20), 4, (2, 2)), ((1000, 10), 5, (5, 1)),
])  # fmt: skip
def test_the_canvas_shrinks_an_image_least(size, most, canvas):
    assert images.canvas(size, 10, most) == canvas


def test_an_even_image_stays_even_when_resized():
    assert (images.resize(np.full((37, 53, 3), 77, np.uint8), 16, 101) == 77).all()


def test_a_resize_to_half_averages_with_the_weights_of_a_triangle():
    line = np.array([0, 0, 80, 160, 0, 0, 0, 0], np.uint8)[None, :, None]
    # new pixel 1 covers old 1..4 with weights 1/8, 3/8, 3/8, 1/8
    assert images.resize(line, 1, 4)[0, 1, 0] == (3 * 80 + 3 * 160) // 8


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("P", "GIF"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("1", "BMP")]
)
def test_files_of_other_colours_become_red_green_and_blue(mode, kind):
    found = images.read_image(file(Image.new(mode, (5, 3), 0), kind))
    assert found.shape == (3, 5, 3) and found.dtype == np.uint8


def test_a_lossless_file_comes_back_as_it_was(tmp_path):
    image = drawn((3, 5), 0)
    (tmp_path / "a.png").write_bytes(file(Image.fromarray(image)))
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png"), image)


def test_an_image_is_turned_as_its_exif_tag_says():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert images.read_image(file(Image.new("RGB", (5, 3)), "JPEG", exif=exif)).shape == (5, 3, 3)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"image .*none\.png: there is no such file"):
        images.read_image(tmp_path / "none.png")


WHOLE = file(Image.fromarray(drawn((40, 40), 0)))


@pytest.mark.parametrize("data", [b"", b"not an image", WHOLE[:40], WHOLE[:-2000], WHOLE[:60] + b"\xff" * 4000])
def test_a_damaged_file_is_refused(data):
    with pytest.raises(ValueError, match=r"cannot be read .* it must be a whole BMP, .* file"):
        images.read_image(data)


def test_any_change_of_a_file_is_read_or_refused():
    chance = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        whole = bytearray(file(Image.fromarray(drawn((9, 7), 0)), kind))
        for _ in range(30):
            damaged = whole.copy()
            for place in chance.integers(0, len(whole), 4):
                damaged[place] = chance.integers(256)
            try:
                assert images.read_image(bytes(damaged)).dtype == np.uint8
            except ValueError as error:
                assert "image" in str(error)


@pytest.mark.parametrize("kind", ["EPS", "PCX", "PDF"])
def test_formats_for_which_pillow_might_start_other_programs_are_not_opened(kind):
    with pytest.raises(ValueError, match=r"cannot be read \(cannot identify image file"):
        images.read_image(file(Image.new("RGB", (5, 3)), kind))


def test_a_decompression_bomb_is_refused_before_it_unfolds(monkeypatch):
    monkeypatch.setattr(images, "LARGEST", 100)
    with pytest.raises(ValueError, match=r"is 11 x 10 pixels; at most 16384 a side and 100 in all are read: shrink it"):
        images.read_image(file(Image.new("RGB", (11, 10))))


def test_what_pillow_itself_takes_for_a_bomb_is_refused():
    bomb = file(Image.new("1", (20000, 20000)))
    assert len(bomb) < 100_000
    with pytest.raises(ValueError, match=r"400000000 pixels|20000 x 20000 pixels"):
        images.read_image(bomb)


def test_a_line_longer_than_any_screen_is_refused():
    with pytest.raises(ValueError, match="is 65536 x 1 pixels"):
        images.read_image(file(Image.new("L", (65536, 1))))


def test_an_image_of_16_bits_is_refused():
    with pytest.raises(ValueError, match="more than 8 bits a channel"):
        images.read_image(file(Image.fromarray(np.full((4, 4), 1000, np.uint16))))


@pytest.mark.parametrize(("shape", "dtype"), [
    ((4, 4), np.uint8), ((4, 4, 4), np.uint8), ((4, 4, 3), np.float32), ((0, 4, 3), np.uint8), ((3, 4, 4), np.uint8),
])  # fmt: skip
def test_an_array_that_is_no_image_is_refused(shape, dtype):
    with pytest.raises(ValueError, match=r"must be a uint8 array \[rows, columns, 3\], not "):
        images.split(np.zeros(shape, dtype), 4)


@pytest.mark.parametrize(("side", "most"), [(0, 16), (4, 0)])
def test_a_tile_without_pixels_and_a_canvas_without_tiles_are_refused(side, most):
    with pytest.raises(ValueError, match=r"tiles of .* pixels, at most .*: both must be at least 1"):
        images.split(drawn((4, 4), 0), side, most)
