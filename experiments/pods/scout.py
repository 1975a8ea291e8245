"""Does one step of Scout fit 32 v5p chips, with float32 moments and rows of 8192 tokens, one a chip?

python -m distill.plan experiments/pods/scout.py --topology v5p:2x4x4
"""

from distill import Stage, launch
from distill.presets import preset
from experiments.pods.sizes import LENGTH, experiment, student
from models.config import SCOUT

MESH = preset(32)
STAGE = Stage(name="scout", learners=(student("scout", SCOUT),), steps=1000, rows=MESH.size, length=LENGTH)
EXPERIMENT = experiment("scout", STAGE, mesh=MESH)

if __name__ == "__main__":
    launch(EXPERIMENT)
