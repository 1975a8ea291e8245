"""The items of a checkpoint: trees as nested dicts of arrays under stable names, and back."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def named_leaves(tree: Any) -> dict[str, Any]:
    """Every leaf of `tree` under its dotted path, in flattening order: `periods.attention.q`, `opt.0.mu.embed`.

    The `.value` that flax.nnx puts below each of its variables is dropped: the name is the attribute's. The names are
    those of the folders and logs on disk, so they do not depend on the classes of the containers.

    Raises:
        ValueError: two leaves share a name, or one's name is the parent of another's.
    """
    leaves = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        keys = [_key(key) for key in path]
        if len(keys) > 1 and path[-1] == jax.tree_util.GetAttrKey("value"):
            keys.pop()
        name = ".".join(keys) or "value"
        if name in leaves:
            raise ValueError(f"two leaves of the tree are called {name!r}; rename one of the fields or keys")
        leaves[name] = leaf
    for name in leaves:
        parts = name.split(".")
        for size in range(1, len(parts)):
            if ".".join(parts[:size]) in leaves:
                raise ValueError(f"{'.'.join(parts[:size])!r} is both an array and a parent of {name!r}; rename one")
    return leaves


def named_items(learners: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{"scout": {"model": tree}} as {"scout.model": {name: leaf}}: the items of a checkpoint and their arrays by name.

    Raises:
        ValueError: a learner's or part's name cannot be a folder's, or a leaf is not an array that can be saved.
    """
    found = {}
    for learner, parts in learners.items():
        for part, tree in parts.items():
            item = f"{learner}.{part}"
            if not re.fullmatch(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", item):
                raise ValueError(f"learner {learner!r}, part {part!r}: cannot name a folder; use letters, digits, _, -")
            found[item] = named_leaves(tree)
            for name, leaf in found[item].items():
                if not isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
                    raise ValueError(
                        f"{item} {name!r} is a {type(leaf).__name__}; only arrays are saved: wrap it in "
                        "jnp.asarray, or put it into meta"
                    )
                if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                    raise ValueError(f"{item} {name!r} is a typed PRNG key; save jax.random.key_data(key) instead")
    return found


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": x} as {"a": {"b": x}}: the tree that lies on disk, free of the classes of modules and optimizers."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = leaf
    return tree


def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding to read an array into; the first device where `leaf` has no sharding."""
    sharding = None if isinstance(leaf, np.ndarray) else leaf.sharding
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def like(
    learners: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Trees of the structure of `learners` with the leaves of `arrays`, which are by item and name."""
    return {
        learner: {
            part: jax.tree.unflatten(jax.tree.structure(tree), arrays[f"{learner}.{part}"].values())
            for part, tree in parts.items()
        }
        for learner, parts in learners.items()
    }


def _key(key: Any) -> str:
    match key:
        case jax.tree_util.GetAttrKey(name=name):
            return str(name)
        case jax.tree_util.DictKey(key=name) | jax.tree_util.FlattenedIndexKey(key=name):
            return str(name)
        case jax.tree_util.SequenceKey(idx=index):
            return str(index)
    return str(key)
