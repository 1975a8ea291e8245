"""A learner of a run goes out: as a checkpoint in the Hugging Face layout, which transformers and vLLM serve.

python -m distill.export runs/herd out --stage distil --learner scout
"""

import sys
from pathlib import Path
from typing import Literal

from distill.progress import Progress
from distill.run import load_run
from distill.trained import last, load_weights
from models import huggingface


def export(
    run: Path,
    to: Path,
    stage: str | None = None,
    learner: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
) -> None:
    """Writes the newest weights of a learner, with the run's tokenizer.

    Args:
        run: the run folder.
        to: the folder to write; it must not exist.
        stage: the stage that trained it; the last one, if not given.
        learner: its name; may be left out where the stage has one only.
        dtype: of the weights written; float32, as they are trained, if not given.

    Raises:
        ValueError: there is no such run, stage or learner, its routers have a selection bias, or `to` is taken.
        FileNotFoundError: the stage has not saved anything yet.
    """
    found = load_run(run)
    weights = load_weights(run, *last(found, stage, learner))
    with Progress(100, f"writing {to}") as bar:
        huggingface.save(
            to,
            weights.model,
            found.tokenizer,
            bias=weights.bias,
            dtype=dtype,
            progress=lambda done, total: bar.update(100 * done // total),
        )


if __name__ == "__main__":
    import tyro

    try:
        tyro.cli(export, config=(tyro.conf.PositionalRequiredArgs,))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
