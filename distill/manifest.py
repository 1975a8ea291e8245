"""The manifest of a checkpoint: what is in it, by name, so that what is read back can be held against it."""

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

from distill.fingerprint import describe, fingerprint

SCHEMA = 1


def compose(
    step: int,
    found: Mapping[str, Mapping[str, Any]],
    *,
    data: list[int] | None,
    meta: Mapping[str, Any],
    score: float | None,
) -> dict[str, Any]:
    """The manifest of a checkpoint, with a digest of itself.

    Args:
        step: optimizer steps done.
        found: the arrays by item and name, as of `items`.
        data: one checksum of the data iterator's state per process, or None.
        meta: the caller's, JSON.
        score: lower is better, or None.

    Raises:
        ValueError: meta is not JSON.
    """
    try:
        plain = json.loads(json.dumps(dict(meta)))
    except TypeError as error:
        raise ValueError(f"meta must be JSON (numbers, strings, lists, dicts): {error}") from error
    described = {
        item: {name: [describe(leaves[name]), value] for name, value in fingerprint(leaves).items()}
        for item, leaves in found.items()
    }
    manifest = {
        "schema": SCHEMA,
        "step": step,
        "score": None if score is None else float(score),
        "items": described,
        "data": data,
        "meta": plain,
    }
    return {**manifest, "digest": _digest(manifest)}


def check_whole(manifest: Mapping[str, Any]) -> None:
    """Raises ValueError when the manifest is not as it was written, or of a schema this version does not know."""
    if manifest["digest"] != _digest({name: value for name, value in manifest.items() if name != "digest"}):
        raise ValueError("its manifest was changed: the digest does not match")
    if manifest["schema"] != SCHEMA:
        raise ValueError(f"its schema is {manifest['schema']}, this version reads {SCHEMA}")


def check_fits(place: str, manifest: Mapping[str, Any], wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses a checkpoint whose arrays are not those wanted, by item and name, with their shapes and dtypes.

    Raises:
        ValueError: naming the first that differs, expected and found.
    """
    for item, leaves in wanted.items():
        if item not in manifest["items"]:
            raise ValueError(f"{place} holds {sorted(manifest['items'])}, not {item!r}; name a learner that it holds")
        found = {name: kind for name, (kind, _) in manifest["items"][item].items()}
        expected = {name: describe(leaf) for name, leaf in leaves.items()}
        for name in [*expected, *found]:
            if expected.get(name) != found.get(name):
                raise ValueError(
                    f"{place} is of another architecture or optimizer: {item} differs first at {name!r}, expected "
                    f"{expected.get(name, 'nothing')}, found {found.get(name, 'nothing')}; use the configuration it "
                    "was trained with, or another run folder"
                )


def check_values(manifest: Mapping[str, Any], arrays: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError at the first array, by item and name, whose fingerprint is not the one it was saved with."""
    for item, leaves in arrays.items():
        for name, value in fingerprint(leaves).items():
            saved = manifest["items"][item][name][1]
            if value != saved:
                raise ValueError(f"the values of {item} {name!r} were changed: fingerprint {value}, saved {saved}")


def checksum(state: Any) -> int:
    """CRC-32 of a data iterator's state: a JSON value, or the bytes of one (grain has both)."""
    if isinstance(state, bytes):
        state = json.loads(state)
    return zlib.crc32(json.dumps(state, sort_keys=True).encode())


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def with_tuples(state: Any) -> Any:
    """The state of a data iterator with its pairs as tuples again, which JSON made lists.

    grain's packing compares a slice with the tuple (-1, -1): `grain.checkpoint` gives it the list, and the iterator
    then goes on from another place than the one saved (grain 0.2.18).
    """
    if isinstance(state, dict):
        return {name: with_tuples(value) for name, value in state.items()}
    if isinstance(state, list) and all(isinstance(one, int) for one in state):
        return tuple(state)
    return [with_tuples(one) for one in state] if isinstance(state, list) else state
