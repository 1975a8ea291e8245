"""Scout and Maverick from what a 2T teacher said before: no chip for the teacher.

python -m distill.plan experiments/pods/herd_from_store.py --topology v5p:8x8x8
"""

from dataclasses import replace

from distill import launch
from distill.hold import AsItIs
from experiments.pods import herd_from_behemoth as live
from experiments.pods.sizes import experiment, teaching
from models.config import BEHEMOTH

STAGE = replace(live.STAGE, store="targets/behemoth", teacher_on=None, teacher_as=AsItIs())
EXPERIMENT = experiment("herd_from_store", teaching("behemoth", BEHEMOTH, live.TEACHER), STAGE, mesh=live.MESH)

if __name__ == "__main__":
    launch(EXPERIMENT)
