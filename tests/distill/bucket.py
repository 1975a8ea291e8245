"""A bucket in memory: what epath asks of gs:// goes through fsspec, as with gcsfs, to a store of objects.

proofs/bucket.py asks the same of gcsfs and orbax, with a server of Google's protocol behind them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from etils.epath import backend
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from fsspec.registry import _registry


class Put(MemoryFile):
    """An object that is being written: it is there when it is closed, and not before."""

    put = False

    def close(self) -> None:
        """Puts it, once."""
        if not self.put:
            self.put = True
            Objects.store[self.path] = MemoryFile(self.fs, self.path, self.getvalue())


class Objects(MemoryFileSystem):
    """Objects by name, and no folders but as beginnings of names."""

    protocol = ("gs", "gcs")
    store: dict = {}
    puts: list[str] = []
    """names that were written, in order"""

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return "/" + str(path).removeprefix("gs:/").strip("/")

    @property
    def pseudo_dirs(self) -> list[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """None: whatever is made is gone at once."""
        return [""]

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """A bucket has no folders."""

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """A bucket has no folders."""

    def _open(self, path: str, mode: str = "rb", *args: Any, **kwargs: Any) -> Any:
        name = self._strip_protocol(path)
        if mode == "wb":
            self.puts.append(name)
            return Put(self, name)
        assert mode == "rb", "objects are not appended to"
        if name not in self.store:
            raise FileNotFoundError(path)
        return MemoryFile(self, name, self.store[name].getvalue())


@contextmanager
def bucket() -> Iterator[type[Objects]]:
    """An empty store under gs://, for the block."""
    Objects.store, Objects.puts = {}, []
    fsspec.register_implementation("gcs", Objects, clobber=True)
    backend.fsspec_backend._get_filesystem.cache_clear()
    Objects.clear_instance_cache()
    try:
        yield Objects
    finally:
        _registry.pop("gcs")
        backend.fsspec_backend._get_filesystem.cache_clear()
