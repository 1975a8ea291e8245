import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses import WSD, Constant, Cosine, Linear, Schedule

ALL = [
    Constant(0.7),
    Linear(start=1.0, end=0.2),
    Cosine(start=1.0, end=0.2),
    WSD(peak=0.9),
    WSD(peak=0.9, warmup=0.0, decay=0.0),
]


def at(schedule, *progress):
    return [round(float(schedule.at(f)), 4) for f in progress]


def test_linear_is_a_straight_line_and_then_flat():
    assert at(Linear(start=1.0, end=0.0), 0.0, 0.25, 0.5, 1.0, 1.5) == [1.0, 0.75, 0.5, 0.0, 0.0]


def test_cosine_is_half_way_in_the_middle():
    assert at(Cosine(start=1.0, end=0.0), 0.0, 0.25, 0.5, 1.0, 1.5) == [1.0, 0.8536, 0.5, 0.0, 0.0]


def test_wsd_rises_holds_and_falls():
    wsd = WSD(peak=0.8, warmup=0.1, decay=0.2)
    assert at(wsd, 0.0, 0.05, 0.1, 0.5, 0.8, 0.9, 1.0, 2.0) == [0.0, 0.4, 0.8, 0.8, 0.8, 0.4, 0.0, 0.0]


def test_wsd_without_warmup_starts_at_its_peak():
    assert at(WSD(peak=0.8, warmup=0.0, decay=0.5), 0.0, 0.5, 1.0) == [0.8, 0.8, 0.0]


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_a_schedule_is_continuous(schedule):
    values = np.array([float(schedule.at(step / 100)) for step in range(1, 100)])
    assert np.abs(np.diff(values)).max() < 0.1


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_a_schedule_takes_a_traced_progress_and_stays_within_its_span(schedule):
    assert isinstance(schedule, Schedule)
    values = jax.jit(jax.vmap(schedule.at))(jnp.linspace(0.0, 1.2, 25))
    low, high = schedule.span()
    assert low - 1e-6 <= values.min() and values.max() <= high + 1e-6
    np.testing.assert_allclose(values[7], schedule.at(0.35), rtol=1e-6)


def test_wsd_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="add to at most 1"):
        WSD(peak=1.0, warmup=0.6, decay=0.6)
