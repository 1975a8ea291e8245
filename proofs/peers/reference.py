"""The side of transformers: loads what we wrote, says what it computes, and writes it again in its own way.

Run by proofs/huggingface.py in a process of its own; knows nothing of our code.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from vision import load_torchvision

load_torchvision()

from transformers import Llama4ForCausalLM, Llama4ForConditionalGeneration  # noqa: E402
from transformers.utils import logging  # noqa: E402


def answer(folder: Path) -> None:
    """Answers one case: reads folder/ours and question.npz; writes answer.npz and folder/theirs."""
    question = {name: torch.from_numpy(array) for name, array in np.load(folder / "question.npz").items()}
    kind = Llama4ForConditionalGeneration if "tiles" in question else Llama4ForCausalLM
    model, info = kind.from_pretrained(
        folder / "ours", attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    wrong = {name: sorted(map(str, keys)) for name, keys in info.items() if keys}
    if wrong:
        raise SystemExit(f"transformers does not load {folder / 'ours'} cleanly: {wrong}")
    model.eval()
    images = {"pixel_values": question["tiles"]} if "tiles" in question else {}
    padded = {"pixel_values": question["padded_tiles"]} if "tiles" in question else {}
    with torch.no_grad():
        full = model(question["tokens"], **images).logits
        left = model(question["padded"], attention_mask=question["mask"], **padded).logits
        made = model.generate(
            question["prompt"],
            attention_mask=torch.ones_like(question["prompt"]),
            max_new_tokens=int(question["new"]),
            min_new_tokens=int(question["new"]),
            do_sample=False,
            suppress_tokens=question["suppressed"].tolist() or None,
            **images,
        )
    np.savez(folder / "answer.npz", full=full.numpy(), left=left.numpy(), made=made.numpy())
    model.save_pretrained(folder / "theirs", max_shard_size="100KB")


def main() -> None:
    """Answers every case in the folder."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        answer(folder)
        print(f"{folder.name} answered", flush=True)


if __name__ == "__main__":
    main()
