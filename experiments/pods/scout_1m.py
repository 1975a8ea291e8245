"""Scout on documents of 1M tokens: which is the smallest slice that holds it?

python -m distill.plan experiments/pods/scout_1m.py --topology v5p:4x4x8
"""

from dataclasses import replace

from distill import Mesh, Stage, launch
from experiments.pods.sizes import LONG, POD, experiment, student
from models.across import Gather

MESH = Mesh(expert=4, context=32)
STAGE = Stage(name="long", learners=(student("scout", LONG),), steps=1000, rows=4, length=2**20)
EXPERIMENT = experiment("scout_1m", STAGE, mesh=MESH, execution=replace(POD, across=Gather(parts=8)))

if __name__ == "__main__":
    launch(EXPERIMENT)
