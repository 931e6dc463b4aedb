"""Exact policy gradients for finite Markov decision processes, and samplers to hold against them."""

from fastpg import formats, problems
from fastpg._version import __version__
from fastpg.crosscheck import CrossCheck, crosscheck
from fastpg.errors import (
    Disagreement,
    FastPGError,
    InvalidArgument,
    InvalidModel,
    InvalidPolicy,
    SolveError,
)
from fastpg.evaluation import Evaluation, evaluate
from fastpg.finite_horizon import FiniteHorizonEvaluation
from fastpg.fisher import FisherInformation, fisher_information, natural_gradient, normalised_step
from fastpg.gradient import policy_gradient
from fastpg.model import MDP
from fastpg.policy import DirectPolicy, LogLinearPolicy, Policy, SoftmaxPolicy, random, uniform
from fastpg.sampling import (
    Estimator,
    GradientEstimate,
    RewardToGo,
    TotalReturn,
    Trajectories,
    estimate_gradient,
    rollout,
)

__all__ = [
    "MDP",
    "CrossCheck",
    "DirectPolicy",
    "Disagreement",
    "Estimator",
    "Evaluation",
    "FastPGError",
    "FiniteHorizonEvaluation",
    "FisherInformation",
    "GradientEstimate",
    "InvalidArgument",
    "InvalidModel",
    "InvalidPolicy",
    "LogLinearPolicy",
    "Policy",
    "RewardToGo",
    "SoftmaxPolicy",
    "SolveError",
    "TotalReturn",
    "Trajectories",
    "__version__",
    "crosscheck",
    "estimate_gradient",
    "evaluate",
    "fisher_information",
    "formats",
    "natural_gradient",
    "normalised_step",
    "policy_gradient",
    "problems",
    "random",
    "rollout",
    "uniform",
]
