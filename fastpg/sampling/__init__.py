"""Compiled samplers: trajectories and gradient estimates, reproducible on any number of threads."""

from fastpg.sampling.estimate import GradientEstimate, estimate_gradient
from fastpg.sampling.estimators import Estimator, RewardToGo, TotalReturn
from fastpg.sampling.trajectories import Trajectories, rollout

__all__ = [
    "Estimator",
    "GradientEstimate",
    "RewardToGo",
    "TotalReturn",
    "Trajectories",
    "estimate_gradient",
    "rollout",
]
