"""Meshes: what fits, and where the letters of a parameter put it."""

from dataclasses import dataclass

import jax
import pytest

from distill.grid import lay
from distill.mesh import Mesh, shardings
from distill.state import abstract, create
from tests.distill.small import learner


def test_a_mesh_that_needs_more_devices_says_what_would_fit():
    with pytest.raises(
        ValueError, match=r"Mesh\(data=2, fsdp=32\) needs 64 devices, found 8 .*--mesh.data 1 --mesh.fsdp 8"
    ):
        Mesh(data=2, fsdp=32).build()


def test_what_would_fit_takes_back_the_axes_that_are_too_many():
    with pytest.raises(ValueError, match=r"Mesh\(data=1, fsdp=6, expert=4, tensor=2\) needs 48 devices, found 8 .*"
                       r"set --mesh.data 4 --mesh.fsdp 2 --mesh.expert 1 --mesh.tensor 1, or use --tiny"):  # fmt: skip
        Mesh(fsdp=6, expert=4, tensor=2).build()


def test_a_mesh_behind_the_last_device_says_what_it_needs():
    with pytest.raises(ValueError, match=r"from device 6 on needs 10 devices, found 8 .*; make it or the mesh before"):
        Mesh(context=4, first=6).build()


@dataclass(frozen=True)
class Chip:
    """What a TPU's device says of itself, as far as it is laid."""

    slice_index: int
    coords: tuple[int, int, int]
    platform: str = "tpu"


def test_a_mesh_over_several_slices_is_refused():
    chips = [Chip(part, (x, 0, 0)) for part in (0, 1) for x in range(4)]
    with pytest.raises(ValueError, match=r"of a mesh of 8 lie in 2 TPU slices; all must be of one, .* book one larger"):
        lay((2, 4), chips)
    assert lay((1, 1), chips[:1]).tolist() == [chips[:1]]


def test_columns_that_do_not_divide_over_the_mesh_in_pairs_are_refused():
    with pytest.raises(
        ValueError, match=r"rows of 20 tokens .* Mesh\(data=1, fsdp=1, context=4\): context=4 needs .* 8"
    ):
        Mesh(context=4).check_columns(20)
    Mesh(context=4).check_columns(40)
    Mesh(fsdp=8).check_columns(15)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (Mesh(tensor=4), "'student' has 2 key/value heads, which .* over tensor=4; set --mesh.tensor 2"),
        (Mesh(expert=6), "'student' has 4 experts, which .* over expert=6; set --mesh.expert 2"),
    ],
    ids=str,
)
def test_heads_and_experts_that_the_mesh_cannot_share_out_are_refused(mesh, message):
    with pytest.raises(ValueError, match=message):
        mesh.check_model("student", learner().model)
    Mesh(expert=4, tensor=2).check_model("student", learner().model)


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
