"""Exact moments of sampled policy gradients: mean, bias and covariance of one trajectory's estimate."""

from fastpg.moments.estimator_moments import EstimatorMoments, estimator_moments
from fastpg.moments.planning import optimal_baseline, samples_needed
from fastpg.moments.returns import return_variance

__all__ = ["EstimatorMoments", "estimator_moments", "optimal_baseline", "return_variance", "samples_needed"]
