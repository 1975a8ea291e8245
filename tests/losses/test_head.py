import jax
import jax.numpy as jnp
import numpy as np
import pytest

from losses.head import project, pull


@pytest.fixture
def sides(key):
    one, two, three = jax.random.split(key, 3)
    return jax.random.normal(one, (2, 3, 4)), jax.random.normal(two, (4, 5)), jax.random.normal(three, (2, 3, 5))


def test_the_gradients_are_those_of_a_matrix_product(sides):
    hidden, head, cotangent = sides
    _, back = jax.vjp(project, hidden, head)
    _, plain = jax.vjp(lambda hidden, head: hidden @ head, hidden, head)
    for got, want in zip(back(cotangent), plain(cotangent), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_all_three_products_read_bfloat16_and_write_float32(sides):
    hidden, head = (x.astype(jnp.bfloat16) for x in sides[:2])
    products = [
        equation
        for call, inputs in ((lambda h, w: project.fun(h, w), (hidden, head)), (pull, (hidden, head, sides[2])))
        for equation in jax.make_jaxpr(call)(*inputs).eqns
        if equation.primitive.name == "dot_general"
    ]
    assert len(products) == 3
    for product in products:
        assert {str(x.aval.dtype) for x in product.invars} == {"bfloat16"}
        assert str(product.outvars[0].aval.dtype) == "float32"


def test_the_gradients_come_back_in_the_precision_of_their_inputs(sides):
    hidden, head = sides[0].astype(jnp.bfloat16), sides[1].astype(jnp.bfloat16)
    _, back = jax.vjp(project, hidden, head)
    assert {g.dtype for g in back(sides[2])} == {jnp.dtype(jnp.bfloat16)}
