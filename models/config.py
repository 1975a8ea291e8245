"""Config: what a Llama 4 is, every size a literal: a smaller one is a literal too, not a formula."""

from dataclasses import dataclass, replace

from models.tower import Vision


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One entry of the layer pattern.

    rope: rotary positions with chunked attention; otherwise no positions (NoPE) with attention to the whole document.
    moe: shared expert and routed experts; otherwise one dense feed-forward.
    """

    rope: bool
    moe: bool


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3 rotary scaling: wavelengths longer than original / low tokens are stretched by factor.

    Those shorter than original / high stay as they are, the ones between are blended; low == high blends none.
    """

    factor: float
    low: float
    high: float
    original: int

    def __post_init__(self):
        """Refuses a scaling that shrinks, and bands that overlap."""
        if self.factor < 1 or self.original < 1:
            raise ValueError(
                f"RopeScaling(factor={self.factor}, original={self.original}) must have factor >= 1 and original >= 1"
            )
        if not 0 < self.low <= self.high:
            raise ValueError(f"RopeScaling(low={self.low}, high={self.high}) must have 0 < low <= high; swap them?")


@dataclass(frozen=True, kw_only=True)
class Tempering:
    """Attention temperature of NoPE layers: queries at position p times 1 + scale * ln(1 + (p + 1) // floor).

    It keeps attention over long documents sharp (Llama 4; Nakanishi 2025, arXiv:2501.19399).
    """

    floor: int
    scale: float

    def __post_init__(self):
        """Refuses a floor that cannot divide."""
        if self.floor < 1:
            raise ValueError(f"Tempering(floor={self.floor}) must be at least 1 token")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A Llama 4: its text decoder and, where it sees, its vision tower.

    vocab: rows of the embedding. width: of the residual stream. heads share kv_heads keys and values in equal groups.
    expert_width: hidden width of each routed expert and of the shared one. dense_width: of layers without experts.
    experts, top_k: routed experts of a MoE layer, and how many of them a token goes to.
    pattern: repeats until `layers` are there. chunk: tokens of one attention chunk on rotary layers.
    qk_norm: weightless RMS norm of queries and keys, on rotary layers. eps: of every RMS norm.
    max_positions: the longest row the model takes. vision: None reads text alone.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    expert_width: int
    dense_width: int
    experts: int
    top_k: int
    pattern: tuple[Layer, ...]
    chunk: int
    rope_theta: float
    rope_scaling: RopeScaling | None
    qk_norm: bool
    tempering: Tempering | None
    eps: float
    max_positions: int
    vision: Vision | None = None

    def __post_init__(self):
        """Refuses sizes that do not fit together."""
        for name in ("vocab", "width", "layers", "heads", "kv_heads", "head_dim", "expert_width", "dense_width",
                     "experts", "top_k", "chunk", "max_positions"):  # fmt: skip
            if vars(self)[name] < 1:
                raise ValueError(f"Config.{name} is {vars(self)[name]}; every size must be at least 1")
        if not self.pattern or self.layers % len(self.pattern):
            raise ValueError(
                f"Config.layers = {self.layers} is not a whole number of patterns of {len(self.pattern)} layers; "
                f"change layers, or write the pattern out"
            )
        if self.heads % self.kv_heads:
            raise ValueError(
                f"Config.heads = {self.heads} cannot share kv_heads = {self.kv_heads} equally; "
                f"heads must be a multiple of kv_heads"
            )
        if self.head_dim % 2:
            raise ValueError(f"Config.head_dim = {self.head_dim} must be even: rotary positions turn pairs of channels")
        if self.top_k > self.experts:
            raise ValueError(f"Config.top_k = {self.top_k} is more than experts = {self.experts}; lower top_k")
        if self.rope_theta <= 1 or self.eps <= 0:
            raise ValueError(
                f"Config(rope_theta={self.rope_theta}, eps={self.eps}) must have rope_theta > 1 and eps > 0"
            )
        if self.vision is not None and self.vision.patch_token >= self.vocab:
            raise ValueError(
                f"Vision.patch_token = {self.vision.patch_token} is outside the vocabulary of {self.vocab}; "
                f"it must be the id that the tokenizer gives to a patch"
            )

    @property
    def periods(self) -> int:
        """How many times the pattern repeats."""
        return self.layers // len(self.pattern)

    @property
    def moe_per_period(self) -> int:
        """MoE layers in one pattern."""
        return sum(layer.moe for layer in self.pattern)


