"""Scout and Maverick from one pass of a 2T teacher: what does the second student cost, and what does a store save?

python -m distill.plan experiments/pods/herd_from_behemoth.py --topology v5p:8x8x24
python -m distill.plan experiments/pods/herd_from_store.py --topology v5p:8x8x8
"""

from distill import Mesh, Stage, launch
from distill.hold import Bfloat16
from experiments.pods.sizes import LENGTH, experiment, student, teaching
from models.config import BEHEMOTH, MAVERICK, SCOUT

MESH = Mesh(fsdp=32, expert=16)
TEACHER = Mesh(data=16, fsdp=8, expert=8, first=MESH.size)
STUDENTS = student("scout", SCOUT), student("maverick", MAVERICK)
STAGE = Stage(
    name="distil", learners=STUDENTS, teacher="behemoth", teacher_as=Bfloat16(), teacher_on=TEACHER, steps=1000,
    rows=TEACHER.size, length=LENGTH, accumulate=2,
)  # fmt: skip
EXPERIMENT = experiment("herd_from_behemoth", teaching("behemoth", BEHEMOTH, TEACHER), STAGE, mesh=MESH)

if __name__ == "__main__":
    launch(EXPERIMENT)
