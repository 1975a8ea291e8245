"""The peer for a mixture of experts: transformers' own Llama 4 as the student, the rest as in torch_plain."""

import torch
import transformers

from benchmarks.peers.torch_plain import check, describe, distill, llama
from benchmarks.sizes import MIXTURE_STEP, Options, Size
from benchmarks.worker import serve


def llama4(size: Size) -> torch.nn.Module:
    """A Llama 4 text model of this size, every layer a mixture, with random weights.

    The rest is Llama 4's own: every fourth layer without RoPE, QK-norm where there is RoPE, attention tempering.
    """
    config = transformers.Llama4TextConfig(
        vocab_size=size.vocab,
        hidden_size=size.width,
        intermediate_size=size.ffn,
        intermediate_size_mlp=size.ffn,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.head_dim,
        rms_norm_eps=size.eps,
        rope_parameters={"rope_type": "default", "rope_theta": size.rope_theta},
        num_local_experts=size.experts,
        num_experts_per_tok=1,
        interleave_moe_layer_step=1,
        attention_chunk_size=8192,
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
        pad_token_id=None,
    )
    model = transformers.Llama4ForCausalLM(config)
    for name, weight in model.named_parameters():
        if "experts." in name:  # transformers leaves some of them uninitialised
            torch.nn.init.normal_(weight, std=config.initializer_range)
    return check(model, size)


if __name__ == "__main__":
    options = Options.of(MIXTURE_STEP)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.work.seed)
    step = distill(llama(options.work.teacher), llama4(options.work.student), options)
    serve(step, describe(options), options.steps)
