"""The distillation loop: experiments, stages, steps, data, checkpoints, reports."""

from distill.curriculum.selection import Selection
from distill.experiment import Experiment
from distill.given import Given, Trained
from distill.launch import launch
from distill.mesh import Mesh
from distill.optim import AdamW, Muon, WarmupCosine, WarmupStableDecay
from distill.preference.stage import Preference
from distill.rl.stage import Reinforcement
from distill.rollout import FromTeacher, OnPolicy
from distill.run import load_run
from distill.scaling import MaximalUpdate
from distill.stage import Learner, Stage
from distill.trained import load_weights

__all__ = [
    "AdamW",
    "Experiment",
    "FromTeacher",
    "Given",
    "Learner",
    "MaximalUpdate",
    "Mesh",
    "Muon",
    "OnPolicy",
    "Preference",
    "Reinforcement",
    "Selection",
    "Stage",
    "Trained",
    "WarmupCosine",
    "WarmupStableDecay",
    "launch",
    "load_run",
    "load_weights",
]
