"""Importance weights of steps, of whole trajectories, and divided by their sum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from fastpg.testing.estimates import ratios, realised, sampled_paths
from fastpg.testing.oracles import enumerate_trajectories
from fastpg.testing.strategies import mdps, softmax_policies

KINDS = ("per-decision", "trajectory", "self-normalised")


def estimators(mdp, behaviour, weights, rng):
    """One of each, with random tables, and two faults."""
    S, A = mdp.n_states, mdp.n_actions
    b, v, q = rng.normal(size=S), rng.normal(size=S), rng.normal(size=(S, A))
    off = {"behaviour": behaviour, "weights": weights}
    return [
        TotalReturn(b, **off),
        TotalReturn(**off),
        RewardToGo(b, bootstrap=v, **off),
        PlugIn(q, 0.3, **off),
        GAE(0.7, v, b, **off),
        TemporalDifference(v, **off),
        MissingDiscount(RewardToGo(b, **off)),
        WrongRatio(TotalReturn(**off), power=0.5),
    ]


def weighed(x, mdp, policy, horizon):
    """Probability, product of ratios and estimate of every trajectory."""
    inner = getattr(x, "estimator", x)
    for path in enumerate_trajectories(mdp, inner.behaviour, horizon):
        yield path.probability, np.prod(ratios(x, policy, path)), realised(x, mdp, policy, path, horizon)


def drawn(data):
    """A model, a policy and another one."""
    mdp = data.draw(mdps(max_states=3, max_actions=2, sparse=None))
    policy, behaviour = (data.draw(softmax_policies(mdp, extreme=False)) for _ in range(2))
    return mdp, policy, behaviour


@given(st.data())
@settings(max_examples=40)
@pytest.mark.parametrize("weights", KINDS[:2])
def test_moments_are_those_of_all_trajectories(weights, data):
    mdp, policy, behaviour = drawn(data)
    horizon, seed = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 99))
    x = data.draw(
        st.sampled_from(range(8)).map(lambda i: estimators(mdp, behaviour, weights, np.random.default_rng(seed))[i])
    )
    points = list(weighed(x, mdp, policy, horizon))
    mean = sum(p * y for p, _, y in points)
    product = sum(p * np.multiply.outer(y, y) for p, _, y in points)
    scale = 1 + max(p * np.vdot(y, y) for p, _, y in points)
    moments = estimator_moments(evaluate(mdp, policy, horizon=horizon), x)
    assert np.abs(moments.mean - mean).max() <= 1e-12 * scale
    covariance = product - np.multiply.outer(mean, mean)
    assert np.abs(moments.covariance() - covariance).max() <= 1e-12 * scale
    states = np.arange(mdp.n_states)
    assert np.abs(moments.blocks - covariance[states, :, states]).max() <= 1e-12 * scale


@given(st.data())
@settings(max_examples=40)
def test_self_normalised_weights_have_the_moments_of_their_limit(data):
    mdp, policy, behaviour = drawn(data)
    horizon, seed = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 99))
    chosen = data.draw(st.integers(0, 7))
    x = estimators(mdp, behaviour, KINDS[2], np.random.default_rng(seed))[chosen]
    points = list(weighed(x, mdp, policy, horizon))
    omega = sum(p * w for p, w, _ in points)
    g = sum(p * y for p, _, y in points) / omega
    # What one trajectory moves the ratio by, and how the ratio bends.
    parts = [(p, w, (y - w * g) / omega) for p, w, y in points]
    covariance = sum(p * np.multiply.outer(u, u) for p, _, u in parts)
    bend = -sum(p * w * u for p, w, u in parts) / omega
    scale = 1 + max(p * np.vdot(u, u) for p, _, u in parts) + np.abs(g).max()
    moments = estimator_moments(evaluate(mdp, policy, horizon=horizon), x)
    assert np.abs(moments.mean - g).max() <= 1e-12 * scale
    assert np.abs(moments.covariance() - covariance).max() <= 1e-12 * scale
    states = np.arange(mdp.n_states)
    assert np.abs(moments.blocks - covariance[states, :, states]).max() <= 1e-12 * scale
    assert np.abs(moments.at(7).mean - (g + bend / 7)).max() <= 1e-12 * scale * (1 + abs(omega) ** -2)


def lake_and_policies(seed=0):
    """A small random model that may end, and two policies."""
    rng = np.random.default_rng(seed)
    P, R = rng.dirichlet(np.ones(4), size=(4, 2)), rng.normal(size=(4, 2, 4))
    R[3] = 0.0
    mdp = MDP(P, R, 0.8, [0.4, 0.3, 0.2, 0.1], terminal=[False, False, False, True])
    policy = SoftmaxPolicy(rng.normal(size=(4, 2)))
    return mdp, policy, SoftmaxPolicy(policy.logits + 0.5 * rng.normal(size=(4, 2))), rng


@pytest.mark.parametrize("weights", KINDS)
@pytest.mark.parametrize("n", [300, 5_000])
def test_an_estimate_is_that_of_its_trajectories(weights, n):
    mdp, policy, behaviour, rng = lake_and_policies()
    paths = sampled_paths(mdp, behaviour, n=n, horizon=4, rng=3)
    for x in estimators(mdp, behaviour, weights, rng):
        Y = np.array([realised(x, mdp, policy, path, 4) for path in paths])
        W = np.array([np.prod(ratios(x, policy, path)) for path in paths])[:, None, None]
        limit = Y.sum(axis=0) / W.sum() if weights == "self-normalised" else Y.mean(axis=0)
        U = (Y - W * limit) / W.mean() if weights == "self-normalised" else Y - limit
        found = estimate_gradient(mdp, policy, x, n=n, horizon=4, rng=3)
        np.testing.assert_allclose(found.mean, limit, rtol=0, atol=1e-13)
        sums = np.add.reduceat(U, np.concatenate(([0], np.cumsum(found.block_sizes)[:-1])), axis=0)
        scaled = sums / np.sqrt(found.block_sizes)[:, None, None]
        error = np.sqrt((scaled**2).sum(axis=0) / (len(scaled) - 1) / n)
        np.testing.assert_allclose(found.standard_error, error, rtol=1e-9, atol=1e-13)
        if weights == "self-normalised":
            np.testing.assert_allclose(found.blocks, scaled.reshape(len(scaled), -1), rtol=0, atol=1e-12)
            kurtosis = (scaled**4).mean(axis=0)[0, 0] / (scaled**2).mean(axis=0)[0, 0] ** 2 - 3
            assert found.contributions[0, 0] == pytest.approx(len(scaled) / max(kurtosis, len(scaled) / n), rel=1e-3)


def test_nothing_depends_on_the_threads():
    mdp, policy, behaviour, _ = lake_and_policies()
    for x in (
        RewardToGo(behaviour=behaviour, weights="self-normalised"),
        TotalReturn(BatchAverage(), behaviour=behaviour, weights="per-decision"),
        RewardToGo(BatchAverage(leave_one_out=True)),
    ):
        one, three = (
            estimate_gradient(mdp, policy, x, n=10_001, horizon="geometric", rng=7, threads=k) for k in (1, 3)
        )
        for name in ("mean", "standard_error", "contributions", "blocks", "steps"):
            assert np.array_equal(getattr(one, name), getattr(three, name))
