"""The peer: transformers' `generate`, of its Llama 4 for a mixture and of its Llama for a dense size."""

import torch
import transformers

from benchmarks.generation import Generation
from benchmarks.peers.torch_llama4 import llama4
from benchmarks.peers.torch_plain import llama
from benchmarks.worker import serve


def build(work: Generation):
    """One round of generation: a function that returns the mean id of what was drawn."""
    model = (llama4 if work.size.experts else llama)(work.size).eval().to(getattr(torch, work.dtype))
    prompts = torch.from_numpy(work.prompts())
    how = transformers.GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=work.new,
        min_new_tokens=work.new,
        use_cache=True,
        pad_token_id=0,
    )

    @torch.no_grad()
    def step() -> float:
        rows = model.generate(prompts, attention_mask=torch.ones_like(prompts), generation_config=how)
        assert rows.shape == (work.batch, work.prompt + work.new)
        return rows[:, work.prompt :].float().mean().item()

    return step


if __name__ == "__main__":
    work = Generation.of_command_line()
    torch.set_num_threads(work.threads)
    torch.manual_seed(0)
    about = {"torch": torch.__version__, "transformers": transformers.__version__, "flops": work.flops}
    serve(build(work), about, work.steps)
