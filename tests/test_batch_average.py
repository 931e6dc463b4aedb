"""The average return of the sample as a baseline: exact moments against every tuple of trajectories."""

import sys
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from fastpg import (
    GAE,
    MDP,
    BatchAverage,
    InvalidArgument,
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
    samples_needed,
)
from fastpg.sampling.faults import MissingDiscount, WrongRatio
from fastpg.testing.estimates import realised, sampled_paths, weighted_return
from fastpg.testing.oracles import enumerate_trajectories
from fastpg.testing.strategies import mdps, softmax_policies


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


def estimators(b, behaviour, weights, rng, shape=(3, 2)):
    """One of each with baseline `b`, and two faults."""
    v, q = rng.normal(size=shape[0]), rng.normal(size=shape)
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
@pytest.mark.parametrize(("n", "horizon"), [(2, 4), (3, 2), (5, 1)])
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


@given(st.data())
@settings(max_examples=30)
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_moments_of_generated_models_are_those_of_all_tuples(leave_one_out, data):
    mdp = data.draw(mdps(max_states=3, max_actions=2, sparse=None, terminal=data.draw(st.sampled_from([True, None]))))
    policy, other = (data.draw(softmax_policies(mdp, extreme=False)) for _ in range(2))
    horizon, n = data.draw(st.sampled_from([(1, 4), (2, 3), (3, 2), (4, 2)]))
    weights = data.draw(st.sampled_from([None, "per-decision", "trajectory"]))
    behaviour = None if weights is None else other
    paths = sum(1 for _ in enumerate_trajectories(mdp, behaviour or policy, horizon))
    assume(paths**n <= 100_000)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    made = estimators(BatchAverage(leave_one_out), behaviour, weights, rng, policy.probabilities.shape)
    x = made[data.draw(st.integers(0, len(made) - 1))]
    mean, covariance = of_all_tuples(x, mdp, policy, n, horizon)
    moments = estimator_moments(evaluate(mdp, policy, horizon=horizon), x, n=n)
    of_one = estimator_moments(evaluate(mdp, policy, horizon=horizon), x)
    # Products of two sums are as large as the squares of what a trajectory says.
    scale = 1 + n * np.abs(covariance).max() + np.abs(of_one.covariance()).max() + np.abs(mean).max() ** 2
    assert np.abs(moments.mean.ravel() - mean).max() <= 1e-12 * scale
    assert np.abs(moments.covariance().reshape(mean.size, -1) - n * covariance).max() <= 1e-10 * scale


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


