"""The table of stored.py, and what its renormalised students hear."""

import jax.numpy as jnp
import numpy as np

from experiments.stored import CUTS, SETTINGS, Cut, table
from losses import Dense
from losses.sparse import top_k


def test_a_cut_teacher_gives_its_top_tokens_all_of_the_mass():
    teacher = Dense(jnp.log(jnp.asarray([[[0.5, 0.3, 0.1, 0.1]]])))
    labels = jnp.zeros((1, 1), jnp.int32)
    cut = Cut()(top_k(teacher, labels, 2), labels)
    np.testing.assert_allclose(cut.weights[0, 0], [0.625, 0.375], rtol=1e-6)
    np.testing.assert_array_equal(cut.ids[0, 0], [0, 1])


def test_the_table_holds_every_student_against_the_one_that_heard_the_teacher():
    found = [{"live": (2.0, None), "top-4": (2.1, 22.0)}, {"live": (3.0, None), "top-4": (3.3, 22.0)}]
    head, live, top = table(found)
    assert "bytes a token" in head
    assert live.split() == ["live", "2.5000"]
    assert top.split()[:4] == ["top-4", "22.0", "2.7000", "+0.2"] and "0 of 2 below" in top


def test_what_is_cut_is_a_store_of_top_tokens():
    assert all("kind" not in SETTINGS[name] for name in CUTS)
