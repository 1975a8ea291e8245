import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.config import SCOUT, SCOUT_PICO, RopeScaling
from models.layers import RMSNorm, Rotation, SwiGLU, contract, draw, frequencies, normalize, output_std

SPECS = [("btd,dhc->bthc", (2, 3, 8), (8, 4, 2)), ("btkgc,bskc->bkgts", (2, 3, 2, 2, 4), (2, 5, 2, 4))]


def _operands(key, left, right, dtype):
    keys = jax.random.split(key)
    return jax.random.normal(keys[0], left, dtype), jax.random.normal(keys[1], right, dtype)


@pytest.mark.parametrize(("spec", "left", "right"), SPECS)
def test_in_float32_contract_is_einsum(key, spec, left, right):
    a, b = _operands(key, left, right, jnp.float32)
    np.testing.assert_array_equal(contract(spec, a, b), jnp.einsum(spec, a, b))


@pytest.mark.parametrize(("spec", "left", "right"), SPECS)
def test_in_bfloat16_contract_adds_up_in_float32(key, spec, left, right):
    a, b = _operands(key, left, right, jnp.bfloat16)
    exact = np.einsum(spec, np.asarray(a, np.float64), np.asarray(b, np.float64))
    assert contract(spec, a, b).dtype == jnp.float32
    np.testing.assert_allclose(contract(spec, a, b), exact, atol=1e-5)


@pytest.mark.parametrize(("spec", "left", "right"), SPECS)
def test_gradients_of_a_bfloat16_contract_are_those_of_einsum(key, spec, left, right):
    a, b = _operands(key, left, right, jnp.bfloat16)
    got = jax.grad(lambda a, b: jnp.sum(contract(spec, a, b) ** 2), argnums=(0, 1))(a, b)
    wide = a.astype(jnp.float32), b.astype(jnp.float32)
    wanted = jax.grad(lambda a, b: jnp.sum(jnp.einsum(spec, a, b) ** 2), argnums=(0, 1))(*wide)
    for mine, theirs in zip(got, wanted, strict=True):
        assert mine.dtype == jnp.bfloat16
        np.testing.assert_allclose(mine.astype(jnp.float32), theirs, atol=0.02 * float(jnp.max(jnp.abs(theirs))))


def test_all_products_of_a_bfloat16_gradient_take_bfloat16_and_give_float32(key):
    spec, left, right = SPECS[0]
    a, b = _operands(key, left, right, jnp.bfloat16)
    step = jax.grad(lambda a, b: jnp.sum(contract(spec, a, b) ** 2), argnums=(0, 1))
    lines = [line for line in jax.jit(step).lower(a, b).as_text().splitlines() if "dot_general" in line]
    assert len(lines) == 3
    for line in lines:
        operands, result = line.split("->")
        assert operands.count("bf16") == 2
        assert "f32" in result


def test_a_normalised_vector_has_mean_square_one(key):
    x = 7 * jax.random.normal(key, (5, 64))
    np.testing.assert_allclose(jnp.mean(normalize(x, 1e-5) ** 2, axis=-1), 1, rtol=1e-5)


def test_rms_norm_scales_channels_and_keeps_the_dtype():
    norm = RMSNorm(2, eps=1e-5)
    norm.scale[...] = jnp.array([1.0, 3.0])
    y = norm(jnp.full((1, 1, 2), 5, jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y[0, 0].astype(jnp.float32), [1, 3], rtol=1e-2)


def test_swiglu_gates_with_the_first_half(key):
    layer = SwiGLU(1, 1, 1.0, key)
    layer.gate_up[...] = jnp.array([[[2.0], [5.0]]])
    layer.down[...] = jnp.array([[3.0]])
    silu = 2 / (1 + np.exp(-2))
    np.testing.assert_allclose(layer(jnp.ones((1, 1, 1))), silu * 5 * 3, rtol=1e-6)


def test_a_draw_has_the_std_asked_for_and_names_its_axes(key):
    param = draw(key, (100, 100), 0.25, ("d", "f"))
    np.testing.assert_allclose(jnp.std(param[...]), 0.25, rtol=0.03)
    assert param.axes == ("d", "f")


def test_projections_into_the_stream_start_smaller_with_depth():
    assert output_std(SCOUT_PICO, fan_in=64) == (64 * 2 * 4) ** -0.5


def test_scout_stretches_exactly_29_of_its_64_wavelengths():
    plain = frequencies(SCOUT.head_dim, SCOUT.rope_theta, None)
    scaled = frequencies(SCOUT.head_dim, SCOUT.rope_theta, SCOUT.rope_scaling)
    np.testing.assert_array_equal(scaled[:35], plain[:35])
    np.testing.assert_allclose(scaled[35:], plain[35:] / 16, rtol=1e-6)


def test_a_wavelength_between_the_bands_is_blended():
    # One pair of wavelength 2 pi; original 6 pi gives 3 turns, half way from 1 to 5: half kept, half divided by 8.
    scaling = RopeScaling(factor=8.0, low=1.0, high=5.0, original=19)
    turns = 19 / (2 * np.pi)
    kept = (turns - 1) / 4
    np.testing.assert_allclose(frequencies(2, 10000.0, scaling), [kept + (1 - kept) / 8], rtol=1e-6)


def test_a_rotation_turns_neighbouring_channels():
    quarter = Rotation(cos=jnp.array([[[0.0, 1.0]]]), sin=jnp.array([[[1.0, 0.0]]]))
    np.testing.assert_array_equal(quarter(jnp.array([[[[1.0, 2.0, 3.0, 4.0]]]]))[0, 0, 0], [-2, 1, 3, 4])


def test_position_zero_does_not_turn(key):
    x = jax.random.normal(key, (1, 1, 2, 16))
    np.testing.assert_array_equal(Rotation.at(jnp.zeros((1, 1), jnp.int32), SCOUT_PICO)(x), x)


def test_a_rotated_product_depends_on_distance_alone(key):
    q, k = jax.random.normal(key, (2, 1, 1, 1, 16))

    def score(i, j):
        turn = [Rotation.at(jnp.array([[position]]), SCOUT_PICO) for position in (i, j)]
        return jnp.sum(turn[0](q) * turn[1](k))

    np.testing.assert_allclose(score(9, 4), score(105, 100), rtol=1e-4)
