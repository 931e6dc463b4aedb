"""Exact against sampled: the statistics and the verdict."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from fastpg.diagnosis import likely_fault
from fastpg.errors import InvalidArgument, NoExactMoments
from fastpg.evaluation import Evaluation, evaluate
from fastpg.finite_horizon import FiniteHorizonEvaluation
from fastpg.judgement import SECOND_ORDER, length
from fastpg.model import MDP
from fastpg.moments import EstimatorMoments, estimator_moments
from fastpg.policy import Policy
from fastpg.rng import RNG, generator
from fastpg.sampling.contributions import expected_contributions
from fastpg.sampling.estimate import GradientEstimate, estimate_gradient, pooled
from fastpg.sampling.estimators import Estimator
from fastpg.sampling.plan import Plan
from fastpg.sampling.tables import Horizon
from fastpg.validation import FloatArray, float_array, positive_count, positive_number, real_between
from fastpg.verdict import CrossCheck, by_covariance, common, directions, found_of_constants, judge, varying

__all__ = ["CrossCheck", "crosscheck", "detectable_bias", "holm"]

# Numbers that an exact covariance may take to form: some seconds. Sampled covariances are used beyond.
AFFORDABLE = 2e8
# Times that a sequential check looks, each at four times as many trajectories as the one before.
LOOKS = 4


def crosscheck(
    mdp: MDP,
    policy: Policy,
    estimator: Estimator,
    *,
    horizon: Horizon,
    n: int | None = None,
    rng: RNG | None = None,
    sample: npt.ArrayLike | GradientEstimate | None = None,
    false_alarm: float = 1e-4,
    against: Literal["gradient", "mean", "infinite"] = "gradient",
    until_decided: float | None = None,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> CrossCheck:
    """Hold the exact gradient of the logits against `estimator` on `n` sampled trajectories, or on a `sample`.

    A `sample` from other code takes the place of `n` and `rng`: an array (n, S, A) of what each of n independent
    trajectories says of dJ/dlogits, or a `GradientEstimate`. It is judged by the exact law of `estimator`, which is
    what the other code means to be.

    The exact side has the same horizon: T steps, or infinite for "geometric". `against` "mean" holds the exact mean of
    the estimator, biased or not, against its samples, and "infinite" the gradient of the infinite horizon.

    An entry is judged where both the model and the sample give it at least 100 effective contributions (see
    `Contributions`); rarer ones are left out and counted. The judged entries are tested together: the exact covariance
    C of the estimator is known, and with it (x - m)^T (C / n)^+ (x - m) is chi-square with rank(C) degrees of freedom.
    Entries share pools, each of which is tested as one sum, where they are more than 1024, or than a twentieth of the
    contributions that most of them have. The p-value is raised by exp(z^3 / (3 sqrt(N))), z being the normal of the
    same level, to leading order the most that the skewness of a mean of N contributions can make of the tail. Where C
    is too large (see `AFFORDABLE`) Hotelling's T^2 on a sampled one takes its place, on at most 256 pools. Beside
    either that, or more than 256 directions, or shared pools, the largest |z| is tested as well, combined as if
    independent (Sidak); alone where C is too large and a sample keeps no blocks of single entries. The false-alarm rate
    is approximate: on a few problems it was measured and was not above what is stated (tests/test_calibration.py). The
    gradient is held against an estimator that has no exact moments (see `NoExactMoments`) with sampled ones.

    `.fault` names a baseline b(s, a) that sees the action in a `sample` for b = Q only, the action value with the whole
    `horizon` to go (infinite for "geometric" or `against` "infinite"); another b is unnamed unless `estimator` has it.

    `until_decided` looks at n/64, n/16, n/4 and n trajectories and stops at a disagreement or once every bias of that
    share of the gradient's length would be found. The looks share `false_alarm`: each is at a quarter of it, which is
    the `false_alarm` of the check that is returned.

    >>> from fastpg import RewardToGo, SoftmaxPolicy, crosscheck, problems
    >>> mdp = problems.frozen_lake("4x4")
    >>> crosscheck(mdp, SoftmaxPolicy.uniform(mdp), RewardToGo(), n=200_000, horizon=50, rng=0).agrees
    True

    Source: Hotelling (1931) and Sidak (1967) for what is done where the covariance is not known.
    """
    given = None if sample is None else _given(sample, mdp, estimator)
    if given is not None and (n, rng, until_decided) != (None, None, None):
        raise InvalidArgument("a sample takes the place of n, rng and until_decided: leave them out")
    if given is None and (n is None or rng is None):
        raise InvalidArgument("crosscheck needs n and rng, or a sample")
    n = positive_count("n", n if given is None else given.n)
    _require_level(false_alarm)
    if against not in ("gradient", "mean", "infinite"):
        raise InvalidArgument(f"against must be 'gradient', 'mean' or 'infinite' but is {against!r}")
    if horizon is None:
        raise InvalidArgument("horizon must be a positive number of steps or 'geometric' but is None")
    if until_decided is not None:
        until_decided = positive_number("until_decided", until_decided, "a positive share of the gradient")
    endless = isinstance(horizon, str) or against == "infinite"
    evaluation = evaluate(mdp, policy) if endless else evaluate(mdp, policy, horizon=cast("int", horizon))
    looks = [n] if until_decided is None else sorted({max(min(n, 2), n // 4**k) for k in range(LOOKS)})
    moments = covariance = limit = None
    try:
        moments = estimator_moments(evaluation, estimator, horizon=horizon, n=looks[0])
        covariance = moments.covariance_in_units() if _affordable(moments) else None
        limit = None if covariance is None else _limit(moments)
    except NoExactMoments:
        # Where at least the mean is known that is what was asked for.
        if against == "mean" and moments is None:
            raise
    # Trajectory i is the same at each look.
    seed = rng if until_decided is None or rng is None else int(generator(rng).integers(2**62))
    for look in looks:
        if moments is not None and moments.at(look) is not moments:
            moments = moments.at(look)
            covariance = None if covariance is None else moments.covariance_in_units()
        exact = moments.mean if moments is not None and against == "mean" else evaluation.logit_gradient
        expected = expected_contributions(mdp, policy, estimator, n=look, horizon=horizon)
        pooling = directions(expected, known=covariance is not None)
        if given is not None:
            estimate = given.repooled(pooling)
        else:
            assert seed is not None
            estimate = estimate_gradient(
                mdp,
                policy,
                estimator,
                n=look,
                horizon=horizon,
                rng=seed,
                threads=threads,
                progress=progress,
                pooling=pooling,
            )
        check = judge(
            exact,
            estimate,
            pooling,
            expected,
            moments,
            covariance,
            limit,
            horizon=horizon,
            false_alarm=false_alarm / len(looks),
        )
        if until_decided is not None and check.detectable_bias <= until_decided * length(exact):
            break
        if check.verdict == "disagrees":
            break
    if check.verdict != "disagrees":
        return check
    return _named(check, evaluation, estimator, own=against != "mean")


def detectable_bias(
    mdp: MDP, policy: Policy, estimator: Estimator, *, n: int, horizon: Horizon, false_alarm: float = 1e-4
) -> float:
    """The length of which every bias would be found by `crosscheck` with probability 0.9, before anything is sampled.

    Of biases of the entries that `n` trajectories are expected to let it judge; inf where there are none. It falls like
    n^(-1/2) while they stay the same.

    >>> from fastpg import RewardToGo, SoftmaxPolicy, problems
    >>> mdp = problems.bandit([1.0, 0.0])
    >>> round(detectable_bias(mdp, SoftmaxPolicy.uniform(mdp), RewardToGo(), n=10_000, horizon=1), 4)
    0.0131
    """
    n = positive_count("n", n)
    _require_level(false_alarm)
    moments = estimator_moments(evaluate(mdp, policy, horizon=1), estimator, horizon=horizon, n=n)
    if not _affordable(moments):
        raise InvalidArgument(f"the exact covariance of {moments.entries} entries is too large to form in some seconds")
    expected = expected_contributions(mdp, policy, estimator, n=n, horizon=horizon)
    covariance, limit = moments.covariance_in_units(), _limit(moments)
    constant, margin, share = varying(expected, moments, covariance, limit, false_alarm)
    if constant.all():
        return found_of_constants(margin, false_alarm)
    judged, pooling = common(expected) & ~constant & (share <= SECOND_ORDER), directions(expected, known=True)
    nothing = np.zeros(judged.shape)
    return by_covariance(
        nothing, judged, pooling, expected.total, moments, covariance, limit, n=n, false_alarm=false_alarm
    ).detectable


def holm(checks: Sequence[CrossCheck], false_alarm: float) -> list[CrossCheck]:
    """The same checks at levels that keep the rate of any false alarm among them at `false_alarm`.

    The smallest of m p-values is tested at false_alarm / m, the next at false_alarm / (m - 1) and so on, until one is
    not rejected; it and all larger ones keep its level.
    Source: Holm (1979).
    """
    order = sorted(range(len(checks)), key=lambda i: (np.isnan(checks[i].p_value), checks[i].p_value))
    out, left = list(checks), len(checks)
    for i in order:
        out[i] = replace(checks[i], false_alarm=false_alarm / left)
        if out[i].verdict == "disagrees" and left > 1:
            left -= 1
    return out


def _require_level(false_alarm: float) -> None:
    """InvalidArgument where a rate of false alarms is none."""
    if not 0.0 < real_between("false_alarm", false_alarm, 0.0, 1.0) < 1.0:
        raise InvalidArgument(f"false_alarm must lie between 0 and 1 but is {false_alarm!r}")


def _given(sample: npt.ArrayLike | GradientEstimate, mdp: MDP, estimator: Estimator) -> GradientEstimate:
    """A sample of others as an estimate of this model's gradient."""
    shape = (mdp.n_states, mdp.n_actions)
    if isinstance(sample, GradientEstimate):
        if sample.mean.shape != shape:
            raise InvalidArgument(f"sample must estimate a gradient of shape {shape} but has {sample.mean.shape}")
        return sample
    if getattr(estimator, "weights", None) == "self-normalised":
        raise InvalidArgument(
            "sample must be a GradientEstimate where weights are self-normalised, being no plain mean"
        )
    each = float_array("sample", sample, InvalidArgument)
    if each.shape[1:] != shape:
        raise InvalidArgument(f"sample must have shape (n, {shape[0]}, {shape[1]}) but has {each.shape}")
    return GradientEstimate.from_samples(each, pooled(np.ones(shape, bool), mdp.n_states * mdp.n_actions))


def _named(
    check: CrossCheck, evaluation: Evaluation | FiniteHorizonEvaluation, estimator: Estimator, *, own: bool
) -> CrossCheck:
    """`check` with the fault that its sample has, where one explains it; else, if `own`, the estimator's own bias."""
    fault = likely_fault(
        evaluation,
        estimator,
        check.estimate,
        check.judged & (check.pooling.pool >= 0),
        check.contradicted,
        horizon=check.horizon,
        own=own,
        sampled=check.covariance_in_units is None,
    )
    return replace(check, fault=fault)


def _limit(moments: EstimatorMoments) -> FloatArray | None:
    """The covariance of many trajectories in units, where that of n is another."""
    # Those of self-normalised weights are the limit already.
    averages = isinstance(moments.plan, Plan) and moments.plan.averages
    return moments.at(None).covariance_in_units() if averages else None


def _affordable(moments: EstimatorMoments) -> bool:
    entries, steps = moments.entries, moments.plan.horizon
    return (steps if isinstance(steps, int) else 1) * entries**2 <= AFFORDABLE
