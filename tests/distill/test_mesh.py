"""Meshes: what fits, and where the letters of a parameter put it."""

import jax
import pytest

from distill.mesh import Mesh, shardings
from distill.state import abstract, create
from tests.distill.small import learner


def test_a_mesh_that_needs_more_devices_says_what_would_fit():
    with pytest.raises(
        ValueError, match=r"Mesh\(data=2, fsdp=32\) needs 64 devices, found 8 .*--mesh.data 1 --mesh.fsdp 8"
    ):
        Mesh(data=2, fsdp=32).build()


def test_an_axis_below_one_is_refused():
    with pytest.raises(ValueError, match="every axis must be at least 1"):
        Mesh(data=0)


def test_rows_that_do_not_divide_over_the_mesh_are_refused():
    with pytest.raises(ValueError, match="6 rows a batch do not divide .* use a multiple of 4"):
        Mesh(data=2, fsdp=2).check_rows(6)


def test_weights_and_moments_are_cut_along_the_width_and_counters_are_whole():
    state = abstract(learner(), 10, Mesh(data=2, fsdp=4).build())
    q = state.weights.model.periods.blocks[0].attention.q.get_raw_value()
    moments = [leaf for leaf in jax.tree.leaves(state.opt) if leaf.shape == q.shape]
    assert len(moments) == 4  # two blocks of the pattern, two moments each
    assert {leaf.sharding.shard_shape(leaf.shape)[1] for leaf in (q, *moments)} == {q.shape[1] // 4}
    assert state.step.sharding.is_fully_replicated


def test_no_device_holds_more_than_its_part():
    state = create(learner(), 10, Mesh(fsdp=8).build(), seed=0)
    head = state.weights.model.head[...]
    assert head.addressable_shards[0].data.shape == (head.shape[0] // 8, head.shape[1])


def test_a_width_that_does_not_divide_stays_whole():
    from dataclasses import replace

    from tests.distill.small import MOE

    state = abstract(learner(model=replace(MOE, width=30)), 10, Mesh(fsdp=8).build())
    assert state.weights.model.head.get_raw_value().sharding.is_fully_replicated


def test_a_newborn_state_does_not_depend_on_the_mesh():
    from tests.distill.small import assert_close

    one, eight = (create(learner(), 10, mesh.build(), seed=0) for mesh in (Mesh(), Mesh(fsdp=8)))
    assert_close(jax.device_get(one.weights), jax.device_get(eight.weights), tolerance=1e-6)


def test_arrays_without_letters_are_replicated():
    mesh = Mesh(fsdp=8).build()
    placed = shardings(mesh, {"x": jax.ShapeDtypeStruct((8, 8), "float32")})
    assert placed["x"].is_fully_replicated
