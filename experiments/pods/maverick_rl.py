"""Asynchronous reinforcement learning of Maverick, each token judged by a 2T teacher: who lives where, and does it fit?

    python -m distill.plan experiments/pods/maverick_rl.py --topology v5p:4x4x24

256 chips learn and hear the teacher; 128 draw beside them, all answers of a batch at once: weights are read from memory
for each token, so the more rows a reading serves the better.
"""

from distill import AdamW, Mesh, Reinforcement, launch
from experiments.pods.sizes import experiment, student, teaching
from models.config import BEHEMOTH, MAVERICK

MESH = Mesh(fsdp=16, expert=16)
SAMPLER = Mesh(expert=16, tensor=8, first=MESH.size)
LEARNER = student("maverick", MAVERICK, optimizer=AdamW(moments="bfloat16"))
STAGE = Reinforcement(
    name="rewarded", learner=LEARNER, steps=1000, groups=64, samples=8, tokens=1024, length=2047, slots=512,
    actor_on=SAMPLER, teacher="behemoth", credit=0.01,
)  # fmt: skip
EXPERIMENT = experiment("maverick_rl", teaching("behemoth", BEHEMOTH, MESH), STAGE, mesh=MESH)

if __name__ == "__main__":
    launch(EXPERIMENT)
