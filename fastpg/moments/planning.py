"""What exact moments are good for before anything is sampled: the best baseline, and how many trajectories to take."""

from dataclasses import is_dataclass, replace
from math import ceil, sqrt
from typing import Any, Literal

import numpy as np

from fastpg.certificate.equations import power_of_two
from fastpg.errors import InvalidArgument
from fastpg.evaluation import Evaluation
from fastpg.finite_horizon import FiniteHorizonEvaluation
from fastpg.moments.estimator_moments import EstimatorMoments, estimator_moments
from fastpg.sampling.estimators import Estimator, checked
from fastpg.sampling.faults import Fault
from fastpg.sampling.tables import Horizon
from fastpg.validation import FloatArray, frozen, positive_number

# More trajectories than this are an error of the caller.
MOST_SAMPLES = 1e300
# Times that a number of trajectories is computed from moments for the number before.
ROUNDS = 20


def optimal_baseline(
    evaluation: Evaluation | FiniteHorizonEvaluation,
    estimator: Estimator,
    *,
    horizon: Horizon | None = None,
    by: Literal["state", "constant"] = "state",
) -> FloatArray | float:
    """The baseline that makes the sum of the variances of `estimator` least: (S,), or one number for all states.

    The baseline of a state changes the entries of that state alone, and the sum of their variances is a parabola in it,

        n(s) b^2 - 2 N(s) b + ...,   b(s) = N(s) / n(s),  or  sum N / sum n  as a constant.

    N and n come from the recursions of second moments, and take as long as these. 0 where no baseline makes a
    difference. A baseline that the estimator has is not looked at.

    >>> from fastpg import RewardToGo, SoftmaxPolicy, evaluate, problems
    >>> mdp = problems.bandit([1.0, 0.0])
    >>> optimal_baseline(evaluate(mdp, SoftmaxPolicy.uniform(mdp)), RewardToGo()).round(12)
    array([0.5, 0. ])

    Source: Greensmith, Bartlett & Baxter (2004), Theorem 8 for a constant.
    """
    if by not in ("state", "constant"):
        raise InvalidArgument(f"by must be 'state' or 'constant' but is {by!r}")
    checked(estimator)
    if not is_dataclass(estimator) or not hasattr(estimator, "baseline") or isinstance(estimator, Fault):
        raise InvalidArgument(f"{type(estimator).__name__} has no baseline to choose; use an estimator that has one")

    without: Any = replace(estimator, baseline=None)
    moments = estimator_moments(evaluation, without, horizon=horizon)
    N, n = moments.baseline_parabola()
    if by == "constant":
        return float(N.sum() / n.sum()) if n.sum() > 0 else 0.0
    return frozen(np.divide(N, n, out=np.zeros(n.size), where=n > 0))


def samples_needed(
    evaluation: Evaluation | FiniteHorizonEvaluation,
    estimator: Estimator,
    relative_error: float,
    *,
    horizon: Horizon | None = None,
) -> int:
    """The number n of trajectories whose mean has root-mean-square error relative_error |dJ/dlogits|:

        trace / n + |bias|^2 <= relative_error^2 |dJ/dlogits|^2

    with the trace and the bias for n where they depend on it. Raises InvalidArgument where the gradient is 0, or the
    bias alone is larger than that.

    >>> from fastpg import RewardToGo, SoftmaxPolicy, evaluate, problems
    >>> mdp = problems.bandit([1.0, 0.0])
    >>> samples_needed(evaluate(mdp, SoftmaxPolicy.uniform(mdp)), RewardToGo(), 0.01)
    10000
    """
    relative_error = positive_number("relative_error", relative_error)
    moments = estimator_moments(evaluation, estimator, horizon=horizon)
    size = _length(moments.gradient)
    if size == 0:
        raise InvalidArgument("a relative error needs a gradient that is not 0 but this one is")
    n = _enough(moments, size, relative_error)
    # Where the moments depend on n, they hardly do.
    for _ in range(ROUNDS):
        before, n = n, _enough(moments.at(max(n, 2)), size, relative_error)
        if n == before:
            break
    return n


def _enough(moments: EstimatorMoments, size: float, relative_error: float) -> int:
    """The n that is enough by the moments as they are, for a gradient of length `size`."""
    bias = _length(moments.bias) / size
    # A bias within the rounding of the moments is none.
    bias = bias if bias > 1e-12 else 0.0
    if bias >= relative_error:
        raise InvalidArgument(
            f"relative_error must be above {bias:.3g}, the bias of {moments.plan.name} as a share of the "
            f"gradient's length, but is {relative_error!r}: no number of trajectories is enough"
        )
    # As lengths, whose ratios overflow later than those of squares.
    spread = _length(moments.standard_deviation) / size
    root = spread / (sqrt(relative_error - bias) * sqrt(relative_error + bias))
    if root >= MOST_SAMPLES**0.5:
        raise InvalidArgument(
            f"relative_error must be so large that fewer than {MOST_SAMPLES:.0e} trajectories are enough but is "
            f"{relative_error!r}"
        )
    return max(1, ceil(root * root * (1 - 1e-12)))


def _length(x: FloatArray) -> float:
    """The Euclidean length, whose squares neither overflow nor underflow."""
    unit = power_of_two(float(np.abs(x).max(initial=0.0)))
    return unit * float(np.linalg.norm(x / unit))
