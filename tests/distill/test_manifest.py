"""The manifest of a checkpoint guards it, and itself."""

import jax.numpy as jnp
import pytest

from distill.manifest import SCHEMA, check_fits, check_values, check_whole, checksum, compose

ARRAYS = {"a.model": {"w": jnp.ones(2)}}


def manifest(**meta):
    return compose(1, ARRAYS, data=None, meta=meta, score=2.0)


def test_as_written_it_is_whole():
    check_whole(manifest(x=[1.5, None]))


def test_a_changed_manifest_is_refused():
    with pytest.raises(ValueError, match="its manifest was changed"):
        check_whole(manifest() | {"score": 1.0})


def test_an_unknown_schema_is_refused(monkeypatch):
    monkeypatch.setattr("distill.manifest.SCHEMA", SCHEMA + 1)
    newer = manifest()
    monkeypatch.undo()
    with pytest.raises(ValueError, match=f"its schema is {SCHEMA + 1}, this version reads {SCHEMA}"):
        check_whole(newer)


def test_meta_that_is_not_json_is_refused():
    with pytest.raises(ValueError, match="meta must be JSON.*not JSON serializable"):
        manifest(x=jnp.ones(1))


def test_changed_values_are_named():
    check_values(manifest(), ARRAYS)
    with pytest.raises(ValueError, match="the values of a.model 'w' were changed"):
        check_values(manifest(), {"a.model": {"w": jnp.zeros(2)}})


def test_another_dtype_does_not_fit():
    with pytest.raises(ValueError, match=r"'w', expected bfloat16\[2\], found float32\[2\]"):
        check_fits("here", manifest(), {"a.model": {"w": jnp.ones(2, jnp.bfloat16)}})


def test_the_checksum_of_a_state_is_that_of_its_json():
    assert checksum({"a": 1, "b": 2}) == checksum({"b": 2, "a": 1}) == checksum(b'{"a": 1, "b": 2}')
    assert checksum({"a": 1}) != checksum({"a": 2})
