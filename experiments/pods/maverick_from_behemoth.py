"""Maverick taught by a 2T teacher that lives beside it: 128 chips learn, 512 hear. Do both fit, and do they wait?

python -m distill.plan experiments/pods/maverick_from_behemoth.py --topology v5p:4x8x20
"""

from distill import Mesh, Stage, launch
from distill.hold import Bfloat16
from distill.presets import preset
from experiments.pods.sizes import LENGTH, experiment, student, teaching
from models.config import BEHEMOTH, MAVERICK

MESH = preset(128)
TEACHER = Mesh(data=8, fsdp=8, expert=8, first=MESH.size)
"""eight copies of the teacher, each on 64 chips"""
STAGE = Stage(
    name="distil", learners=(student("maverick", MAVERICK),), teacher="behemoth", teacher_as=Bfloat16(),
    teacher_on=TEACHER, steps=1000, rows=TEACHER.size, length=LENGTH, accumulate=4,
)  # fmt: skip
EXPERIMENT = experiment("maverick_from_behemoth", teaching("behemoth", BEHEMOTH, TEACHER), STAGE, mesh=MESH)

if __name__ == "__main__":
    launch(EXPERIMENT)
