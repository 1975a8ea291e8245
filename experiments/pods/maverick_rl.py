"""Asynchronous reinforcement learning of Maverick, each token judged by a 2T teacher: who lives where, and does it fit?

    python -m distill.plan experiments/pods/maverick_rl.py --topology v5p:4x4x20

256 chips learn and hear the teacher; four samplers of 16 chips each draw beside them.
"""

from distill import AdamW, Mesh, Reinforcement, launch
from experiments.pods.sizes import experiment, student, teaching
from models.config import BEHEMOTH, MAVERICK

MESH = Mesh(fsdp=16, expert=16)
SAMPLERS = Mesh(data=4, expert=16, first=MESH.size)
LEARNER = student("maverick", MAVERICK, optimizer=AdamW(moments="bfloat16"))
STAGE = Reinforcement(
    name="rewarded", learner=LEARNER, steps=1000, groups=64, samples=8, tokens=1024, length=2047, slots=32,
    actor_on=SAMPLERS, teacher="behemoth", credit=0.01,
)  # fmt: skip
EXPERIMENT = experiment("maverick_rl", teaching("behemoth", BEHEMOTH, MESH), STAGE, mesh=MESH)

if __name__ == "__main__":
    launch(EXPERIMENT)
