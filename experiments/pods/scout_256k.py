"""Scout on documents of 256k tokens, each over 32 chips: does it fit 512 v5p chips?

python -m distill.plan experiments/pods/scout_256k.py --topology v5p:8x8x8
"""

from distill import Mesh, Stage, launch
from experiments.pods.sizes import LONG, experiment, student

MESH = Mesh(fsdp=2, expert=8, context=32)
STAGE = Stage(name="long", learners=(student("scout", LONG),), steps=1000, rows=16, length=2**18)
EXPERIMENT = experiment("scout_256k", STAGE, mesh=MESH)

if __name__ == "__main__":
    launch(EXPERIMENT)
