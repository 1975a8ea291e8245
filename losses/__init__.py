"""The mathematics of distillation: arrays in, tallies out. Knows neither models nor training.

A divergence, a gate, a schedule is a frozen dataclass that is called; one that is not here is written where it is
needed, in the experiment's own file, and passed in its place.

Letters: b batch, t position, d width of the hidden states, v vocabulary, c positions of a piece, l layers, e experts.
"""

from losses.adaptive import AdaptiveKL, ToDi
from losses.distill import Distill
from losses.divergence import (
    AlphaBeta,
    Divergence,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
    TotalVariation,
)
from losses.ensemble import Corrected, Ensemble
from losses.evidence import Brier, Evidence, LogScore, Motion
from losses.gate import WSLD, Balance, Gap, Gate, Look, NoGate, Place, TeacherConfidence, TeacherGold
from losses.hard import CrossEntropy, Hard
from losses.hidden import Angle, Hidden, RouterMatch, Squared
from losses.lens import Clear, Lens, PutRight, Top
from losses.loss import Loss
from losses.policy import SampledReverseKL
from losses.router import RouterHealth
from losses.schedule import WSD, Constant, Cosine, Linear, Schedule
from losses.scope import Batch, Domain, Segment, Sequence, Token, Window
from losses.shrunk import Shrunk
from losses.signal import Belief, Dense, Projected, Sides, Signal, Whole
from losses.sparse import Sampled, TopK
from losses.tally import Tally

__all__ = [
    "AdaptiveKL",
    "AlphaBeta",
    "Angle",
    "Balance",
    "Batch",
    "Belief",
    "Brier",
    "Clear",
    "Constant",
    "Corrected",
    "Cosine",
    "CrossEntropy",
    "Dense",
    "Distill",
    "Divergence",
    "Domain",
    "Ensemble",
    "Evidence",
    "ForwardKL",
    "Gap",
    "Gate",
    "Hard",
    "Hidden",
    "JensenShannon",
    "Lens",
    "Linear",
    "LogScore",
    "Loss",
    "Look",
    "Motion",
    "NoGate",
    "Place",
    "Projected",
    "PutRight",
    "ReverseKL",
    "RouterHealth",
    "RouterMatch",
    "Sampled",
    "SampledReverseKL",
    "Schedule",
    "Segment",
    "Sequence",
    "Shrunk",
    "Sides",
    "Signal",
    "SkewKL",
    "SkewReverseKL",
    "Squared",
    "Tally",
    "TeacherConfidence",
    "TeacherGold",
    "ToDi",
    "Token",
    "Whole",
    "Top",
    "TopK",
    "TotalVariation",
    "WSD",
    "WSLD",
    "Window",
]
