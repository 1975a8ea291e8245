"""What a checkpoint is, in a few lines, from its configuration and the headers of its files: no weight is read."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from models import cost
from models.config import Config
from models.huggingface.files import regular
from models.huggingface.weights_in import Checkpoint, open_checkpoint

GENERATION = "generation_config.json"
TEXT = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
SIGHT = ("preprocessor_config.json", "processor_config.json")


def companions(folder: Path, names: Iterable[str]) -> list[Path]:
    """Those of the files that a checkpoint has.

    Raises:
        ValueError: one is a link to outside of the folder, or no file.
    """
    return [regular(folder, name) for name in names if (folder / name).exists()]


def summarize(folder: str | Path) -> str:
    """Sizes, parameters, layers, dtype, vision, tokenizer and shards of a checkpoint folder, a line each.

    Raises:
        ValueError: as `open_checkpoint`.
    """
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    rows = {
        "model": f"Llama 4, {'text' if config.vision is None else 'text and images'}",
        "parameters": f"{cost.total(config):,} in all, {cost.active(config):,} active for a token of text",
        "text": f"{config.layers} layers of width {config.width:,}, vocabulary of {config.vocab:,}, "
        f"at most {config.max_positions:,} positions",
        "layers": _layers(config),
        "attention": _attention(config),
        "feed-forward": f"{config.experts} experts of width {config.expert_width:,}, top {config.top_k}, and a shared "
        f"one; dense layers of width {config.dense_width:,}",
        "vision": _vision(config),
        "weights": _weights(checkpoint),
        "beside them": ", ".join(path.name for path in companions(checkpoint.folder, (*TEXT, *SIGHT, GENERATION)))
        or "no tokenizer",
    }
    return "\n".join([str(folder), *(f"  {name:13} {row}" for name, row in rows.items())])


def _layers(config: Config) -> str:
    names = [
        "".join(("rotary" if layer.rope else "NoPE", "+experts" if layer.moe else "+dense")) for layer in config.pattern
    ]
    shown = names if len(names) <= 8 else [*names[:8], "..."]
    return f"{config.periods} times ({', '.join(shown)})"


def _attention(config: Config) -> str:
    scaling, tempering = config.rope_scaling, config.tempering
    parts = [
        f"{config.heads} query heads on {config.kv_heads} of keys and values, {config.head_dim} channels each",
        f"chunks of {config.chunk:,} on rotary layers (theta {config.rope_theta:,.0f}"
        + ("" if scaling is None else f", stretched {scaling.factor:g} times beyond {scaling.original:,}")
        + (", q and k normalised)" if config.qk_norm else ")"),
    ]
    if tempering is not None:
        parts.append(f"NoPE layers tempered by {tempering.scale:g} every {tempering.floor:,} positions")
    return "; ".join(parts)


def _vision(config: Config) -> str:
    vision = config.vision
    if vision is None:
        return "none"
    return (
        f"{vision.layers} layers of width {vision.width:,}, {vision.heads} heads; tiles of {vision.image} px "
        f"in patches of {vision.patch}, {vision.tokens} tokens a tile (id {vision.patch_token})"
    )


def _weights(checkpoint: Checkpoint) -> str:
    tensors = [source.tensor for source in checkpoint.sources.values()]
    kinds = Counter(tensor.dtype.name for tensor in tensors)
    kept = ", ".join(name if len(kinds) == 1 else f"{count} in {name}" for name, count in kinds.most_common())
    files = len({tensor.path for tensor in tensors})
    return f"{len(tensors)} tensors in {files} file{'s' * (files > 1)}, {checkpoint.bytes / 1e9:,.3f} GB, {kept}"
