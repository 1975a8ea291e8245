import ast
import configparser
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("models", "losses", "distill")
FILES = sorted(path for room in (*ROOMS, "experiments") for path in (ROOT / room).rglob("*.py"))
# Not needed to train on batches one has: these load when, and if, they are used.
LAZY = (
    "grain",
    "tensorflow_datasets",
    "tensorflow",
    "tyro",
    "matplotlib",
    "safetensors",
    "pandas",
    "PIL",
    "tiktoken",
    "tokenizers",
)
# Files that are about one of them. They are imported inside the functions that need them.
ADAPTERS = (
    "distill.figures",
    "distill.figures_curriculum",
    "distill.figures_exam",
    "distill.figures_rl",
    "distill.data.corpus",
    "distill.data.loader",
    "distill.plan.figure",
)


def modules(room: str) -> list[str]:
    paths = (path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / room).rglob("*.py")))
    return [".".join(path.parts).removesuffix(".__init__") for path in paths]


def imported(path: Path) -> set[str]:
    """Top-level names of what a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0] if node.level == 0 else path.relative_to(ROOT).parts[0])
    return names


def public(tree: ast.AST) -> list[ast.FunctionDef | ast.ClassDef]:
    """Public functions, classes, and methods of public classes."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            found += [node, *(public(node) if isinstance(node, ast.ClassDef) else [])]
    return found


def names(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(("room", "strangers"), [
    ("models", {"losses", "distill", "experiments"}),
    ("losses", {"models", "distill", "experiments"}),
    ("distill", {"experiments"}),
])  # fmt: skip
def test_a_room_does_not_import(room, strangers):
    for path in (ROOT / room).rglob("*.py"):
        assert not imported(path) & strangers, f"{names(path)} imports {imported(path) & strangers}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_this_repositorys(room):
    assert Path(importlib.import_module(room).__file__ or "") == ROOT / room / "__init__.py"


def test_the_core_imports_without_what_only_some_runs_need():
    core = [module for room in ROOMS for module in modules(room) if module not in ADAPTERS]
    core += ["benchmarks.gpu"]  # it is run on machines that have neither
    assert {"distill.mesh", "distill.step", "distill.state", "models.execution", "losses.split"} < set(core)
    code = f"""
import importlib, importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {LAZY}:
            raise AssertionError(f"{{name}} is imported at import time")

sys.meta_path.insert(0, Refuse())
for module in {json.dumps(core)}:
    importlib.import_module(module)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("path", FILES, ids=names)
def test_a_file_fits_on_two_pages_and_a_function_on_one(path):
    text = path.read_text()
    assert text.count("\n") <= 260, f"{names(path)} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            assert size <= 60, f"{names(path)}:{node.lineno} {node.name} has {size} lines"


@pytest.mark.parametrize("path", FILES, ids=names)
def test_every_public_name_says_what_it_is(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{names(path)} does not say what it is"
    for node in public(tree):
        assert ast.get_docstring(node), f"{names(path)}:{node.lineno} {node.name} does not say what it is"


@pytest.mark.parametrize("path", FILES, ids=names)
def test_every_public_function_says_its_types(path):
    for node in public(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [one.arg for one in arguments if one.annotation is None and one.arg not in ("self", "cls")]
            assert not bare and node.returns, f"{names(path)}:{node.lineno} {node.name}: {bare or 'what it returns'}"


def test_what_the_readme_writes_is_an_experiment():
    from distill.options import parse

    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = {"__name__": "readme"}
    exec("\n".join(blocks[:-1]), names)  # the last one reads a run
    options = parse(names["EXPERIMENT"], ["--stages.1.steps", "7"])
    assert options.experiment.name == "sure" and options.experiment.stages[1].steps == 7


def test_an_experiment_that_is_run_by_its_file_imports_no_other():
    """Its folder is no package that is installed; `python -m experiments.name` finds the others, from the root."""
    texts = [ROOT / "Makefile", *ROOT.glob("*.md"), *ROOT.glob("experiments/*")]
    told = "".join(path.read_text() for path in texts if path.is_file())
    by_file = set(re.findall(r"python experiments/(\w+)\.py", told))
    assert "herd" in by_file
    for name in by_file:
        assert "from experiments" not in (ROOT / "experiments" / f"{name}.py").read_text(), name


def test_what_is_asked_for_is_pinned():
    """An extra that came after the last `make lock` would be installed in whatever version there is that day."""
    asked = configparser.ConfigParser()
    asked.read(ROOT / "setup.cfg")
    lines = [asked["options"]["install_requires"], *asked["options.extras_require"].values()]
    wanted = {re.split(r"[\[<>=~! ]", line)[0] for line in "\n".join(lines).splitlines() if line and line[0] != "#"}
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert "jax" in wanted and not wanted - set(pinned)
