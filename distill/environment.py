"""What a run runs on: versions, the git commit, the devices."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from distill.resolved import Difference, differences

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def environment() -> dict[str, Any]:
    """What this process runs on: versions, the project's git commit (None outside its repository), devices."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(Path(__file__).resolve().parents[1]),
        "devices": [jax.default_backend(), jax.devices()[0].device_kind, jax.device_count()],
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def changed(old: dict[str, Any], new: dict[str, Any]) -> list[Difference]:
    """Where two environments differ; the command and the time always do and do not count."""
    one, other = ({k: v for k, v in each.items() if k not in ("command", "started")} for each in (old, new))
    return differences(one, other)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit(root: Path) -> str | None:
    """The commit checked out at `root`, with "+" when files differ from it; None when `root` is no repository."""
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        dirty = subprocess.run(["git", "-C", root, "status", "--porcelain"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
