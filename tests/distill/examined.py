"""Lines and results of a small run with post-training, by the names that runs write."""

from typing import Any


def marks(right: float, **values: Any) -> dict[str, Any]:
    """Of one cell."""
    row = {"capability": "strings", "n": 100, "attempts": 16, "pass@1": right, "pass@k": min(2 * right, 1.0), "k": 8}
    return row | {"greedy": right, "tokens": 4.5, "surprise": 0.25} | values


def result(stage: str, exam: dict[str, Any] | None, seed: int = 0, **values: Any) -> dict[str, Any]:
    """A row of `results["models"]`."""
    row = {"seed": seed, "stage": stage, "name": "scout", "cross_entropy": 2.0, "accuracy": 0.5, "kl": None}
    row |= {"agreement": None, "parameters": 1000, "active": 1000, "tokens": 100, "seconds": 1.0, "expert_load": None}
    return row | ({} if exam is None else {"exam": exam}) | values


def update(step: int, stage: str = "rl", **values: float) -> dict[str, Any]:
    """A line of metrics.jsonl of reinforcement learning."""
    row = {"stage": stage, "step": step, "kind": "train", "scout/entropy": 0.5, "scout/hard": 0.5, "reward": 0.5}
    row |= {
        "groups": 4.0,
        "all_right": 0.25,
        "all_wrong": 0.0,
        "lag": 0.75,
        "lag_max": 1.0,
        "length": 5.0,
        "masked": 0.0,
    }
    row |= {"lag/0": 1.0, "lag/1": 3.0, "asked/sort/0": 1.0, "reward/sort/0": 1.0, "asked/sort/1": 3.0}
    return row | {"reward/sort/1": 0.25} | values


def pace(step: int, stage: str = "rl", **values: float) -> dict[str, Any]:
    """A line of timings.jsonl of reinforcement learning."""
    row = {"stage": stage, "step": step, "seconds": 0.5, "learner_idle": 0.25, "actor_idle": 0.5, "drawn": 100.0}
    row |= {"learner_tokens_per_second": 900.0, "actor_tokens_per_second": 2600.0, "ready": 3, "under_way": 5}
    return row | {"faults/answers_failed": 2} | values


def pairs(step: int, **values: float) -> dict[str, Any]:
    """A line of metrics.jsonl of preferences."""
    row = {
        "margin": 0.1 * step,
        "accuracy": 0.5,
        "chosen": -0.01 * step,
        "rejected": -0.1 * step,
        "nll": 0.4,
        "loss": 0.7,
    }
    line: dict[str, Any] = {"stage": "dpo", "step": step, "kind": "train"}
    return line | {f"scout/{name}": value for name, value in (row | values).items()}
