"""What stays on disk, and whether there is room."""

import errno
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from distill.retention import Preservation, Retention, check_space, disk_full, estimate

TREE = {"w": jax.ShapeDtypeStruct((10, 10), jnp.float32), "b": jax.ShapeDtypeStruct((4,), jnp.bfloat16)}  # 408 bytes


def test_the_last_the_best_and_every_nth_stay():
    scores = {10: 3.0, 20: 1.0, 30: 2.0, 40: None, 50: float("nan")}
    assert Retention(last=1, best=0).keep(scores) == {50}
    assert Retention(last=2, best=1).keep(scores) == {20, 40, 50}
    assert Retention(last=1, best=2, every=20).keep(scores) == {20, 30, 40, 50}


def test_of_equal_scores_the_earlier_is_the_best():
    assert Retention(last=1, best=1).keep({1: 2.0, 2: 2.0, 3: 9.0}) == {1, 3}


def test_preservation_says_for_each_checkpoint_whether_it_stays():
    infos = [SimpleNamespace(step=step) for step in (1, 2, 3)]
    policy = Preservation(Retention(last=1, best=1), {1: 1.0, 2: 5.0})
    assert policy.should_preserve(infos, context=None) == [True, False, True]


@pytest.mark.parametrize("field, value", [("last", 0), ("best", -1), ("every", 0)])
def test_a_retention_that_keeps_nothing_is_refused(field, value):
    with pytest.raises(ValueError, match=f"Retention.{field} is {value}; it must be"):
        Retention(**{field: value})


def test_the_estimate_is_the_bytes_of_all_that_can_be_on_disk_at_once():
    assert estimate(TREE, Retention(last=2, best=1), steps=100) == 408 * 4  # 2 last, 1 best, 1 being written
    assert estimate(TREE, Retention(last=2, best=1, every=50), steps=100) == 408 * 6


def test_too_small_a_disk_is_refused_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    check_space(tmp_path / "not" / "there", 1000)
    with pytest.raises(
        OSError, match="need 1,001 more bytes, but 1,000 are free.*put the run on another disk"
    ) as caught:
        check_space(tmp_path / "not" / "there", 1001)
    assert caught.value.errno == errno.ENOSPC


def test_what_is_there_already_needs_no_more_room(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    (tmp_path / "old").write_bytes(bytes(500))
    check_space(tmp_path, 1500)
    with pytest.raises(OSError, match="need 1,001 more"):
        check_space(tmp_path, 1501)


def test_what_was_set_aside_is_no_room_to_write_in(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    for name in ("stage/4.damaged", "stage.aside/4"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "old").write_bytes(bytes(500))
    check_space(tmp_path, 1000)
    with pytest.raises(OSError, match="need 1,001 more"):
        check_space(tmp_path, 1001)


def test_a_full_disk_is_recognised_however_it_is_wrapped():
    wrapped = ValueError('RESOURCE_EXHAUSTED: Error writing "x" [OS error 28: No space left on device]')
    caused = RuntimeError("save failed")
    caused.__cause__ = OSError(errno.ENOSPC, "full")
    for error in (
        OSError(errno.ENOSPC, "full"),
        OSError(errno.EDQUOT, "quota"),
        wrapped,
        caused,
        ExceptionGroup("several", [ValueError("other"), wrapped]),
    ):
        assert disk_full(error)
    assert not disk_full(OSError(errno.ENOENT, "missing")) and not disk_full(ValueError("other"))
