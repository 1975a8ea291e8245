"""Meshes by the number of chips."""

import pytest

from distill.presets import PRESETS, preset


@pytest.mark.parametrize("chips", PRESETS)
def test_a_preset_has_as_many_devices_as_it_says(chips):
    assert preset(chips).size == chips


def test_another_number_is_told_what_is_known():
    with pytest.raises(ValueError, match="no mesh is known for 24 chips, but for 1, 8, 16, 32, 128, 512; write one"):
        preset(24)
