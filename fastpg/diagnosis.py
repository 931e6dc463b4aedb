"""Which known fault a sampled gradient has that disagrees with the exact one."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from fastpg.errors import InfiniteVariance, InvalidArgument
from fastpg.evaluation import Evaluation, evaluate
from fastpg.finite_horizon import FiniteHorizonEvaluation
from fastpg.judgement import chi_square, hotelling, largest, sidak
from fastpg.moments import EstimatorMoments, estimator_moments
from fastpg.sampling.estimate import GradientEstimate, Pooling
from fastpg.sampling.estimators import Estimator, RewardToGo, TotalReturn, behaviour_of
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
# No entry of a sample that has a fault is so many standard errors from its mean.
MOST_Z = 8.0


def likely_fault(
    evaluation: Evaluation | FiniteHorizonEvaluation,
    estimator: Estimator,
    estimate: GradientEstimate,
    used: BoolArray,
    contradicted: BoolArray,
    *,
    horizon: Horizon,
    own: bool = True,
    sampled: bool = False,
) -> str | None:
    """The fault whose exact law explains `estimate`, in words; None where none of the known ones does.

    The best of the faults of `estimator`, unless its own law explains as much, and of `RewardToGo` and `TotalReturn`
    with its behaviour and baseline; where there is none and `own`, its own mean, which is biased. A baseline that sees
    the action is known by b = Q, the action value of `evaluation` with all steps to go, or by its label. The `used`
    entries are held against the mean and covariance that the fault has, or if `sampled` against its mean with the
    errors of the sample, by Hotelling's test and the largest |z|; none used or `contradicted` may be far off.
    """
    pooling = Pooling(np.where(used, np.arange(used.size).reshape(used.shape), -1), np.ones(used.shape))
    seen = used | contradicted
    scale = float(np.abs(estimate.mean).max(initial=0.0))
    error = np.maximum(np.nan_to_num(estimate.standard_error), 1e-9 * scale)

    def agreement(moments: EstimatorMoments) -> float:
        """The p-value of the sample under these moments, 0 where an entry is too far off."""
        off = estimate.mean - moments.mean
        if (np.abs(off) > MOST_Z * error)[seen].any() or not moments.finite:
            return 0.0
        if sampled:
            joint = hotelling(estimate, moments.mean, used, EXPLAINED)
            return sidak(min(joint.p_value, largest((off / error)[used], estimate.contributions[used])), 2)
        covariance = moments.covariance_in_units() / estimate.n
        return chi_square(off / moments.plan.unit, covariance, pooling, estimate.contributions, EXPLAINED).p_value

    itself = _moments(evaluation, partial(_same, _sound(estimator)), horizon, estimate.n)
    explained = itself is not None and agreement(itself) >= EXPLAINED
    best: tuple[float, str] | None = None
    for what, moments in _named(evaluation, estimator, horizon, estimate.n, spare=explained):
        p = agreement(moments)
        if p >= EXPLAINED and (best is None or p > best[0]):
            best = p, what
    if best is None and own and explained:
        return f"the exact mean of {type(_sound(estimator)).__name__}, which is biased"
    return None if best is None else best[1]


def _same(made: Estimator) -> Estimator:
    return made


def _sound(estimator: Estimator) -> Estimator:
    """What is left of an estimator without its faults."""
    while isinstance(estimator, Fault):
        estimator = estimator.estimator
    return estimator


def _moments(
    evaluation: Evaluation | FiniteHorizonEvaluation, made: Callable[[], Estimator], horizon: Horizon, n: int
) -> EstimatorMoments | None:
    """The law of what is made; None where that makes no sense, or has no mean."""
    try:
        moments = estimator_moments(evaluation, made(), horizon=horizon, n=n, allow_infinite=True)
        _ = moments.mean
    except (InvalidArgument, InfiniteVariance):
        return None
    return moments


def _named(
    evaluation: Evaluation | FiniteHorizonEvaluation, estimator: Estimator, horizon: Horizon, n: int, *, spare: bool
) -> Iterator[tuple[str, EstimatorMoments]]:
    """The faults that a sample could have, and the law of each; to `spare` the estimator is to suspect it of none."""
    sound = _sound(estimator)
    given: dict[str, Any] = {
        "baseline": getattr(sound, "baseline", None),
        "behaviour": behaviour_of(sound),
        "weights": getattr(sound, "weights", None),
    }
    bases: list[Callable[[], Estimator]] = [partial(_same, sound)]
    bases += [partial(kind, **given) for kind in (RewardToGo, TotalReturn) if type(sound) is not kind]
    if isinstance(estimator, Fault):
        moments = _moments(evaluation, partial(_same, estimator), horizon, n)
        if moments is not None:
            yield _what(estimator), moments
    for base in bases:
        plain = _moments(evaluation, base, horizon, n)
        for maker in () if spare and base is bases[0] else _faults(evaluation, base):
            moments = _moments(evaluation, maker, horizon, n)
            # What changes nothing is no fault of the base, which may have others.
            if moments is not None and (plain is None or not _equal(moments.mean, plain.mean)):
                yield _what(maker()), moments
        # A horizon that is not that of the gradient cuts it as an end would.
        if plain is not None and isinstance(horizon, int) and isinstance(evaluation, Evaluation):
            finite = evaluate(evaluation.mdp, evaluation.policy, horizon=horizon).logit_gradient
            if _equal(plain.mean, finite):
                yield TruncatedWithoutBootstrap.what, plain


def _what(made: Estimator) -> str:
    """The faults of an estimator, all of them."""
    said = []
    while isinstance(made, Fault):
        said.append(made.what)
        made = made.estimator
    return " and ".join(said)


def _equal(a: FloatArray, b: FloatArray) -> bool:
    """Whether two means are one but for rounding."""
    return bool(np.allclose(a, b, rtol=1e-9, atol=1e-12 * float(np.abs(b).max(initial=0.0))))


def _faults(
    evaluation: Evaluation | FiniteHorizonEvaluation, base: Callable[[], Estimator]
) -> tuple[Callable[[], Estimator], ...]:
    """Makers of estimators with one fault, each of which may refuse what makes no sense."""
    q = evaluation.action_value.reshape(-1, *evaluation.policy.probabilities.shape)[-1]
    return (
        lambda: MissingDiscount(base()),
        lambda: RewardBeforeAction(base()),
        lambda: TruncatedWithoutBootstrap(base()),
        lambda: WrongRatio(base()),
        lambda: WrongRatio(base(), power=-1),
        lambda: ActionBaseline(base(), q),
    )
