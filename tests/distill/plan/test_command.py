"""The command, in a process of its own: what it compiles for is set in the environment before anybody asks JAX."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distill.plan.__main__ import main

ROOT = Path(__file__).resolve().parents[3]
SHRUNKEN = """
from dataclasses import replace

from distill import Experiment, Learner, Mesh, Stage
from models.config import SCOUT_NANO
from models.execution import Execution
from models.moe import Capacity
from models.remat import Inputs

MODEL = replace(SCOUT_NANO, width=256, heads=2, kv_heads=1, head_dim=128, expert_width=512, layers=4, vocab=2048)
EXPERIMENT = Experiment(
    name="shrunken",
    stages=(Stage(name="learn", learners=(Learner(name="scout", model=MODEL),), steps=10, rows=16, length=256),),
    mesh=Mesh(data=2, fsdp=2, expert=4),
    execution=Execution(dtype="bfloat16", remat=Inputs(), dispatch=Capacity()),
)
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "shrunken.py").write_text(SHRUNKEN)
    kept = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    return subprocess.run(
        [sys.executable, "-m", "distill.plan", str(folder / "shrunken.py"), *arguments],
        capture_output=True, text=True, cwd=ROOT, env=kept | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.timeout(600)
def test_a_shrunken_scout_is_compiled_for_sixteen_chips_and_its_products_are_those_of_the_formula(tmp_path):
    pytest.importorskip("libtpu")
    done = run(tmp_path, "--topology", "v5e:4x4", "--json", str(tmp_path / "plan.json"))
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads((tmp_path / "plan.json").read_text())
    (program,) = told["programs"]
    assert told["fits"] and program["fit"]["by"] == "peak of a finished compile"
    assert program["comparison"]["ratio"] == pytest.approx(1.0, abs=0.03)
    assert program["comparison"]["own"] == pytest.approx(1.0, abs=0.1)  # sums and exponentials are in it, and small
    exchanged = [row for row in program["collectives"] if row["kind"] == "all-to-all" and row["axes"] == ["expert"]]
    assert exchanged[0]["times"] == 4 * (2 + 1 + 2)  # in a layer there and back, there again, and their gradients
    known = sum(row["bytes"] for row in program["memory"] if row["known"] == "shapes and shardings")
    padding = next(row["bytes"] for row in program["memory"] if row["what"] == "padding of arguments")
    assert 0 <= padding < 0.1 * known
    assert 0 < told["total"]["none"]["mfu"] <= told["total"]["part"]["mfu"] <= told["total"]["all"]["mfu"] < 1
    assert "fits on v5e:4x4: every program's compile is finished" in done.stdout and "--rates.matmul" in done.stdout


def test_a_mesh_of_more_devices_than_there_are_is_refused_with_what_fits(tmp_path):
    pytest.importorskip("libtpu")
    done = run(tmp_path, "--topology", "v5e:2x4")
    assert done.returncode == 1
    assert "needs 16 devices, found 8 (tpu)" in done.stderr


def test_a_topology_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--topology 'v5p' is no chip and its layout"):
        main([str(tmp_path / "none.py"), "--topology", "v5p"])


@pytest.mark.parametrize(("options", "message"), [
    (("--rates.slow", "data"), "--rates.slow data: write AXIS=BYTES, data=1e9; axes are data, fsdp, expert"),
    (("--rates.slow", "data=x"), "--rates.slow data=x: write AXIS=BYTES"),
    (("--rates.slow", "dta=1e9"), "--rates.slow dta=1e9: write AXIS=BYTES"),
    (("--rates.slow", "data=0"), "rate of axis data is 0.0; it must be above 0"),
    (("--rates.link", "-1"), "rate link is -1.0; it is a share, above 0 and at most 1"),
    (("--tokens", "0"), "--tokens 0: a budget is a number of tokens above 0"),
    (("--tokens", "nan"), "--tokens nan: a budget is a number of tokens above 0"),
    (("--limit", "0"), "--limit 0: a compile needs at least 1 s of processor"),
])  # fmt: skip
def test_an_option_that_cannot_be_is_refused_before_anything_is_read(options, message):
    with pytest.raises(ValueError, match=message):
        main(["none.py", "--topology", "v5e:4x4", *options])


def test_a_place_for_the_plan_is_made_before_it_is_compiled(tmp_path):
    for place, message in ((tmp_path / "new" / "plan.json", "there is no file none.py"), (tmp_path, "is a folder")):
        with pytest.raises(ValueError, match=message):
            main(["none.py", "--topology", "v5e:4x4", "--json", str(place)])
    assert (tmp_path / "new").is_dir()


def test_an_experiment_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no file .*none.py"):
        main([str(tmp_path / "none.py"), "--topology", "v5e:4x4"])


def test_without_the_compiler_the_extra_is_named(tmp_path):
    if importlib.util.find_spec("libtpu"):
        pytest.skip("libtpu is installed")
    (tmp_path / "shrunken.py").write_text(SHRUNKEN)
    with pytest.raises(ValueError, match=r"v5e:4x4 is compiled for by libtpu, .*-e '\.\[tpu\]'"):
        main([str(tmp_path / "shrunken.py"), "--topology", "v5e:4x4"])
