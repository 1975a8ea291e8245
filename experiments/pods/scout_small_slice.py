"""Does one step of Scout fit 16 v5p chips, if moments and gradients are kept in bfloat16?

python -m distill.plan experiments/pods/scout_small_slice.py --topology v5p:2x2x4
"""

from dataclasses import replace

from distill import AdamW, Stage, launch
from distill.presets import preset
from experiments.pods.sizes import LENGTH, POD, experiment, student
from models.config import SCOUT

MESH = preset(16)
LEARNER = student("scout", SCOUT, optimizer=AdamW(moments="bfloat16"))
STAGE = Stage(name="scout", learners=(LEARNER,), steps=1000, rows=MESH.size, length=LENGTH)
EXPERIMENT = experiment("scout_small_slice", STAGE, mesh=MESH, execution=replace(POD, gradients="bfloat16"))

if __name__ == "__main__":
    launch(EXPERIMENT)