def test_the_bias_of_a_total_return_is_the_share_that_a_trajectory_has_in_its_own_baseline():
    mdp, policy, other, _ = small_case(0)
    ev = evaluate(mdp, policy, horizon=4)
    gradient, constant = ev.logit_gradient, estimator_moments(ev, TotalReturn(ev.expected_return))
    for n in (1, 2, 10):
        moments = estimator_moments(ev, TotalReturn(BatchAverage()), n=n)
        np.testing.assert_allclose(moments.mean, (1 - 1 / n) * gradient, rtol=0, atol=1e-14)
        off = estimator_moments(ev, TotalReturn(BatchAverage(leave_one_out=True), behaviour=other), n=n + 1)
        np.testing.assert_allclose(off.mean, gradient, rtol=0, atol=1e-13)
        assert estimator_moments(ev, TotalReturn(0.0)).at(n).trace == estimator_moments(ev, TotalReturn(0.0)).trace
    assert estimator_moments(ev, TotalReturn(BatchAverage()), n=1).trace == pytest.approx(0.0, abs=1e-14)
    # The limit is that of the mean return as a constant.
    limit = estimator_moments(ev, TotalReturn(BatchAverage()))
    np.testing.assert_allclose(limit.covariance(), constant.covariance(), rtol=0, atol=1e-14)
    np.testing.assert_allclose(limit.at(10**9).covariance(), limit.covariance(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_infinite_horizons_are_limits_of_long_ones(leave_one_out):
    mdp, policy, other, rng = small_case(1)
    ev, behaviour = evaluate(mdp, policy), SoftmaxPolicy(0.9 * policy.logits + 0.1 * other.logits)
    for x in estimators(BatchAverage(leave_one_out), behaviour, "trajectory", rng)[:3]:
        limit, long = (estimator_moments(ev, x, horizon=h, n=5) for h in (None, 150))
        np.testing.assert_allclose(limit.mean, long.mean, rtol=0, atol=1e-12)
        np.testing.assert_allclose(limit.covariance(), long.covariance(), rtol=0, atol=1e-11 * (1 + limit.trace))


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_no_fewer_trajectories_than_are_needed_are_enough(leave_one_out):
    mdp, policy, _, _ = small_case(0)
    ev = evaluate(mdp, policy, horizon=4)
    for kind in (TotalReturn, RewardToGo):
        moments = estimator_moments(ev, kind(BatchAverage(leave_one_out)))
        size = np.linalg.norm(moments.gradient)

        def error(n, moments=moments, size=size):
            return np.sqrt(moments.at(n).trace / n + np.sum(moments.at(n).bias ** 2)) / size

        for asked in (0.5, 0.2, 0.1):
            n = samples_needed(ev, kind(BatchAverage(leave_one_out)), asked)
            assert error(n) <= asked < error(n - 1)


def test_a_check_judges_by_the_moments_for_its_number_of_trajectories():
    mdp, policy, _, _ = small_case(0)
    for x in (TotalReturn(BatchAverage()), RewardToGo(BatchAverage(leave_one_out=True))):
        check = crosscheck(mdp, policy, x, n=200_000, horizon=5, rng=0, until_decided=0.05)
        assert check.agrees
        at_n = estimator_moments(evaluate(mdp, policy, horizon=5), x, n=check.estimate.n)
        np.testing.assert_array_equal(check.moments.covariance(), at_n.covariance())
        assert check.detectable_bias == pytest.approx(
            detectable_bias(mdp, policy, x, n=check.estimate.n, horizon=5, false_alarm=0.25e-4), rel=0.02
        )
    wrong = crosscheck(mdp, policy, MissingDiscount(RewardToGo(BatchAverage())), n=200_000, horizon=5, rng=0)
    assert wrong.fault == "the gradient without discount^t"


def test_batches_of_the_sampler_have_the_exact_mean_and_covariance():
    # 2000 batches of 5: with n so small the bias of a share of 1/5 and the spread of the average both show.
    mdp, policy, _, _ = small_case(0)
    runs, n = 2_000, 5
    for x in (TotalReturn(BatchAverage()), TotalReturn(BatchAverage(leave_one_out=True))):
        moments = estimator_moments(evaluate(mdp, policy, horizon=3), x, n=n)
        means = np.array(
            [estimate_gradient(mdp, policy, x, n=n, horizon=3, rng=i, threads=1).mean for i in range(runs)]
        )
        C = moments.covariance()[:2, 0, :2, 0] / n
        used = means[:, :2, 0]

        def statistic(mean, used=used, C=C):
            off = used.mean(axis=0) - mean[:2, 0]
            return runs * off @ np.linalg.solve(C, off)

        # Chi-square on two degrees of freedom: 27.6 has probability 1e-6.
        assert statistic(moments.mean) < 27.6
        if not x.baseline.leave_one_out:
            assert statistic(moments.gradient) > 27.6
        # The relative error of a sampled variance is about 3 %.
        np.testing.assert_allclose(np.cov(used.T), C, rtol=0.2, atol=0.1 * C.max())


def test_what_an_average_cannot_be_is_told():
    mdp, policy, other, _ = small_case(0)
    ev = evaluate(mdp, policy, horizon=2)
    alone = TotalReturn(BatchAverage(leave_one_out=True))
    for wrong in ("no", 3, None):
        with pytest.raises(InvalidArgument, match="leave_one_out must be True or False but is"):
            BatchAverage(leave_one_out=wrong)
    with pytest.raises(InvalidArgument, match="n must be at least 2 but is 1"):
        estimator_moments(ev, alone, n=1)
    with pytest.raises(InvalidArgument, match="n of at least 2"):
        estimate_gradient(mdp, policy, alone, n=1, horizon=2, rng=0)
    with pytest.raises(InvalidArgument, match="cannot keep a partial sample"):
        estimate_gradient(mdp, policy, alone, n=10, horizon=2, rng=0, keep_partial=True)
    with pytest.raises(InvalidArgument, match="self-normalised weights need a baseline that is not an average"):
        RewardToGo(BatchAverage(), behaviour=other, weights="self-normalised")
    with pytest.raises(InvalidArgument, match="an average of returns needs paths"):
        TemporalDifference(np.zeros(3), along="visitation", baseline=BatchAverage())
    with pytest.raises(InvalidArgument, match="n must be a positive integer but is 0"):
        estimator_moments(ev, RewardToGo(), n=0)
    assert isinstance(optimal_baseline(ev, TotalReturn(BatchAverage()), by="constant"), float)


def test_progress_covers_both_walks():
    mdp, policy, _, _ = small_case(0)
    seen = []
    estimate_gradient(mdp, policy, RewardToGo(BatchAverage()), n=1_000, horizon=3, rng=0, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1_000
    assert 500 in seen


BANDIT = problems.bandit([1.0, 0.0])


def two_contexts():
    """Two bandits of equal rewards, one of which is drawn: what both say together is constant but for the average."""
    P = np.zeros((3, 2, 3))
    P[:2, :, 2] = 1
    return MDP(P, [[1.0, 0.0], [1.0, 0.0], [0, 0]], 0.9, start=[0.5, 0.5, 0], terminal=[False, False, True])


@pytest.mark.parametrize("against", ["gradient", "mean"])
@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("kind", [TotalReturn, RewardToGo])
def test_an_estimate_that_varies_by_terms_of_order_1_over_n_is_not_rejected(kind, leave_one_out, against):
    # X = p (1 - p), p the share of one action: n (1/4 - X) is chi-square and not normal, and never 0 for certain.
    uniform, estimator = SoftmaxPolicy.uniform(BANDIT), kind(BatchAverage(leave_one_out))
    options = {"n": 100_000, "horizon": 1}
    for seed in range(20):
        check = crosscheck(BANDIT, uniform, estimator, rng=seed, against=against, **options)
        assert check.agrees, str(check)
        # Of standard deviation sqrt(2) / (4 n), and Chebyshev's margin is sqrt(4 entries / 1e-4) = 200 of these.
        assert check.detectable_bias == pytest.approx(200 * 2 / (4 * 100_000) * (1 + np.sqrt(1e-3)), rel=1e-3)
    assert detectable_bias(BANDIT, uniform, estimator, **options) == check.detectable_bias


def test_a_wrong_reward_is_found_where_only_terms_of_order_1_over_n_vary(monkeypatch):
    wrong = problems.bandit([1.01, 0.0])

    def altered(_, *args, **options):
        return estimate_gradient(wrong, *args, **options)

    monkeypatch.setattr(sys.modules["fastpg.crosscheck"], "estimate_gradient", altered)
    check = crosscheck(BANDIT, SoftmaxPolicy.uniform(BANDIT), TotalReturn(BatchAverage()), n=100_000, horizon=1, rng=0)
    assert check.verdict == "disagrees"


def test_directions_that_vary_by_terms_of_order_1_over_n_are_left_out():
    # A chi-square taken for a normal is beyond its 1 % too often: more than 12 of 200 have probability below 1e-6.
    mdp = two_contexts()
    options = {"n": 100_000, "horizon": 1}
    checks = [
        crosscheck(mdp, SoftmaxPolicy.uniform(mdp), TotalReturn(BatchAverage()), rng=seed, **options)
        for seed in range(200)
    ]
    assert {check.rank for check in checks} == {1}
    assert np.count_nonzero([check.p_value < 0.01 for check in checks]) <= stats.binom.isf(1e-6, 200, 0.01)
