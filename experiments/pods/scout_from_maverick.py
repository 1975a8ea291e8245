"""Scout taught by a live Maverick on 512 v5p chips: does it fit, and how busy are they?

python -m distill.plan experiments/pods/scout_from_maverick.py --topology v5p:8x8x8
"""

from distill import Mesh, Stage, launch
from distill.hold import Bfloat16
from experiments.pods.sizes import LENGTH, experiment, student, teaching
from models.config import MAVERICK, SCOUT

MESH = Mesh(fsdp=64, expert=8)
STAGE = Stage(
    name="distil", learners=(student("scout", SCOUT),), teacher="maverick", teacher_as=Bfloat16(), steps=1000,
    rows=MESH.size, length=LENGTH,
)  # fmt: skip
EXPERIMENT = experiment("scout_from_maverick", teaching("maverick", MAVERICK, MESH), STAGE, mesh=MESH)

if __name__ == "__main__":
    launch(EXPERIMENT)
