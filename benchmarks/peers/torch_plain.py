"""The peer: a distillation step as one writes it in PyTorch, with transformers' Llama, SDPA and fused AdamW.

`--compile` puts both models and the loss through torch.compile (Inductor, which needs a C++ compiler).
"""

import numpy as np
import torch
import torch.nn.functional as F
import transformers

from benchmarks.sizes import DENSE_STEP, Options, Size, Work
from benchmarks.worker import serve


def llama(size: Size) -> torch.nn.Module:
    """A Llama of this size with random weights."""
    config = transformers.LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.width,
        intermediate_size=size.ffn,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.head_dim,
        rope_theta=size.rope_theta,
        rms_norm_eps=size.eps,
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
        pad_token_id=None,
    )
    return check(transformers.LlamaForCausalLM(config), size)


def check(model: torch.nn.Module, size: Size) -> torch.nn.Module:
    """The model itself, once it has exactly the parameters its size says."""
    count = sum(p.numel() for p in model.parameters())
    assert count == size.parameters, f"{count} parameters, {size.parameters} expected"
    return model


def tokens(work: Work) -> torch.Tensor:
    """The batch every step sees: uniform random tokens [b t]."""
    rng = np.random.default_rng(work.seed)
    return torch.from_numpy(rng.integers(0, work.teacher.vocab, (work.batch, work.length)))


def divergence(got: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean over all positions of KL(teacher, student), of logits [b t v]."""
    wanted = F.log_softmax(wanted.float().flatten(0, 1), dim=-1)
    got = F.log_softmax(got.float().flatten(0, 1), dim=-1)
    return F.kl_div(got, wanted, reduction="batchmean", log_target=True)


def distill(teacher: torch.nn.Module, student: torch.nn.Module, options: Options, compiled: bool = False):
    """A step of forward KL and AdamW: a function that returns the loss."""
    work = options.work
    teacher.eval().requires_grad_(False)
    student.train()
    low = options.dtype == "bfloat16"
    if low:
        teacher.to(torch.bfloat16)  # it has no use for float32 weights, and so they are not cast again in each step
    optimizer = torch.optim.AdamW(
        student.parameters(),
        lr=work.rate,
        betas=(work.beta1, work.beta2),
        eps=work.eps,
        weight_decay=work.decay,
        fused=True,
    )
    batch = tokens(work)
    compare = torch.compile(divergence) if compiled else divergence
    if compiled:
        teacher.compile()
        student.compile()

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            with torch.no_grad():
                wanted = teacher(input_ids=batch).logits
            got = student(input_ids=batch).logits
        loss = compare(got, wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def describe(options: Options) -> dict:
    """Versions and FLOPs, for the record."""
    return {"torch": torch.__version__, "transformers": transformers.__version__, "flops": options.work.flops}


if __name__ == "__main__":
    parser = Options.parser()
    parser.add_argument("--compile", action="store_true")
    said = parser.parse_args()
    options = Options.of(DENSE_STEP, said)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.work.seed)
    step = distill(llama(options.work.teacher), llama(options.work.student), options, said.compile)
    serve(step, describe(options), options.steps)