def tiny(config: Config) -> Config:
    """The same kinds of layer at a size that trains in seconds: one pattern, few narrow experts, short chunks."""
    kv_heads = min(config.kv_heads, 2)
    return replace(
        config, width=min(config.width, 32), layers=len(config.pattern), kv_heads=kv_heads,
        heads=kv_heads * min(config.heads // config.kv_heads, 2), head_dim=min(config.head_dim, 8),
        expert_width=min(config.expert_width, 32), dense_width=min(config.dense_width, 64),
        experts=min(config.experts, max(4, config.top_k)), chunk=min(config.chunk, 16),
        max_positions=min(config.max_positions, 512), vision=None if config.vision is None else config.vision.tiny(),
    )  # fmt: skip


def interleave(*, nope: int, moe: int) -> tuple[Layer, ...]:
    """The shortest pattern in which every nope-th layer is NoPE and every moe-th has experts.

    Llama 4 is (nope=4, moe=1) or, for Maverick, (nope=4, moe=2).
    """
    layers = [Layer(rope=bool(i % nope), moe=i % moe == 0) for i in range(1, nope * moe + 1)]
    return shortest(tuple(layers))


def shortest(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The shortest pattern which, repeated a whole number of times, gives these layers."""
    for size in range(1, len(layers) + 1):
        if len(layers) % size == 0 and layers == layers[:size] * (len(layers) // size):
            return layers[:size]
    return layers


EVERY_LAYER_MOE = interleave(nope=4, moe=1)
EVERY_SECOND_MOE = interleave(nope=4, moe=2)

# Published sizes. The base models' context; the instruct models' (10M, 1M) is a replace(..., max_positions=...) away.
SCOUT = Config(
    vocab=202048, width=5120, layers=48, heads=40, kv_heads=8, head_dim=128, expert_width=8192, dense_width=16384,
    experts=16, top_k=1, pattern=EVERY_LAYER_MOE, chunk=8192, rope_theta=500000.0,
    rope_scaling=RopeScaling(factor=16.0, low=1.0, high=1.0, original=8192), qk_norm=True,
    tempering=Tempering(floor=8192, scale=0.1), eps=1e-5, max_positions=262144,
)  # fmt: skip
MAVERICK = replace(SCOUT, experts=128, pattern=EVERY_SECOND_MOE, rope_scaling=None, qk_norm=False)
# Behemoth is not published: only 288B active, 16 experts and about 2T in all. This is the one shape that Meta's width
# rule, Llama 3.1 405B's heads and those three numbers leave (287B active, 2.01T).
BEHEMOTH = replace(
    SCOUT, width=16384, layers=88, heads=128, expert_width=26624, dense_width=53248, rope_scaling=None
)  # fmt: skip

BEHEMOTH_MINI = Config(
    vocab=32768, width=1024, layers=20, heads=16, kv_heads=4, head_dim=64, expert_width=1664, dense_width=3328,
    experts=16, top_k=1, pattern=EVERY_LAYER_MOE, chunk=1024, rope_theta=500000.0, rope_scaling=None, qk_norm=True,
    tempering=Tempering(floor=1024, scale=0.1), eps=1e-5, max_positions=4096,
)  # fmt: skip
SCOUT_MINI = replace(BEHEMOTH_MINI, width=512, layers=12, heads=8, kv_heads=2, expert_width=832, dense_width=1664)
MAVERICK_MINI = replace(SCOUT_MINI, experts=128, pattern=EVERY_SECOND_MOE, qk_norm=False)

BEHEMOTH_NANO = Config(
    vocab=512, width=256, layers=8, heads=16, kv_heads=2, head_dim=16, expert_width=416, dense_width=832,
    experts=16, top_k=1, pattern=EVERY_LAYER_MOE, chunk=64, rope_theta=10000.0, rope_scaling=None, qk_norm=True,
    tempering=Tempering(floor=64, scale=0.1), eps=1e-5, max_positions=512,
)  # fmt: skip
SCOUT_NANO = replace(BEHEMOTH_NANO, width=128, layers=4, heads=8, expert_width=208, dense_width=416)
MAVERICK_NANO = replace(SCOUT_NANO, experts=128, pattern=EVERY_SECOND_MOE, qk_norm=False)

# Minutes on a laptop: 256 bytes and 16 special tokens.
BEHEMOTH_PICO = Config(
    vocab=272, width=128, layers=4, heads=8, kv_heads=2, head_dim=16, expert_width=208, dense_width=416,
    experts=16, top_k=1, pattern=EVERY_LAYER_MOE, chunk=32, rope_theta=10000.0, rope_scaling=None, qk_norm=True,
    tempering=Tempering(floor=32, scale=0.1), eps=1e-5, max_positions=512,
)  # fmt: skip
SCOUT_PICO = replace(BEHEMOTH_PICO, width=64, layers=4, heads=4, expert_width=104, dense_width=208)
MAVERICK_PICO = replace(SCOUT_PICO, experts=32, pattern=EVERY_SECOND_MOE, qk_norm=False)
