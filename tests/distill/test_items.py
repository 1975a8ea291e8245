"""Trees under names, and back."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from distill.items import like, named_items, named_leaves, nested


def test_names_are_dotted_paths_in_flattening_order():
    tree = {"a": [jnp.zeros(1), (jnp.zeros(2),)], "b": None}
    assert list(named_leaves(tree)) == ["a.0", "a.1.0"]


def test_the_value_of_a_variable_has_the_name_of_its_attribute():
    class Linear(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.ones(3))

    assert list(named_leaves({"head": Linear()})) == ["head.w"]


def test_nested_is_the_tree_of_the_names():
    assert nested({"a.b": 1, "a.c.d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


def test_like_puts_the_leaves_back():
    tree = {"a": [jnp.zeros(1), (jnp.ones(2),)], "b": None}
    back = like({"x": {"model": tree}}, named_items({"x": {"model": tree}}))["x"]["model"]
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), back, tree))


def test_two_leaves_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two leaves of the tree are called 'a.b'"):
        named_leaves({"a.b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}})


def test_a_leaf_that_is_also_a_parent_is_refused():
    with pytest.raises(ValueError, match="'a' is both an array and a parent of 'a.b'"):
        named_leaves({"a": jnp.zeros(1), "a.b": jnp.zeros(1)})


def test_a_learner_whose_name_is_no_folder_is_refused():
    with pytest.raises(ValueError, match="learner 'a/b', part 'model': cannot name a folder"):
        named_items({"a/b": {"model": {}}})


def test_a_leaf_that_is_no_array_is_refused():
    with pytest.raises(ValueError, match="scout.rest 'step' is a int; only arrays are saved"):
        named_items({"scout": {"rest": {"step": 3}}})


def test_a_typed_key_is_refused():
    with pytest.raises(ValueError, match="'key' is a typed PRNG key; save jax.random.key_data"):
        named_items({"scout": {"rest": {"key": jax.random.key(0)}}})
