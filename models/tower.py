"""Vision: what a Llama 4 vision tower is, every size a literal."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Vision:
    """The tower that turns image tiles into embeddings of patch tokens.

    width, layers, heads: of its residual stream. hidden: of its feed-forwards and, as in transformers, the channels
    after pixel shuffle: width / ratio^2. image, patch: sides in pixels of a tile and of the squares it is cut into.
    channels: colours. ratio: pixel shuffle leaves this share of the rows and of the columns. output: width of the
    adapter. rope_theta: of the rotary positions of columns and rows. patch_token: the id that an embedding replaces.
    """

    width: int
    layers: int
    heads: int
    hidden: int
    image: int
    patch: int
    channels: int = 3
    ratio: float = 0.5
    output: int
    rope_theta: float
    patch_token: int

    def __post_init__(self):
        """Refuses sizes that do not fit together."""
        for name in ("width", "layers", "heads", "hidden", "image", "patch", "channels", "output"):
            if vars(self)[name] < 1:
                raise ValueError(f"Vision.{name} is {vars(self)[name]}; every size must be at least 1")
        if self.width % self.heads or self.head_dim % 4:
            raise ValueError(
                f"Vision.width = {self.width} in {self.heads} heads must give each a multiple of 4 channels: "
                f"rotary positions turn pairs, half of them by column and half by row"
            )
        if not 1e-3 < self.ratio <= 1 or abs(1 / self.ratio - self.block) > 1e-6:
            raise ValueError(f"Vision.ratio = {self.ratio} must be 1, 1/2, 1/3, ...: whole squares of patches merge")
        if self.image % (self.patch * self.block):
            raise ValueError(
                f"Vision.image = {self.image} must be a multiple of {self.patch * self.block} pixels: patches of "
                f"{self.patch}, merged {self.block} by {self.block}"
            )
        if self.hidden != self.width * self.block**2:
            raise ValueError(
                f"Vision.hidden = {self.hidden} must be width / ratio^2 = {self.width * self.block**2}: "
                f"transformers has one size for the feed-forwards and the input of the adapter"
            )
        if self.rope_theta <= 1 or self.patch_token < 0:
            raise ValueError(
                f"Vision(rope_theta={self.rope_theta}, patch_token={self.patch_token}) must have rope_theta > 1 and "
                f"patch_token >= 0"
            )

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.width // self.heads

    @property
    def block(self) -> int:
        """Patches along each side of the square that pixel shuffle merges into one."""
        return round(1 / self.ratio)

    @property
    def side(self) -> int:
        """Patches along each side of a tile."""
        return self.image // self.patch

    @property
    def tokens(self) -> int:
        """Patch tokens that a tile takes in the text."""
        return (self.side // self.block) ** 2

    def tiny(self) -> "Vision":
        """The same tiles and patches, seen by two narrow layers."""
        heads = min(self.heads, 2)
        width = heads * min(self.head_dim, 8)
        return replace(
            self, width=width, heads=heads, layers=min(self.layers, 2), hidden=width * self.block**2,
            output=min(self.output, 32),
        )  # fmt: skip


# One tower for the whole family: replace(SCOUT, vision=VISION) is the published multimodal model.
VISION = Vision(
    width=1408, layers=34, heads=16, hidden=5632, image=336, patch=14, output=4096, rope_theta=10000.0,
    patch_token=200092,
)  # fmt: skip
# For the byte tokenizer, whose patch is 268: 16 tokens a tile.
VISION_NANO = Vision(
    width=64, layers=4, heads=4, hidden=256, image=32, patch=4, output=128, rope_theta=10000.0, patch_token=268
)
# 4 tokens a tile.
VISION_PICO = replace(VISION_NANO, width=32, layers=2, hidden=128, image=16, output=64)
