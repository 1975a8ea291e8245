"""What the default corpus is made of: Python files that are on the machine anyway, read as text, never imported."""

import ast
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from distill.data.partition import Passage

SHORTEST = 128
"""characters; a shorter passage is left out"""
LONGEST = 16_384
"""characters; a longer passage is cut into several, so that no file fills a batch"""
PACKAGES = (
    # distribution, folder, licence: our own pinned dependencies, so that the text is pinned with them
    ("einops", "einops", "MIT"),
    ("flax", "flax", "Apache-2.0"),
    ("grain", "grain", "Apache-2.0"),
    ("jax", "jax", "Apache-2.0"),
    ("matplotlib", "matplotlib", "Matplotlib (PSF-based)"),
    ("numpy", "numpy", "BSD-3-Clause"),
    ("optax", "optax", "Apache-2.0"),
    ("orbax-checkpoint", "orbax/checkpoint", "Apache-2.0"),
    ("scipy", "scipy", "BSD-3-Clause"),
    ("tensorflow-datasets", "tensorflow_datasets", "Apache-2.0"),
)

# Tests repeat themselves; encodings and pydoc_data are tables; the rest belongs to the machine, not to the language.
_SKIPPED = {
    *("test", "tests", "testing", "idle_test", "idlelib", "encodings", "pydoc_data", "lib2to3", "ensurepip"),
    *("site-packages", "dist-packages", "__pycache__", "_vendor", "vendor", "third_party"),
    *("conftest.py", "sitecustomize.py", "usercustomize.py"),
}
_SKIPPED_STARTS = ("_sysconfigdata", "config-", "test_")


Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A folder of Python files."""

    name: str
    root: Path
    version: str
    licence: str
    docstrings: bool
    """True: a document is a docstring (`docs`); False: a document is a file (`code`)"""

    def passages(self) -> Iterator[Passage]:
        """Documents of every file, in the order of their paths.

        Raises:
          ValueError: the folder is not there.
        """
        if not self.root.is_dir():
            raise ValueError(
                f"the text of {self.name!r} is not at {self.root}; install it again (make clean, then make herd)"
            )
        relative = sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*.py"))
        for path in relative:
            if not _skipped(path):
                yield from self._of_file(path)

    def _of_file(self, path: str) -> Iterator[Passage]:
        raw = (self.root / path).read_bytes()
        try:
            text = raw.decode("utf-8-sig").replace("\r\n", "\n")
            texts = docstrings(text) if self.docstrings else [text.strip() + "\n"]
        except (SyntaxError, ValueError):  # not UTF-8, or a template that is not Python: nothing to learn from
            return
        for whole in texts:
            for piece in pieces(whole, LONGEST):
                if len(piece) >= SHORTEST:
                    yield Passage(f"{self.name}/{path}", "docs" if self.docstrings else "code", piece)


def installed() -> tuple[Tree, ...]:
    """The trees of the default corpus: the standard library's code, and the docstrings of our dependencies.

    Raises:
      ValueError: a dependency is not installed.
    """
    python = Tree(
        name="python",
        root=Path(sysconfig.get_paths()["stdlib"]),
        version=platform.python_version(),
        licence="PSF-2.0",
        docstrings=False,
    )
    return (python, *(package(*row) for row in PACKAGES))


def package(distribution: str, folder: str, licence: str) -> Tree:
    """The docstrings of an installed distribution.

    Raises:
      ValueError: it is not installed.
    """
    try:
        found = metadata.distribution(distribution)
    except metadata.PackageNotFoundError as error:
        raise ValueError(
            f"the default corpus reads the docstrings of {distribution}, which is not installed; "
            f"install it, or bring your own text (Folder, Jsonl, Tfds)"
        ) from error
    root = Path(str(found.locate_file(folder)))
    return Tree(name=distribution, root=root, version=found.version, licence=licence, docstrings=True)


def docstrings(code: str) -> list[str]:
    """Docstrings of a module, its classes and its functions, in the order of the file.

    Raises:
      SyntaxError: the text is not Python.
    """
    if '"""' not in code and "'''" not in code:  # parsing is what takes the time
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's invalid escapes
        module = ast.parse(code)
    found = (ast.get_docstring(node) for node in _documented(module))
    # A docstring may hold an escaped lone surrogate, which no UTF-8 file can.
    return [text.encode("utf-8", "replace").decode() + "\n" for text in found if text]


def pieces(text: str, longest: int) -> Iterator[str]:
    """Pieces of at most `longest` characters, cut before a top-level block, else after a line, else anywhere."""
    start = 0
    while len(text) - start > longest:
        window = text[start : start + longest]
        line = window.rfind("\n") + 1
        block = next((i + 2 for i in _falling(window, "\n\n") if window[i + 2 : i + 3].strip()), 0)
        cut = block if block > longest // 4 else line or longest
        yield window[:cut]
        start += cut
    yield text[start:]


def _skipped(path: str) -> bool:
    parts = path.split("/")
    return bool(_SKIPPED & set(parts)) or any(p.startswith(_SKIPPED_STARTS) for p in parts) or path.endswith("_test.py")


def _documented(node: Documented) -> Iterator[Documented]:
    yield node
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _documented(child)


def _falling(text: str, mark: str) -> Iterator[int]:
    end = len(text)
    while (end := text.rfind(mark, 0, end)) >= 0:
        yield end
