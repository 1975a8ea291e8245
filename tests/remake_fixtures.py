"""Computes the expected arrays of tests/data/llama4 again with transformers, from the weights and inputs kept there.

    pip install torch transformers==5.23.0
    python tests/remake_fixtures.py            # prints how far each array is from the recorded one
    python tests/remake_fixtures.py --write    # and replaces them

Not run in CI: neither package is among the project's requirements.
"""

import argparse
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data" / "llama4"


def remake(folder: Path) -> dict[str, np.ndarray]:
    """The arrays that transformers gives in float32 with eager attention, the reference."""
    import torch
    from transformers import Llama4ForCausalLM, Llama4ForConditionalGeneration

    recorded = np.load(folder / "expected.npz")
    images = {"pixel_values": torch.from_numpy(recorded["pixel_values"])} if "pixel_values" in recorded else {}
    kind = Llama4ForConditionalGeneration if images else Llama4ForCausalLM
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    text = model.language_model if images else model
    inputs = {name: torch.from_numpy(recorded[name]).long() for name in recorded if recorded[name].dtype == np.int32}

    tokens = inputs["full.input_ids"]
    output = model(tokens, output_hidden_states=True, **images)
    loss = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    forward = text.model.layers[text.config.moe_layers[0]].feed_forward
    made = {
        "full.logits": output.logits,
        "full.hidden_states": torch.stack(output.hidden_states),
        "full.loss": loss,
        "full.grad.router": forward.router.weight.grad,
        "full.grad.down_proj": forward.experts.down_proj.grad,
        "full.grad.q_proj0": text.model.layers[0].self_attn.q_proj.weight.grad,
    }
    with torch.no_grad():
        if images:
            tower = model.vision_model(**images, output_hidden_states=True)
            made["vision.hidden_states"] = torch.stack(tower.hidden_states)
            made["vision.adapter_out"] = tower.last_hidden_state
            made["vision.projected"] = model.multi_modal_projector(tower.last_hidden_state)
        for side in ("leftpad", "rightpad"):
            mask = inputs[f"{side}.attention_mask"]
            made[f"{side}.logits"] = model(inputs[f"{side}.input_ids"], attention_mask=mask, **images).logits
        row = torch.cat([inputs["gen.prompt"], inputs["gen.tokens"]], dim=1)
        logits = model(row, **images).logits[:, inputs["gen.prompt"].shape[1] - 1 : -1]
        made["gen.logits"] = logits.transpose(0, 1)
    return {name: array.detach().numpy() for name, array in made.items()}


def main() -> None:
    """Compares every fixture with what transformers says now, and writes it on demand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    for folder in sorted(DATA.iterdir()):
        recorded, made = dict(np.load(folder / "expected.npz")), remake(folder)
        for name, array in made.items():
            print(f"{folder.name} {name}: {np.abs(array - recorded[name]).max():.1e}")
        if write:
            np.savez_compressed(folder / "expected.npz", **(recorded | made))


if __name__ == "__main__":
    main()
