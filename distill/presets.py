"""Presets: meshes by the number of chips, as the full sizes were planned on them (docs/scaling.md)."""

from distill.mesh import Mesh

PRESETS = {
    1: Mesh(),
    8: Mesh(fsdp=8),
    16: Mesh(fsdp=4, expert=4),
    32: Mesh(fsdp=8, expert=4),
    128: Mesh(fsdp=8, expert=16),
    512: Mesh(fsdp=64, expert=8),
}
"""for rows of a few thousand tokens; longer ones want `context`"""


def preset(chips: int) -> Mesh:
    """The mesh that suits a mixture of experts on so many chips.

    Raises:
      ValueError: none is known; names those that are, and how to find one.
    """
    if chips not in PRESETS:
        known = ", ".join(map(str, PRESETS))
        raise ValueError(
            f"no mesh is known for {chips} chips, but for {known}; write one, and ask `python -m distill.plan` whether "
            "it fits (--search looks for the nearest that does)"
        )
    return PRESETS[chips]
