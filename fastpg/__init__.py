"""Exact policy gradients for finite Markov decision processes, and samplers to hold against them."""

from fastpg import formats, problems
from fastpg._version import __version__
from fastpg.bellman import Greedy, expected_next_value, greedy
from fastpg.crosscheck import CrossCheck, crosscheck, detectable_bias
from fastpg.errors import (
    Disagreement,
    FastPGError,
    InfiniteVariance,
    InvalidArgument,
    InvalidModel,
    InvalidPolicy,
    NoExactMoments,
    SolveError,
)
from fastpg.evaluation import Evaluation, evaluate
from fastpg.finite_horizon import FiniteHorizonEvaluation
from fastpg.fisher import FisherInformation, fisher_information, natural_gradient, normalised_step
from fastpg.gradient import policy_gradient
from fastpg.model import MDP
from fastpg.moments import EstimatorMoments, estimator_moments, optimal_baseline, return_variance, samples_needed
from fastpg.policy import DirectPolicy, LogLinearPolicy, Policy, SoftmaxPolicy, random, uniform
from fastpg.radius import Radius, spectral_radius
from fastpg.sampling import (
    GAE,
    BatchAverage,
    Estimator,
    EvolutionStrategy,
    FiniteDifference,
    GradientEstimate,
    PlugIn,
    RewardToGo,
    SampledEvaluation,
    TemporalDifference,
    TotalReturn,
    Trajectories,
    directions,
    estimate_gradient,
    faults,
    rollout,
    sample_evaluation,
    sample_returns,
)
from fastpg.structure import Structure, chain_structure

__all__ = [
    "GAE",
    "MDP",
    "BatchAverage",
    "CrossCheck",
    "DirectPolicy",
    "Disagreement",
    "Estimator",
    "EstimatorMoments",
    "Evaluation",
    "EvolutionStrategy",
    "FastPGError",
    "FiniteDifference",
    "FiniteHorizonEvaluation",
    "FisherInformation",
    "GradientEstimate",
    "Greedy",
    "InfiniteVariance",
    "InvalidArgument",
    "InvalidModel",
    "InvalidPolicy",
    "LogLinearPolicy",
    "NoExactMoments",
    "PlugIn",
    "Policy",
    "Radius",
    "RewardToGo",
    "SampledEvaluation",
    "SoftmaxPolicy",
    "SolveError",
    "Structure",
    "TemporalDifference",
    "TotalReturn",
    "Trajectories",
    "__version__",
    "chain_structure",
    "crosscheck",
    "detectable_bias",
    "directions",
    "estimate_gradient",
    "estimator_moments",
    "evaluate",
    "expected_next_value",
    "faults",
    "fisher_information",
    "formats",
    "greedy",
    "natural_gradient",
    "normalised_step",
    "optimal_baseline",
    "policy_gradient",
    "problems",
    "random",
    "return_variance",
    "rollout",
    "sample_evaluation",
    "sample_returns",
    "samples_needed",
    "spectral_radius",
    "uniform",
]
