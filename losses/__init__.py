"""The mathematics of distillation: arrays in, tallies out. Knows neither models nor training.

A divergence, a gate, a schedule is a frozen dataclass that is called; one that is not here is written where it is
needed, in the experiment's own file, and passed in its place.

Letters: b batch, t position, d width of the hidden states, v vocabulary, c positions of a piece, l layers, e experts.
"""

from losses.adaptive import AdaptiveKL, ToDi
from losses.advantage import Advantage, BatchScaled, Centred, GroupScaled, LeaveOneOut, credited, informative
from losses.aggregation import Aggregation, ConstantMean, SequenceMean, TokenMean
from losses.clip import Clip, ClippedWeight, NoClip, Surrogate
from losses.correction import Correction, Masked, NoCorrection, SequenceMasked, Truncated, TruncatedAndMasked, mismatch
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
from losses.logps import heard_logps, token_logps
from losses.loss import Loss
from losses.policy import SampledReverseKL
from losses.policy_gradient import PolicyGradient, cispo, dapo, decoupled_ppo, dr_grpo, grpo, gspo
from losses.policy_loss import PolicyLoss
from losses.preference import DPO, IPO, Sigmoid
from losses.preferred import Anchor, Preferred
from losses.ratio import Behaviour, Level, Proximal, Reference, SequenceRatio, TokenRatio
from losses.reinforce import Credit, Reinforce
from losses.router import RouterHealth
from losses.schedule import WSD, Constant, Cosine, Linear, Schedule
from losses.scope import Batch, Domain, Segment, Sequence, Token, Window
from losses.shrunk import Shrunk
from losses.signal import Belief, Dense, Projected, Sides, Signal, Whole
from losses.sparse import Sampled, TopK
from losses.split import Split
from losses.tally import Tally
from losses.toward import Toward

__all__ = [
    "AdaptiveKL",
    "Advantage",
    "Aggregation",
    "AlphaBeta",
    "Anchor",
    "Angle",
    "Balance",
    "Batch",
    "BatchScaled",
    "Behaviour",
    "Belief",
    "Brier",
    "Centred",
    "Clear",
    "Clip",
    "ClippedWeight",
    "Constant",
    "ConstantMean",
    "Corrected",
    "Correction",
    "Cosine",
    "Credit",
    "CrossEntropy",
    "DPO",
    "Dense",
    "Distill",
    "Divergence",
    "Domain",
    "Ensemble",
    "Evidence",
    "ForwardKL",
    "Gap",
    "Gate",
    "GroupScaled",
    "Hard",
    "Hidden",
    "IPO",
    "JensenShannon",
    "LeaveOneOut",
    "Lens",
    "Level",
    "Linear",
    "LogScore",
    "Look",
    "Loss",
    "Masked",
    "Motion",
    "NoClip",
    "NoCorrection",
    "NoGate",
    "Place",
    "PolicyGradient",
    "PolicyLoss",
    "Preferred",
    "Projected",
    "Proximal",
    "PutRight",
    "Reference",
    "Reinforce",
    "ReverseKL",
    "RouterHealth",
    "RouterMatch",
    "Sampled",
    "SampledReverseKL",
    "Schedule",
    "Segment",
    "Sequence",
    "SequenceMasked",
    "SequenceMean",
    "SequenceRatio",
    "Shrunk",
    "Sides",
    "Sigmoid",
    "Signal",
    "Split",
    "SkewKL",
    "SkewReverseKL",
    "Squared",
    "Surrogate",
    "Tally",
    "TeacherConfidence",
    "TeacherGold",
    "ToDi",
    "Token",
    "TokenMean",
    "TokenRatio",
    "Top",
    "TopK",
    "TotalVariation",
    "Toward",
    "Truncated",
    "TruncatedAndMasked",
    "WSD",
    "WSLD",
    "Whole",
    "Window",
    "cispo",
    "credited",
    "dapo",
    "decoupled_ppo",
    "dr_grpo",
    "grpo",
    "gspo",
    "heard_logps",
    "informative",
    "mismatch",
    "token_logps",
]
