"""Scout taught by a live Maverick on 512 v5p chips: does it fit, and how busy are they?

python -m distill.plan experiments/pods/scout_from_maverick.py --topology v5p:8x8x8
"""

from dataclasses import replace

from distill import Stage, launch
from distill.hold import Bfloat16
from distill.presets import preset
from experiments.pods.sizes import LENGTH, POD, experiment, student, teaching
from models.config import MAVERICK, SCOUT
from models.remat import Products

MESH = preset(512)
KEPT = replace(POD, remat=Products())
"""there is room to keep what products gave: nothing large is computed twice"""
STAGE = Stage(
    name="distil", learners=(student("scout", SCOUT),), teacher="maverick", teacher_as=Bfloat16(), steps=1000,
    rows=MESH.size, length=LENGTH,
)  # fmt: skip
EXPERIMENT = experiment("scout_from_maverick", teaching("maverick", MAVERICK, MESH), STAGE, mesh=MESH, execution=KEPT)

if __name__ == "__main__":
    launch(EXPERIMENT)
