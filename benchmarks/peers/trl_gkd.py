"""The peer: TRL's GKDTrainer on given text (lmbda = 0) with forward KL (beta = 0), its own loop asked step by step."""

import os

os.environ.update(TRL_EXPERIMENTAL_SILENCE="1", HF_HUB_OFFLINE="1")

import tempfile  # noqa: E402

import torch  # noqa: E402
import trl  # noqa: E402
from datasets import Dataset  # noqa: E402
from tokenizers import Tokenizer, models  # noqa: E402
from transformers import PreTrainedTokenizerFast, TrainerCallback  # noqa: E402
from trl.experimental.gkd import GKDConfig, GKDTrainer  # noqa: E402

from benchmarks.peers.torch_plain import describe, llama, tokens  # noqa: E402
from benchmarks.sizes import DENSE_STEP, Options  # noqa: E402
from benchmarks.worker import Line  # noqa: E402


class Asked(TrainerCallback):
    """Holds the trainer before each step until the driver asks for it.

    The clock runs from the batch's arrival to the end of the optimizer's step: loading and logging are left out.
    """

    def __init__(self, line: Line):
        self.line = line
        self.loss = torch.tensor(0.0)

    def on_step_begin(self, *_, **__):
        """Called by the trainer with the batch in hand."""
        self.line.begin()

    def on_step_end(self, *_, **__):
        """Called by the trainer after the optimizer's step."""
        self.line.end(self.loss.item)


class Trainer(GKDTrainer):
    """GKDTrainer that keeps the loss of its last step where the callback can read it."""

    asked: Asked

    def training_step(self, *arguments, **named):
        """The parent's, with the loss remembered."""
        self.asked.loss = super().training_step(*arguments, **named)
        return self.asked.loss


def collate(rows: list[dict]) -> dict:
    """A batch in which every token is trained on, as GKDTrainer reads it."""
    batch = torch.tensor([row["input_ids"] for row in rows])
    return {"input_ids": batch, "labels": batch, "attention_mask": torch.ones_like(batch), "prompts": batch[:, :1]}


def train(options: Options, folder: str) -> None:
    """Runs the trainer's loop until the driver stops."""
    work = options.work
    config = GKDConfig(
        output_dir=folder,
        per_device_train_batch_size=work.batch,
        max_steps=1_000_000,
        learning_rate=work.rate,
        adam_beta1=work.beta1,
        adam_beta2=work.beta2,
        adam_epsilon=work.eps,
        weight_decay=work.decay,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        bf16=options.dtype == "bfloat16",
        gradient_checkpointing=False,
        lmbda=0.0,
        beta=0.0,
        temperature=1.0,
        max_length=work.length,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=work.seed,
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<s>": 0}, unk_token="<s>")), pad_token="<s>", eos_token="<s>"
    )
    rows = {"input_ids": tokens(work).tolist() * 64}
    asked = Asked(Line({**describe(options), "trl": trl.__version__}, options.steps))
    trainer = Trainer(
        model=llama(work.student),
        teacher_model=llama(work.teacher),
        args=config,
        train_dataset=Dataset.from_dict(rows),
        data_collator=collate,
        processing_class=tokenizer,
        callbacks=[asked],
    )
    trainer.asked = asked
    trainer.train()


if __name__ == "__main__":
    options = Options.of(DENSE_STEP)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.work.seed)
    with tempfile.TemporaryDirectory() as folder:
        train(options, folder)
