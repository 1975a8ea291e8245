"""Scout on documents of 1M tokens: which is the smallest slice that holds it? One row, on all chips together.

python -m distill.plan experiments/pods/scout_1m.py --topology v5p:2x4x4
"""

from dataclasses import replace

from distill import Mesh, Stage, launch
from experiments.pods.sizes import LONG, POD, experiment, student
from models.across import Gather

MESH = Mesh(context=32)
STAGE = Stage(name="long", learners=(student("scout", LONG),), steps=1000, rows=1, length=2**20)
EXECUTION = replace(POD, across=Gather(parts=8), gradients="bfloat16")
EXPERIMENT = experiment("scout_1m", STAGE, mesh=MESH, execution=EXECUTION)

if __name__ == "__main__":
    launch(EXPERIMENT)
