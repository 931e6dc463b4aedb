"""Which known fault a sampled gradient has that disagrees with the exact one."""

from collections.abc import Callable, Iterator

import numpy as np

from fastpg.errors import InfiniteVariance, InvalidArgument
from fastpg.evaluation import Evaluation, evaluate
from fastpg.finite_horizon import FiniteHorizonEvaluation
from fastpg.judgement import chi_square
from fastpg.moments import estimator_moments
from fastpg.sampling.estimate import GradientEstimate, Pooling
from fastpg.sampling.estimators import Estimator
from fastpg.sampling.faults import (
    ActionBaseline,
    Fault,
    MissingDiscount,
    RewardBeforeAction,
    TruncatedWithoutBootstrap,
    WrongRatio,
)
from fastpg.sampling.tables import Horizon
from fastpg.validation import BoolArray, FloatArray

# A fault is named where a sample that has it would be at least as far from its mean with this probability.
EXPLAINED = 1e-3


def likely_fault(
    evaluation: Evaluation | FiniteHorizonEvaluation,
    estimator: Estimator,
    estimate: GradientEstimate,
    covariance: FloatArray,
    used: BoolArray,
    *,
    unit: float,
    horizon: Horizon,
) -> str | None:
    """The exact mean that explains `estimate`, in words; None where none of the known ones does.

    The mean of the estimator itself, which may be biased, where it does; else the best of those of its faults. They are
    held against the `used` entries with the exact covariance (S, A, S, A) of one trajectory in units of
    `unit`^2.
    """
    pooling = Pooling(np.where(used, np.arange(used.size).reshape(used.shape), -1), np.ones(used.shape))
    best: tuple[float, str] | None = None
    for place, (what, mean) in enumerate(_means(evaluation, estimator, horizon, estimate.n)):
        joint = chi_square(
            (estimate.mean - mean) / unit, covariance / estimate.n, pooling, estimate.contributions, EXPLAINED
        )
        if joint.p_value >= EXPLAINED and (best is None or joint.p_value > best[0]):
            best = joint.p_value, what
            if place == 0:
                break
    return None if best is None else best[1]


def _means(
    evaluation: Evaluation | FiniteHorizonEvaluation, estimator: Estimator, horizon: Horizon, n: int
) -> Iterator[tuple[str, FloatArray]]:
    """What a sample could have the mean of, and that mean."""
    sound = estimator.estimator if isinstance(estimator, Fault) else estimator
    for candidate in (lambda: estimator, *_candidates(evaluation, sound)):
        try:
            made = candidate()
            mean = estimator_moments(evaluation, made, horizon=horizon, n=n, allow_infinite=True).mean
        except (InvalidArgument, InfiniteVariance):
            continue
        own = f"the exact mean of {type(made).__name__}, which is biased"
        if isinstance(made, Fault):
            yield made.what, mean
        elif isinstance(horizon, int) and isinstance(evaluation, Evaluation) and _is_cut(evaluation, mean, horizon):
            yield TruncatedWithoutBootstrap.what, mean
        else:
            yield own, mean


def _is_cut(evaluation: Evaluation, mean: FloatArray, horizon: int) -> bool:
    """Whether a mean is the gradient of a finite horizon, held against that of the infinite one."""
    finite = evaluate(evaluation.mdp, evaluation.policy, horizon=horizon).logit_gradient
    return bool(np.allclose(mean, finite, rtol=1e-9, atol=1e-12 * float(np.abs(finite).max(initial=0.0))))


def _candidates(
    evaluation: Evaluation | FiniteHorizonEvaluation, sound: Estimator
) -> tuple[Callable[[], Estimator], ...]:
    """Makers of estimators, each of which may refuse what makes no sense for `sound`."""
    q = evaluation.action_value.reshape(-1, *evaluation.policy.probabilities.shape)[-1]
    return (
        lambda: sound,
        lambda: MissingDiscount(sound),
        lambda: RewardBeforeAction(sound),
        lambda: TruncatedWithoutBootstrap(sound),
        lambda: WrongRatio(sound),
        lambda: WrongRatio(sound, power=-1),
        lambda: ActionBaseline(sound, q),
    )
