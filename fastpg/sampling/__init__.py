"""Compiled samplers: trajectories and gradient estimates, reproducible on any number of threads."""

from fastpg.sampling import directions, faults
from fastpg.sampling.baselines import BatchAverage
from fastpg.sampling.estimate import GradientEstimate, estimate_gradient
from fastpg.sampling.estimators import GAE, Estimator, PlugIn, RewardToGo, TemporalDifference, TotalReturn
from fastpg.sampling.evaluation import SampledEvaluation, sample_evaluation
from fastpg.sampling.perturbation import EvolutionStrategy, FiniteDifference
from fastpg.sampling.trajectories import Trajectories, rollout, sample_returns

__all__ = [
    "GAE",
    "BatchAverage",
    "Estimator",
    "EvolutionStrategy",
    "FiniteDifference",
    "GradientEstimate",
    "PlugIn",
    "RewardToGo",
    "SampledEvaluation",
    "TemporalDifference",
    "TotalReturn",
    "Trajectories",
    "directions",
    "estimate_gradient",
    "faults",
    "rollout",
    "sample_evaluation",
    "sample_returns",
]
