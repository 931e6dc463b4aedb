"""The average return of the sample as a baseline: exact moments against every tuple of trajectories."""

from itertools import product

import numpy as np
import pytest

from fastpg import (
    GAE,
    MDP,
    BatchAverage,
    PlugIn,
    RewardToGo,
    SoftmaxPolicy,
    TemporalDifference,
    TotalReturn,
    estimate_gradient,
    estimator_moments,
    evaluate,
)
from fastpg.sampling.faults import MissingDiscount, WrongRatio
from fastpg.testing.estimates import realised, sampled_paths, weighted_return
from fastpg.testing.oracles import enumerate_trajectories


def small_case(seed):
    """Two states, one of which ends the process, and two policies."""
    rng = np.random.default_rng(seed)
    P, R = rng.dirichlet(np.ones(3), size=(3, 2)), rng.normal(size=(3, 2, 3))
    P[0, 0] = [0.0, 1.0, 0.0]
    P[1, 0] = [1.0, 0.0, 0.0]
    R[2] = 0.0
    mdp = MDP(P, R, 0.8, [0.7, 0.3, 0.0], terminal=[False, False, True])
    policy = SoftmaxPolicy(rng.normal(size=(3, 2)))
    return mdp, policy, SoftmaxPolicy(policy.logits + rng.normal(size=(3, 2))), rng


def estimators(b, behaviour, weights, rng):
    """One of each with baseline `b`, and two faults."""
    v, q = rng.normal(size=3), rng.normal(size=(3, 2))
    off = {"behaviour": behaviour, "weights": weights}
    found = [
        TotalReturn(b, **off),
        RewardToGo(b, bootstrap=v, **off),
        PlugIn(q, b, **off),
        GAE(0.7, v, b, **off),
        TemporalDifference(v, baseline=b, **off),
        MissingDiscount(RewardToGo(b, **off)),
    ]
    return found if behaviour is None else [*found, WrongRatio(TotalReturn(b, **off)), WrongRatio(RewardToGo(b, **off))]


def of_all_tuples(x, mdp, policy, n, horizon):
    """Mean and covariance of the estimate from n trajectories, over all n-tuples of them."""
    inner = getattr(x, "estimator", x)
    paths = list(enumerate_trajectories(mdp, inner.behaviour or policy, horizon))
    chance = np.array([path.probability for path in paths])
    R = np.array([weighted_return(x, mdp, policy, path) for path in paths])
    Y = np.array([realised(x, mdp, policy, path, horizon).ravel() for path in paths])
    # What a baseline of 1 takes from it.
    Z = Y - np.array([realised(x, mdp, policy, path, horizon, 1.0).ravel() for path in paths])
    mean, square = 0.0, 0.0
    tuples = np.array(list(product(range(len(paths)), repeat=n)))
    for some in np.array_split(tuples, len(tuples) // 100_000 + 1):
        p, y, z, r = chance[some].prod(axis=1), Y[some], Z[some], R[some]
        b = np.broadcast_to(r.mean(axis=1, keepdims=True), r.shape)
        if inner.baseline.leave_one_out:
            b = (r.sum(axis=1, keepdims=True) - r) / (n - 1)
        X = (y - b[:, :, None] * z).mean(axis=1)
        mean = mean + p @ X
        square = square + (p[:, None] * X).T @ X
    return mean, square - np.outer(mean, mean)


@pytest.mark.parametrize("off_policy", [None, "per-decision", "trajectory"])
@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize(("n", "horizon"), [(2, 3), (3, 2), (5, 1)])
def test_moments_are_those_of_all_tuples_of_trajectories(n, horizon, leave_one_out, off_policy):
    mdp, policy, other, rng = small_case(n)
    behaviour = None if off_policy is None else other
    ev = evaluate(mdp, policy, horizon=horizon)
    for x in estimators(BatchAverage(leave_one_out), behaviour, off_policy, rng):
        mean, covariance = of_all_tuples(x, mdp, policy, n, horizon)
        moments = estimator_moments(ev, x, n=n)
        np.testing.assert_allclose(moments.mean.ravel(), mean, rtol=0, atol=1e-13)
        scale = n * np.abs(covariance).max()
        found = moments.covariance()
        np.testing.assert_allclose(found.reshape(6, 6), n * covariance, rtol=0, atol=1e-13 * (1 + scale))
        states = np.arange(3)
        np.testing.assert_allclose(moments.blocks, found[states, :, states], rtol=0, atol=1e-14 * (1 + scale))


@pytest.mark.parametrize("off_policy", [None, "per-decision", "trajectory"])
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_an_estimate_is_that_of_its_trajectories(leave_one_out, off_policy):
    mdp, policy, other, rng = small_case(0)
    behaviour = None if off_policy is None else other
    n = 300
    paths = sampled_paths(mdp, behaviour or policy, n=n, horizon=4, rng=3)
    for x in estimators(BatchAverage(leave_one_out), behaviour, off_policy, rng):
        R = np.array([weighted_return(x, mdp, policy, path) for path in paths])
        b = (R.sum() - R) / (n - 1) if leave_one_out else np.full(n, R.mean())
        each = np.array([realised(x, mdp, policy, path, 4, more) for path, more in zip(paths, b, strict=True)])
        found = estimate_gradient(mdp, policy, x, n=n, horizon=4, rng=3)
        np.testing.assert_allclose(found.mean, each.mean(axis=0), rtol=0, atol=1e-13)
        np.testing.assert_allclose(found.standard_error, each.std(axis=0, ddof=1) / np.sqrt(n), rtol=1e-9, atol=1e-13)
