import itertools

import jax

from distill import Mesh
from distill.plan.search import Search, likest, with_mesh
from distill.plan.topology import Topology
from experiments.pods.scout import EXPERIMENT


def told(mesh: Mesh) -> tuple[int, ...]:
    return tuple(size for size in mesh.shape)


def test_the_likest_meshes_come_first_and_larger_ones_later():
    found = list(likest(Mesh(fsdp=8), 16))
    assert found[0].size == 8 and found[-1].size == 16
    sizes = [mesh.size for mesh in found]
    assert sizes == sorted(sizes)
    assert {told(mesh) for mesh in found[:4]} == {
        (2, 4, 1, 1, 1), (1, 4, 2, 1, 1), (1, 4, 1, 2, 1), (1, 4, 1, 1, 2)
    }  # fmt: skip


def test_every_mesh_of_the_size_comes_once_but_the_one_that_was_asked_for():
    found = [told(mesh) for mesh in likest(Mesh(fsdp=4), 4)]
    every = {sizes for sizes in itertools.product((1, 2, 4), repeat=5) if _product(sizes) == 4}
    assert len(found) == len(set(found)) and set(found) == every - {(1, 4, 1, 1, 1)}


def test_of_two_that_are_alike_the_one_of_fewer_copies_and_more_parts_is_first():
    found = list(likest(Mesh(data=2, fsdp=4, expert=4), 32))
    assert found[0] == Mesh(fsdp=8, expert=4) and found[1] == Mesh(fsdp=4, expert=8)


def test_its_first_device_stays():
    assert all(mesh.first == 8 for mesh in likest(Mesh(fsdp=4, first=8), 4))


def test_a_model_that_no_mesh_can_hold_is_refused_with_every_reason_and_nothing_is_compiled(capsys):
    told = Search(["scout.py"], EXPERIMENT, None, Topology.parse("h100:1x8"), 60.0, jax.devices())()
    asked, halved = told["search"]["tried"]  # no other of the size is asked for
    assert asked["mesh"]["fsdp"] == 8 and asked["outcome"].startswith("refused: ") and "found 8" in asked["outcome"]
    assert halved["outcome"] == "too large by its arguments and gradients alone" and halved["bytes"] > 200e9
    assert not told["fits"] and "1,724 GB together, for which 23 devices have the memory" in told["search"]["end"]
    said = capsys.readouterr().err
    assert "fsdp 8 x expert 4: refused: " in said and "too large by its arguments" in said and "compile 1" not in said


def test_a_mesh_larger_than_what_is_there_is_halved_first():
    assert {mesh.size for mesh in likest(Mesh(fsdp=32), 16)} == {16}


def test_the_command_of_a_mesh_is_the_one_that_was_given_without_the_search():
    given = "my.py --topology v5p:2x4x4 --search --json=out --limit 60 --mesh.fsdp 32 --mesh.data=1"
    assert with_mesh(given.split(), Mesh(fsdp=8, expert=4)) == [
        "my.py", "--topology", "v5p:2x4x4", "--mesh.data", "1", "--mesh.fsdp", "8", "--mesh.expert", "4",
        "--mesh.context", "1", "--mesh.tensor", "1",
    ]  # fmt: skip


def _product(sizes: tuple[int, ...]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product
