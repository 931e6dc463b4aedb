"""Exact moments of sampled policy gradients: mean, bias and covariance of one trajectory's estimate."""

from fastpg.moments.estimator_moments import EstimatorMoments, estimator_moments

__all__ = ["EstimatorMoments", "estimator_moments"]
