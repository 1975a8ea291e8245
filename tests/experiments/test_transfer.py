"""What is compared in the transfer, and how its best rates are read."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from distill import AdamW, WarmupCosine
from experiments import transfer
from experiments.transfer_results import Results, best, tabulate, take_up


def row(kind, arm, size, rate, value, seed=0):
    return {
        "kind": kind, "arm": arm, "loss": "hard", "size": size, "rate": str(rate), "seed": str(seed),
        "cross_entropy": str(value),
    }  # fmt: skip


def test_the_tuned_size_is_run_once_for_both_arms():
    tried = [*transfer.trials()]
    assert [arm for _, arm, *size in tried if size == [64, 4]] == ["plain"]
    assert [arm for _, arm, *size in tried if size == [256, 4]] == ["plain", "scaled"]
    assert [arm for _, arm, *size in tried if size == [64, 16]] == ["plain", "scaled"]


def test_a_dialled_optimizer_is_one_of_that_rate():
    def moved(optimizer):
        params = {"w": nnx.Param(jnp.ones((3, 2)), axes=("v", "d"))}
        tx = optimizer.build(4)
        return tx.update(jax.tree.map(jnp.sin, params), tx.init(params), params)[0]["w"][...]

    dialled = moved(transfer.Dialled(AdamW(rate=WarmupCosine(peak=1.0)), 0.25))
    np.testing.assert_allclose(dialled, moved(AdamW(rate=WarmupCosine(peak=0.25))), rtol=1e-6)


def test_the_best_rate_lies_where_a_parabola_in_its_logarithm_is_least():
    assert best({1.0: 1.0, 2.0: 0.0, 4.0: 1.0}) == pytest.approx(2.0)
    # Least at h (y0 - y2) / 2 (y0 - 2 y1 + y2) = 1/6 of a doubling beyond the middle.
    assert best({1.0: 2.0, 2.0: 0.0, 4.0: 1.0}) == pytest.approx(2 ** (1 + 1 / 6))
    assert best({1.0: 2.0, 2.0: 1.0, 4.0: 0.0}) == 4.0


def test_the_tuned_size_stands_in_every_comparison_and_what_diverged_in_none():
    rows = [row("width", "plain", "64x4", 0.1, 2.0), row("width", "plain", "64x4", 0.2, 3.0)]
    rows += [row("width", "scaled", "128x4", 0.1, 1.5), row("width", "scaled", "128x4", 0.2, "nan")]
    found = Results.of(rows)
    assert found.curves == {("width", "scaled", "hard"): {"64x4": {0.1: (2.0,), 0.2: (3.0,)}, "128x4": {0.1: (1.5,)}}}
    text = tabulate(found)
    assert "| width, scaled, hard | 128x4 | **1.500** |  | 0.1 | +0.000 |" in text


def test_what_the_tuned_rate_costs_is_paired_over_seeds():
    rows = [row("width", "plain", "64x4", rate, rate, seed) for rate in (0.1, 0.2) for seed in (0, 1, 2)]
    for seed, (slow, fast) in enumerate([(2.0, 1.9), (3.0, 2.8), (1.0, 0.7)]):  # 0.1, 0.2 and 0.3 apart
        rows += [row("width", "plain", "256x4", 0.1, slow, seed), row("width", "plain", "256x4", 0.2, fast, seed)]
    # Student's t of 2 degrees at 97.5 %, 4.303, times 0.1 / sqrt(3), around 0.2.
    assert "| width, plain, hard | 256x4 | 2.000 | **1.800** | 0.2 | +0.200 [-0.048, +0.448] |" in tabulate(
        Results.of(rows)
    )


def test_a_rate_at_which_one_seed_diverged_is_left_out():
    rows = [
        row("width", "plain", size, rate, 1.0, seed)
        for size in ("64x4", "128x4")
        for rate in (0.1, 0.2)
        for seed in (0, 1)
    ]
    rows[-1]["cross_entropy"] = "inf"
    assert Results.of(rows).curves["width", "plain", "hard"]["128x4"] == {0.1: (1.0, 1.0)}


def test_a_sweep_is_taken_up_by_kind_arm_size_and_rate(tmp_path):
    found = {"trial": "depth-scaled-64x8", "stage": "hard-12", "name": "64x8", "seed": 1, "cross_entropy": 2.34567}
    (tmp_path / "trials.jsonl").write_text(json.dumps(found) + "\n")
    taken = row("depth", "scaled", "64x8", 0.012, 2.3457) | {"seed": "1"}
    assert take_up(tmp_path) == [taken]


def test_a_table_without_rows_is_refused():
    with pytest.raises(ValueError, match="has no rows; run the sweep, then take it up with --run"):
        Results.of([])
