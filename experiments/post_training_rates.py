"""The learning rates of experiments/post_training.py: every method of it at three or four, until the best is not the
highest (but of light fine-tuning, where all begin), on a seed that is not reported.

    python -m experiments.post_training_rates

The best rate by the mean share of right answers is the one in that file, but for light fine-tuning.
Cost and result: experiments/README.md.
"""

from dataclasses import replace

from distill import AdamW, Experiment, Preference, Reinforcement, Stage, WarmupCosine, launch
from experiments.post_training import EXPERIMENT

RATES = {
    "tuned": (3e-3, 6e-3, 1e-2),
    "rewarded": (5e-4, 1e-3, 2e-3),
    "preferred": (3e-5, 1e-4, 3e-4),
    "gold": (3e-3, 6e-3, 1e-2, 2e-2),
    "judged": (1e-3, 3e-3, 6e-3, 1e-2),
    "misled-rewarded": (5e-4, 1e-3, 2e-3),
    "misled-again": (3e-3, 6e-3, 1e-2),
}


def at(stage: Stage | Reinforcement | Preference, rate: float) -> Stage | Reinforcement | Preference:
    """A stage of one learner at another peak rate, under a name that says so."""
    (learner,) = stage.learners
    name = f"{stage.name}-{rate:g}".replace(".", "_")
    warmup = 0.3 if isinstance(stage, Reinforcement) else 0.05
    one = replace(learner, name=name, optimizer=AdamW(rate=WarmupCosine(peak=rate, warmup=warmup)))
    if isinstance(stage, Stage):
        return replace(stage, name=name, learners=(one,))
    return replace(stage, name=name, learner=one)


EXPERIMENT: Experiment = replace(
    EXPERIMENT,
    name="post_training_rates",
    stages=(
        *EXPERIMENT.stages,
        *(at(stage, rate) for stage in EXPERIMENT.stages for rate in RATES.get(stage.name, ())),
    ),
    contrasts=(),
    seed=100,
)

if __name__ == "__main__":
    launch(EXPERIMENT)
