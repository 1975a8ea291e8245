import itertools

from distill import Mesh
from distill.plan.search import likest


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


def test_its_first_device_stays():
    assert all(mesh.first == 8 for mesh in likest(Mesh(fsdp=4, first=8), 4))


def _product(sizes: tuple[int, ...]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product
