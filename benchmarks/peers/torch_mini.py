"""The peer on a GPU: the step of benchmarks/gpu.py in PyTorch, with transformers' Llama 4, SDPA, bfloat16, fused AdamW.

Both models compute in bfloat16; the student's weights and moments are float32 (autocast), the teacher's bfloat16, as
ours are. transformers runs every expert on every token. `--compile` puts both models and the loss through
torch.compile.
"""

import argparse
import json
from typing import Any

import torch
import transformers

from benchmarks.peers.torch_plain import divergence
from benchmarks.worker import serve


def llama4(size: dict[str, Any], length: int) -> torch.nn.Module:
    """A Llama 4 text model of this size with random weights."""
    tempering = size["tempering"]
    config = transformers.Llama4TextConfig(
        vocab_size=size["vocab"],
        hidden_size=size["width"],
        intermediate_size=size["expert_width"],
        intermediate_size_mlp=size["dense_width"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["kv_heads"],
        head_dim=size["head_dim"],
        rms_norm_eps=size["eps"],
        rope_parameters={"rope_type": "default", "rope_theta": size["rope_theta"]},
        num_local_experts=size["experts"],
        num_experts_per_tok=size["top_k"],
        moe_layers=[i for i in range(size["layers"]) if size["moe"] and (i + 1) % size["moe"] == 0],
        no_rope_layers=size["rope"],
        use_qk_norm=size["qk_norm"],
        attn_temperature_tuning=tempering is not None,
        floor_scale=tempering[0] if tempering else 8192,
        attn_scale=tempering[1] if tempering else 0.1,
        attention_chunk_size=size["chunk"],
        max_position_embeddings=length,
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
        pad_token_id=None,
    )
    model = transformers.Llama4ForCausalLM(config)
    for name, weight in model.named_parameters():
        if "experts." in name:  # transformers leaves some of them uninitialised
            torch.nn.init.normal_(weight, std=config.initializer_range)
    return model


def build(work: dict[str, Any], compiled: bool):
    """A step: a function that returns the loss once the new weights are there."""
    device = torch.device("cuda" if work["device"] == "gpu" else "cpu")
    torch.manual_seed(0)
    with device:
        teacher = llama4(work["teacher"], work["length"]).to(torch.bfloat16).eval().requires_grad_(False)
        student = llama4(work["student"], work["length"]).train()
        batch = torch.randint(0, work["teacher"]["vocab"], (work["rows"], work["length"]))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    compare = torch.compile(divergence) if compiled else divergence
    if compiled:
        teacher.compile()
        student.compile()

    def step() -> float:
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                wanted = teacher(input_ids=batch).logits
            loss = compare(student(input_ids=batch).logits, wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", help="JSON of sizes, as gpu_torch.py writes it")
    parser.add_argument("--compile", action="store_true")
    said = parser.parse_args()
    about = {"torch": torch.__version__, "transformers": transformers.__version__}
    serve(build(json.loads(said.work), said.compile), about)
