"""Does one step of Scout fit four hosts of eight H100s, with moments in bfloat16?

python -m distill.plan experiments/pods/scout_gpu.py --topology h100:4x8
"""

from distill import AdamW, Mesh, Stage, launch
from experiments.pods.sizes import LENGTH, experiment, student
from models.config import SCOUT

MESH = Mesh(fsdp=4, expert=8)
LEARNER = student("scout", SCOUT, optimizer=AdamW(moments="bfloat16"))
STAGE = Stage(name="scout", learners=(LEARNER,), steps=1000, rows=MESH.size, length=LENGTH)
EXPERIMENT = experiment("scout_gpu", STAGE, mesh=MESH)

if __name__ == "__main__":
    launch(EXPERIMENT)
