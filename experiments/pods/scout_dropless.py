"""The step of Scout on 32 v5p chips if no token is dropped: what does the room for the worst case cost?

python -m distill.plan experiments/pods/scout_dropless.py --topology v5p:2x4x4
"""

from dataclasses import replace

from distill import launch
from experiments.pods.scout import MESH, STAGE
from experiments.pods.sizes import POD, experiment

EXPERIMENT = experiment("scout_dropless", STAGE, mesh=MESH, execution=replace(POD, dispatch=None))

if __name__ == "__main__":
    launch(EXPERIMENT)
