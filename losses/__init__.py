"""The mathematics of distillation: arrays in, tallies out. Knows neither models nor training.

A divergence, a gate, a schedule is a frozen dataclass that is called; one that is not here is written where it is
needed, in the experiment's own file, and passed in its place.

Letters: b batch, t position, d width of the hidden states, v vocabulary, c positions of a piece, l layers, e experts.
"""

from losses.distill import Distill
from losses.divergence import Divergence, ForwardKL
from losses.gate import Evidence, Gate, NoGate
from losses.hard import CrossEntropy, Hard
from losses.router import RouterHealth
from losses.schedule import WSD, Constant, Cosine, Linear, Schedule
from losses.signal import Belief, Dense, Projected, Signal
from losses.tally import Tally

__all__ = [
    "WSD",
    "Belief",
    "Constant",
    "Cosine",
    "CrossEntropy",
    "Dense",
    "Distill",
    "Divergence",
    "Evidence",
    "ForwardKL",
    "Gate",
    "Hard",
    "Linear",
    "NoGate",
    "Projected",
    "RouterHealth",
    "Schedule",
    "Signal",
    "Tally",
]
