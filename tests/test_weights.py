"""Importance weights of steps, of whole trajectories, and divided by their sum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fastpg import (
    GAE,
    MDP,
    BatchAverage,
    InfiniteVariance,
    PlugIn,
    RewardToGo,
    SoftmaxPolicy,
    TemporalDifference,
    TotalReturn,
    crosscheck,
    detectable_bias,
    estimate_gradient,
    estimator_moments,
    evaluate,
    optimal_baseline,
    problems,
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
    horizon, seed = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 99))
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


def assert_self_normalised(x, mdp, policy, horizon):
    """The moments are those of what one trajectory moves a ratio of means by."""
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


@given(st.data())
@settings(max_examples=40)
def test_self_normalised_weights_have_the_moments_of_their_limit(data):
    mdp, policy, behaviour = drawn(data)
    horizon, seed = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 99))
    chosen = data.draw(st.integers(0, 7))
    x = estimators(mdp, behaviour, KINDS[2], np.random.default_rng(seed))[chosen]
    assert_self_normalised(x, mdp, policy, horizon)


def test_trajectories_that_begin_where_all_has_ended_have_weight_1():
    mdp, policy, behaviour, rng = lake_and_policies()
    assert mdp.start[mdp.terminal].sum() > 0
    for x in estimators(mdp, behaviour, KINDS[2], rng):
        assert_self_normalised(x, mdp, policy, 2)


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


def test_the_ratio_of_means_tends_to_its_limit_as_is_claimed():
    # One step with three actions: a sample is a count of each, and its law is multinomial.
    mdp = problems.bandit([1.0, 0.5, -1.0])
    policy, behaviour = SoftmaxPolicy([[0.0, 0.3, 0.6]] * 2), SoftmaxPolicy([[0.2, -0.3, 0.0]] * 2)
    x = RewardToGo(behaviour=behaviour, weights="self-normalised")
    moments = estimator_moments(evaluate(mdp, policy, horizon=1), x)
    paths = list(enumerate_trajectories(mdp, behaviour, 1))
    p = np.array([path.probability for path in paths])
    W = np.array([ratios(x, policy, path)[0] for path in paths])
    Y = np.array([realised(x, mdp, policy, path, 1)[0] for path in paths])
    errors = []
    for n in (40, 80):
        counts = np.array([(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)])
        law = stats.multinomial(n, p).pmf(counts)
        X = (counts @ Y) / (counts @ W)[:, None]
        mean = law @ X
        covariance = (law[:, None] * (X - mean)).T @ (X - mean)
        bias = n * (mean - moments.mean[0])
        claimed = n * (moments.at(n).mean - moments.mean)[0]
        exact = moments.covariance()[0, :, 0]
        assert np.abs(bias - claimed).max() < 0.1 * np.abs(claimed).max()
        assert np.abs(n * covariance - exact).max() < 0.1 * np.abs(exact).max()
        errors.append((np.abs(bias - claimed).max(), np.abs(n * covariance - exact).max()))
    # What is left is of order 1/n.
    assert np.allclose(np.divide(*errors), 2.0, rtol=0.1)


@pytest.mark.parametrize("weights", KINDS)
def test_infinite_horizons_are_the_limit_of_long_ones(weights):
    mdp, policy, behaviour, rng = lake_and_policies(1)
    behaviour = SoftmaxPolicy(0.9 * policy.logits + 0.1 * behaviour.logits)
    ev = evaluate(mdp, policy)
    for x in estimators(mdp, behaviour, weights, rng)[:-1]:
        limit, long = (estimator_moments(ev, x, horizon=h) for h in (None, 300))
        np.testing.assert_allclose(limit.mean, long.mean, rtol=0, atol=1e-12)
        np.testing.assert_allclose(limit.covariance(), long.covariance(), rtol=0, atol=1e-11 * (1 + limit.trace))


@pytest.mark.parametrize("weights", KINDS)
def test_geometric_horizons_are_those_of_a_model_that_ends(weights):
    # Going on with probability 0.8 is a step into a terminal state with probability 0.2.
    rng = np.random.default_rng(6)
    P, r = rng.dirichlet(np.ones(3), size=(3, 2)), rng.normal(size=(3, 2))
    policy, behaviour = SoftmaxPolicy(rng.normal(size=(3, 2))), SoftmaxPolicy(rng.normal(size=(3, 2)))
    behaviour = SoftmaxPolicy(policy.logits + 0.2 * behaviour.logits)
    longer = np.zeros((4, 2, 4))
    longer[:3, :, :3], longer[:3, :, 3] = 0.8 * P, 0.2
    ending = MDP(longer, np.vstack([r, np.zeros(2)]), 1.0, [0.2, 0.3, 0.5, 0.0], terminal=[False, False, False, True])
    endless = MDP(P, r, 0.8, [0.2, 0.3, 0.5])
    more, other = (SoftmaxPolicy(np.vstack([x.logits, np.zeros(2)])) for x in (policy, behaviour))
    for kind in (TotalReturn, RewardToGo):
        one = estimator_moments(
            evaluate(endless, policy), kind(behaviour=behaviour, weights=weights), horizon="geometric"
        )
        two = estimator_moments(evaluate(ending, more), kind(behaviour=other, weights=weights))
        np.testing.assert_allclose(one.mean, two.mean[:3], rtol=0, atol=1e-13)
        np.testing.assert_allclose(one.covariance(), two.covariance()[:3, :, :3], rtol=1e-11, atol=1e-12)


def test_weights_of_trajectories_that_never_end_have_no_moments():
    mdp = problems.two_state()
    policy, behaviour = SoftmaxPolicy.uniform(mdp), SoftmaxPolicy.random(mdp, rng=0)
    ev = evaluate(mdp, policy)
    assert estimator_moments(ev, RewardToGo(behaviour=SoftmaxPolicy(0.01 * behaviour.logits))).trace > 0
    with pytest.raises(InfiniteVariance, match="no finite mean over an infinite horizon"):
        estimator_moments(ev, RewardToGo(behaviour=behaviour, weights="trajectory"))
    # On policy they are all 1.
    same = estimator_moments(ev, RewardToGo(behaviour=policy, weights="trajectory"))
    np.testing.assert_array_equal(same.covariance(), estimator_moments(ev, RewardToGo()).covariance())


@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_the_threshold_of_infinite_variance_is_that_of_the_squared_weights(factor):
    # One state, two actions; a step multiplies E W^2 by going_on (1 + chi^2).
    pi, beta = np.array([0.6, 0.4]), np.array([0.3, 0.7])
    going_on = factor / (pi**2 / beta).sum()
    P = np.zeros((2, 2, 2))
    P[0, :, 0], P[0, :, 1] = going_on, 1 - going_on
    mdp = MDP(P, [[1.0, 2.0], [0.0, 0.0]], 0.5, 0, terminal=[False, True])
    policy, behaviour = (SoftmaxPolicy(np.log([x, x])) for x in (pi, beta))
    for weights in ("trajectory", "self-normalised"):
        moments = estimator_moments(
            evaluate(mdp, policy), RewardToGo(behaviour=behaviour, weights=weights), allow_infinite=True
        )
        assert moments.finite == (factor < 1)
        assert np.isfinite(moments.mean).all()
        if weights == "self-normalised" and factor > 1:
            # The bias of order 1/n is a second moment.
            with pytest.raises(InfiniteVariance, match="no finite variance"):
                moments.at(10).mean  # noqa: B018
    averaged = estimator_moments(
        evaluate(mdp, policy),
        RewardToGo(BatchAverage(), behaviour=behaviour, weights="trajectory"),
        allow_infinite=True,
    )
    # The product of two weighed sums has fourth powers of ratios.
    assert averaged.finite == (factor < 1)
    assert averaged.at(10).trace == np.inf
    # Steps that count less and less are weighed up to themselves alone.
    assert estimator_moments(evaluate(mdp, policy), RewardToGo(behaviour=behaviour)).finite


def test_no_baseline_near_the_optimal_one_is_better():
    mdp, policy, behaviour, rng = lake_and_policies(2)
    ev = evaluate(mdp, policy, horizon=4)
    for weights in KINDS:
        for kind in (TotalReturn, RewardToGo):
            best = optimal_baseline(ev, kind(behaviour=behaviour, weights=weights))
            least = estimator_moments(ev, kind(best, behaviour=behaviour, weights=weights)).trace
            for _ in range(5):
                other = kind(best + 0.01 * rng.normal(size=4), behaviour=behaviour, weights=weights)
                assert estimator_moments(ev, other).trace >= least * (1 - 1e-13)


def test_a_check_judges_weights_and_finds_a_wrong_ratio():
    mdp, policy, behaviour, _ = lake_and_policies(3)
    for weights in KINDS:
        x = RewardToGo(behaviour=behaviour, weights=weights)
        check = crosscheck(mdp, policy, x, n=400_000, horizon=5, rng=0)
        assert check.agrees
        spread = np.sum(check.estimate.standard_error**2) * check.estimate.n
        # Its relative error is about 3 %: 4096 blocks, and heavy tails.
        assert spread == pytest.approx(check.moments.trace, rel=0.1)
        wrong = crosscheck(mdp, policy, WrongRatio(x, power=0.5), n=400_000, horizon=5, rng=0)
        assert wrong.verdict == "disagrees"
        assert wrong.fault is not None


def test_self_normalised_weights_of_a_constant_settle():
    mdp = problems.bandit([1.0, -1.0])
    policy = SoftmaxPolicy.uniform(mdp)
    for behaviour in (SoftmaxPolicy.random(mdp, rng=0), SoftmaxPolicy([[3.0, 0.0]] * 2)):
        estimator = TotalReturn(behaviour=behaviour, weights="self-normalised")
        check = crosscheck(mdp, policy, estimator, n=1_000, horizon=1, rng=0)
        assert check.agrees
        assert check.settled.all()
        assert detectable_bias(mdp, policy, estimator, n=1_000, horizon=1) == pytest.approx(0.0, abs=1e-5)
