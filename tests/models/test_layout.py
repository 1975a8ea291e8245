import jax.numpy as jnp
import numpy as np

from models.layout import Layout


def test_a_dense_layout_is_one_aligned_document_a_row():
    layout = Layout.dense(2, 3)
    np.testing.assert_array_equal(layout.positions, [[0, 1, 2]] * 2)
    np.testing.assert_array_equal(layout.segments, [[1, 1, 1]] * 2)
    assert layout.aligned


def test_positions_start_where_left_padding_ends():
    layout = Layout.left_padded(jnp.array([[False, False, True, True]]))
    np.testing.assert_array_equal(layout.positions, [[0, 0, 0, 1]])
    np.testing.assert_array_equal(layout.valid, [[False, False, True, True]])
    np.testing.assert_array_equal(layout.tempering, layout.positions)
    assert not layout.aligned


def test_transformers_tempers_by_column():
    layout = Layout.left_padded(jnp.array([[False, False, True, True]]), huggingface=True)
    np.testing.assert_array_equal(layout.tempering, [[0, 1, 2, 3]])
    np.testing.assert_array_equal(layout.positions, [[0, 0, 0, 1]])
