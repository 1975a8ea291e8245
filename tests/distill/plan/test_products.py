import pytest

from distill.plan import products
from distill.plan.hlo import Module
from tests.distill.plan.test_hlo import excerpt

DONE = 3 * 2 * 4096 * 1024 * 1024 * 6  # forward and both gradients of six products, over all devices
OWN = {
    "tpu_layers": 1615855616.0,
    "tpu_gathered": 3231973376.0,
    "cpu_layers": 3298820096.0,
    "cpu_gathered": 6583484416.0,
}
"""what the compilers count of these programs where a loop turns once"""


@pytest.mark.parametrize(("name", "devices", "a_layer"), [
    ("tpu_layers", 16, 1), ("tpu_gathered", 16, 2), ("cpu_layers", 8, 1), ("cpu_gathered", 8, 2),
])  # fmt: skip
def test_every_product_counts_as_often_as_it_is_made(name, devices, a_layer):
    found = products.read(excerpt(name))
    assert found.matrices == a_layer * DONE / devices
    assert found.labels == {"nd,df->nf": found.matrices}
    assert found.once == pytest.approx(OWN[name], rel=0.03)  # the compilers count tanh and sums too


def program(line: str, *operands: str) -> Module:
    given = "\n".join(f"  %p{n} = {shape} parameter({n})" for n, shape in enumerate(operands))
    return Module.parse(f"ENTRY %main () -> f32[] {{\n{given}\n  ROOT %out = {line}\n}}\n")


def test_a_batch_that_became_an_axis_of_space_is_not_counted_squared():
    """As a TPU writes scores of attention, bkgtc,bksc->bkgts: b = 8 and k = 2 are axes of space, dilated."""
    line = (
        "f32[8,2,8,64,128]{4,3,2,1,0} convolution(%p0, %p1), window={size=8x2x1 stride=7x1x1 lhs_dilate=8x2x1}, "
        'dim_labels=012bf_01oi2->012bf, metadata={op_name="jit(f)/bkgtc,bksc->bkgts/dot_general"}'
    )
    found = products.read(program(line, "bf16[8,2,8,64,16]{4,3,2,1,0}", "bf16[8,2,128,16,1]{4,3,2,1,0}"))
    assert found.attention == 2 * 8 * 2 * 8 * 64 * 128 * 16
    assert found.matrices == 0.0


def test_a_sum_over_two_axes_that_became_space_is_counted_whole():
    """bthc,hcd->btd with h = 16 as an axis of space."""
    line = "f32[8,512,32,1]{3,2,1,0} convolution(%p0, %p1), window={size=1x16}, dim_labels=0b1f_1io0->0bf1"
    shapes = "bf16[8,512,16,16]{3,2,1,0}", "bf16[16,16,32,1]{3,2,1,0}"
    assert products.read(program(line, *shapes)).matrices == 2 * 8 * 512 * 32 * 16 * 16


def test_padding_is_not_counted():
    """btd,dhc->bthc with h = 8 as an axis of space that begins as one place: seven of eight pairs are with padding."""
    line = (
        "f32[8,512,16,8,2]{4,3,2,1,0} convolution(%p0, %p1), "
        "window={size=1x8x2 pad=0_0x7_7x1_1 rhs_reversal=0x1x1}, dim_labels=0bf12_o12i0->0bf12"
    )
    found = products.read(program(line, "bf16[8,512,32,1,1]{4,3,2,1,0}", "bf16[16,8,2,32,1]{4,3,2,1,0}"))
    assert found.matrices == 2 * 8 * 512 * 32 * 16 * 8 * 2


@pytest.mark.parametrize(("result", "operands"), [
    ("f32[8192,832]{1,0}", ("bf16[8192,32]{1,0}", "bf16[16,32,832]{2,1,0}")),
    ("f32[16,32,832]{2,1,0}", ("bf16[8192,32]{1,0}", "bf16[8192,832]{1,0}")),
])  # fmt: skip
def test_a_grouped_product_in_a_kernel_and_its_gradient_are_counted_by_shapes(result, operands):
    line = f'{result} custom-call(%p0, %p1), custom_call_target="tpu_custom_call", metadata={{op_name="gmm"}}'
    found = products.read(program(line, *operands))
    assert found.grouped == 2 * 8192 * 32 * 832 and found.matrices == 0.0 and not found.kernels


def test_another_kernel_is_named():
    line = 'bf16[8,64]{1,0} custom-call(%p0), custom_call_target="tpu_custom_call", metadata={op_name="splash"}'
    found = products.read(program(line, "bf16[8,64]{1,0}"))
    assert found.kernels == {"out": 1.0} and found.matrices == found.grouped == 0.0
