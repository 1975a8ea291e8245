"""A mesh of any shape makes what one device makes: loss, gradient and the weights after an update, within 1e-5.

Of more meshes, and by how much: proofs/meshes.py.
"""

from dataclasses import replace

import jax
import numpy as np
import pytest

from distill import Mesh
from losses import Batch as WholeBatch
from losses import Evidence
from tests.distill.meshed import COMPARED, DRAWING, LOOKING, ONE, TEACHER, alone, made
from tests.distill.small import assert_close


def assert_equal(one, mesh, teacher=TEACHER):
    wanted = alone(one, teacher)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted[1])) > 0.01  # there is something to compare
    for ours, theirs in zip(made(one, mesh, teacher), wanted, strict=True):
        assert_close(ours, theirs)


MESHES = [
    Mesh(data=2, fsdp=4),
    Mesh(fsdp=2, expert=4),
    pytest.param(Mesh(data=4, expert=2), marks=pytest.mark.slow),
    Mesh(fsdp=4, tensor=2),
    Mesh(fsdp=2, context=4),
    pytest.param(Mesh(context=8), marks=pytest.mark.slow),
    Mesh(expert=2, context=2, tensor=2),
]


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_a_student_learns_the_same_on_any_mesh(mesh):
    assert_equal(ONE, mesh)


def test_a_gate_that_pools_over_all_of_the_batch_sees_the_rows_and_columns_of_all_devices():
    whole = replace(ONE, loss=replace(ONE.loss, gate=Evidence(scope=WholeBatch())))
    assert whole.loss.gate.reach is None
    assert_equal(whole, Mesh(data=2, context=2))


def test_a_student_whose_layers_and_routers_are_compared_learns_the_same():
    assert_equal(COMPARED, Mesh(fsdp=2, expert=2, context=2), replace(TEACHER, experts=4))


def test_a_student_that_sees_images_learns_the_same():
    assert_equal(LOOKING, Mesh(fsdp=2, context=2, tensor=2), LOOKING.model)


def test_a_policy_gradient_is_the_same():
    assert_equal(DRAWING, Mesh(fsdp=2, context=2, tensor=2))
