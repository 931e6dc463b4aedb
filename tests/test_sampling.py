"""Trajectories and gradient estimates: reproducible, of the right law, and equal to what the trajectories say."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fastpg import (
    MDP,
    DirectPolicy,
    InvalidArgument,
    InvalidPolicy,
    RewardToGo,
    SoftmaxPolicy,
    SolveError,
    TemporalDifference,
    TotalReturn,
    estimate_gradient,
    estimator_moments,
    evaluate,
    problems,
    rollout,
    sample_evaluation,
    sample_returns,
)
from fastpg.kernels import sampling as kernels
from fastpg.sampling.estimate import Pooling
from fastpg.sampling.faults import ActionBaseline, WrongRatio
from fastpg.testing.models import as_sparse, dense_transition
from fastpg.testing.strategies import mdp_and_policy

# The whole suite raises a false alarm with probability 1e-6 for each chance it is given here; seeds are fixed.
ALPHA = 1e-6

LAKE = problems.frozen_lake("4x4")
RANDOM = SoftmaxPolicy.random(LAKE, rng=1)


def gradients_of(mdp, policy, estimator, horizon, n, rng):
    """The estimate of each trajectory (n, S, A), in plain Python from stored trajectories."""
    paths = rollout(mdp, policy, n=n, horizon=horizon, rng=rng)
    gamma = 1.0 if horizon == "geometric" else mdp.discount
    b = np.broadcast_to(0.0 if estimator.baseline is None else estimator.baseline, mdp.n_states)
    X = np.zeros((n, mdp.n_states, mdp.n_actions))
    for i, length in enumerate(paths.lengths):
        r = [gamma**t * paths.rewards[i, t] for t in range(length)]
        for t in range(length):
            s, a = paths.states[i, t], paths.actions[i, t]
            whole = isinstance(estimator, TotalReturn)
            weight = sum(r) - b[s] if whole else sum(r[t:]) - gamma**t * b[s]
            X[i, s] -= weight * policy.probabilities[s]
            X[i, s, a] += weight
    return X


@pytest.mark.parametrize("horizon", [1, 7, "geometric"])
@pytest.mark.parametrize("estimator", [TotalReturn, RewardToGo])
@pytest.mark.parametrize("baseline", [None, 0.3, np.linspace(-1, 1, 5)])
def test_an_estimate_is_the_mean_over_its_trajectories(horizon, estimator, baseline):
    mdp = MDP(
        np.random.default_rng(0).dirichlet(np.ones(5), size=(5, 3)),
        np.r_[np.random.default_rng(1).normal(size=(4, 3, 5)), np.zeros((1, 3, 5))],
        0.8,
        terminal=np.arange(5) == 4,
    )
    policy = SoftmaxPolicy.random(mdp, rng=2)
    n = 300
    X = gradients_of(mdp, policy, estimator(baseline), horizon, n, rng=3)
    estimate = estimate_gradient(mdp, policy, estimator(baseline), n=n, horizon=horizon, rng=3)
    assert np.allclose(estimate.mean, X.mean(axis=0), rtol=0, atol=1e-13)
    assert np.allclose(estimate.standard_error, X.std(axis=0, ddof=1) / np.sqrt(n), rtol=1e-9, atol=1e-13)
    kurtosis = stats.kurtosis(X[:, 0, 0])
    assert estimate.contributions[0, 0] == pytest.approx(n / max(kurtosis, 1.0), rel=1e-6)
    assert np.all(estimate.contributions[4] == 0)


def test_block_sums_hold_the_covariance_of_the_mean():
    n = 20_000
    X = gradients_of(LAKE, RANDOM, RewardToGo(), 10, n, rng=5).reshape(n, -1)
    estimate = estimate_gradient(LAKE, RANDOM, RewardToGo(), n=n, horizon=10, rng=5)
    assert estimate.blocks.shape[0] == 4096
    # Over blocks of 4 or 5 the covariance of all entries, and with it every standard error, is estimated again.
    root = np.sqrt(estimate.block_sizes)[:, None]
    assert np.allclose((root * estimate.blocks).sum(axis=0) / n, X.mean(axis=0), rtol=0, atol=1e-15)
    edges = np.concatenate(([0], np.cumsum(estimate.block_sizes)))
    sums = np.add.reduceat(X, edges[:-1], axis=0)
    assert np.allclose(estimate.blocks * root, sums, rtol=0, atol=1e-13)
    deviations = (sums - estimate.block_sizes[:, None] * X.mean(axis=0)) / root
    expected = np.sqrt((deviations**2).sum(axis=0) / 4095 / n).reshape(LAKE.n_states, -1)
    assert np.allclose(estimate.standard_error, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("horizon", [13, "geometric"])
def test_nothing_depends_on_threads_or_on_what_else_is_sampled(horizon):
    few = rollout(LAKE, RANDOM, n=100, horizon=horizon, rng=7, threads=1)
    many = rollout(LAKE, RANDOM, n=9_000, horizon=horizon, rng=7, threads=3)
    width = few.actions.shape[1]
    assert np.array_equal(few.states, many.states[:100, : width + 1])
    assert np.array_equal(few.actions, many.actions[:100, :width])
    assert np.array_equal(few.rewards, many.rewards[:100, :width])
    assert np.array_equal(few.lengths, many.lengths[:100])
    one, three = (
        estimate_gradient(LAKE, RANDOM, RewardToGo(), n=10_001, horizon=horizon, rng=7, threads=k) for k in (1, 3)
    )
    for name in ("mean", "standard_error", "contributions", "blocks", "steps"):
        assert np.array_equal(getattr(one, name), getattr(three, name))


def test_dense_and_sparse_models_give_the_same_trajectories():
    dense = rollout(LAKE, RANDOM, n=500, horizon=20, rng=0)
    sparse = rollout(as_sparse(LAKE), RANDOM, n=500, horizon=20, rng=0)
    assert np.array_equal(dense.states, sparse.states)
    assert np.array_equal(dense.rewards, sparse.rewards)


@settings(max_examples=60)
@given(mdp_and_policy(sparse=None), st.sampled_from([1, 4, "geometric"]), st.integers(0, 2**64))
def test_trajectories_obey_the_model(case, horizon, seed):
    mdp, policy = case
    policy = policy.masked(mdp.available)
    P = dense_transition(mdp)
    paths = rollout(mdp, policy, n=50, horizon=horizon, rng=seed)
    n, T = paths.actions.shape
    assert len(paths) == n == 50
    assert horizon == "geometric" or horizon == T
    assert np.all(mdp.start[paths.states[:, 0]] > 0)
    step = np.arange(T)[None, :] < paths.lengths[:, None]
    s, a, k = paths.states[:, :-1][step], paths.actions[step], paths.states[:, 1:][step]
    assert np.all(P[s, a, k] > 0)
    assert np.all(policy.probabilities[s, a] > 0)
    assert not mdp.terminal[s].any()
    assert np.all(paths.states[:, 1:][~step] == -1)
    assert np.all(paths.actions[~step] == -1)
    assert np.all(paths.rewards[~step] == 0)
    last = paths.states[np.arange(n), paths.lengths]
    assert horizon == "geometric" or np.all(mdp.terminal[last] | (paths.lengths == T))


def test_rewards_are_those_of_the_transitions():
    cliff = problems.cliff_walking(slippery=True)
    paths = rollout(cliff, SoftmaxPolicy.uniform(cliff), n=200, horizon=50, rng=0)
    step = np.arange(50)[None, :] < paths.lengths[:, None]
    s, a, k = paths.states[:, :-1][step], paths.actions[step], paths.states[:, 1:][step]
    reward = cliff.reward if cliff.reward.ndim == 3 else np.broadcast_to(cliff.reward[:, :, None], (48, 4, 48))
    assert np.array_equal(paths.rewards[step], reward[s, a, k])
    assert (paths.rewards == -100).any()


def test_first_steps_have_their_law():
    # Chi-square on the 48 outcomes (s0, a0, s1). Moving mass x between outcomes p and q gives a noncentrality of
    # n x^2 (1/p + 1/q); 140 is found with probability .999 at ALPHA, and the mutant's 0.2 % has more than that.
    rng = np.random.default_rng(0)
    mdp = MDP(rng.dirichlet(np.ones(4) / 2, size=(4, 3)), np.zeros(4), 0.9, start=rng.dirichlet(np.ones(4)))
    policy = SoftmaxPolicy.random(mdp, rng=1)
    n = 2_000_000

    def p_value(law):
        paths = rollout(mdp, policy, n=n, horizon=1, rng=2)
        cell = np.ravel_multi_index((paths.states[:, 0], paths.actions[:, 0], paths.states[:, 1]), (4, 3, 4))
        count = np.bincount(cell, minlength=48)
        expected = n * law.ravel()
        common = expected > 25
        return stats.chisquare(count[common], expected[common] * count[common].sum() / expected[common].sum()).pvalue

    law = mdp.start[:, None, None] * policy.probabilities[:, :, None] * mdp.transition
    assert p_value(law) > ALPHA
    wrong = law.copy()
    common = np.argsort(law.ravel())[-2:]
    wrong.flat[common] += np.array([-1, 1]) * 0.002
    assert n * 0.002**2 * (1 / law.flat[common]).sum() > 140
    assert p_value(wrong) < ALPHA


@pytest.mark.parametrize("discount", [0.0, 0.3, 0.99])
def test_geometric_lengths_have_their_law(discount):
    mdp = MDP(np.ones((1, 1, 1)), [0.0], discount)
    n = 20_000 if discount > 0.9 else 1_000_000
    lengths = rollout(mdp, SoftmaxPolicy.uniform(mdp), n=n, horizon="geometric", rng=0).lengths
    if discount == 0:
        assert np.all(lengths == 1)
        return
    last = int(np.floor(np.log(50 / n) / np.log(discount)))
    count = np.bincount(np.minimum(lengths, last), minlength=last + 1)[1:]

    def p_value(gamma):
        law = gamma ** np.arange(last) * (1 - gamma)
        law[-1] = gamma ** (last - 1)
        return stats.chisquare(count, n * law).pvalue

    assert p_value(discount) > ALPHA
    assert p_value(discount - 0.01) < ALPHA


def test_the_geometric_draw_is_the_inverse_of_its_tail():
    gamma = 0.97
    powers = gamma ** (2.0 ** np.arange(12))
    for u in (0.5, 0.9701, 0.9699, 1e-6, 1 - 1e-9):
        word = np.uint64(int(u * 2**64))
        assert kernels.geometric_length(word, powers) == 1 + int(np.floor(np.log(u) / np.log(gamma)))


def test_an_interrupted_run_stops_and_leaves_nothing_behind():
    def interrupt(_):
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        estimate_gradient(LAKE, RANDOM, RewardToGo(), n=10_000_000, horizon=50, rng=0, progress=interrupt)
    assert threading.active_count() == before
    assert estimate_gradient(LAKE, RANDOM, RewardToGo(), n=100, horizon=50, rng=0).n == 100


def test_progress_counts_trajectories():
    seen = []
    estimate_gradient(LAKE, RANDOM, RewardToGo(), n=1_000, horizon=5, rng=0, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1_000


def test_more_entries_than_pools_share_signed_ones():
    mdp = problems.garnet(400, 4, 3, rng=0)
    policy = SoftmaxPolicy.random(mdp, rng=1)
    estimate, alone = (
        estimate_gradient(mdp, policy, RewardToGo(), n=5_000, horizon=10, rng=0, threads=k) for k in (3, 1)
    )
    assert np.array_equal(estimate.mean, alone.mean)
    assert np.array_equal(estimate.standard_error, alone.standard_error)
    assert estimate.blocks.shape == (4096, 1024)
    pool, weight = estimate.pooling
    pooled = np.bincount(pool.ravel(), (weight * estimate.mean).ravel(), minlength=1024)
    root = np.sqrt(estimate.block_sizes)[:, None]
    assert np.allclose((root * estimate.blocks).sum(axis=0) / 5_000, pooled, rtol=0, atol=1e-15)


def test_one_trajectory_has_no_standard_error():
    estimate = estimate_gradient(LAKE, RANDOM, RewardToGo(), n=1, horizon=5, rng=0)
    assert np.isnan(estimate.standard_error).all()


BAD = [
    ({"n": 0}, InvalidArgument, "n must be a positive integer but is 0"),
    ({"n": 10**30}, InvalidArgument, "n must be an integer below 2^63 but is 1" + 30 * "0"),
    ({"n": 1.5}, InvalidArgument, "n must be a positive integer but is 1.5"),
    ({"horizon": 0}, InvalidArgument, "horizon must be a positive integer but is 0"),
    ({"horizon": "forever"}, InvalidArgument, "horizon must be a positive number of steps or 'geometric'"),
    ({"threads": 0}, InvalidArgument, "threads must be a positive integer but is 0"),
    ({"rng": -3}, InvalidArgument, "rng must be a non-negative int seed"),
    ({"policy": SoftmaxPolicy([[0.0]])}, InvalidPolicy, "policy must have shape (16, 4) to fit the MDP"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_arguments_are_named(change, error, message):
    arguments = {"policy": RANDOM, "n": 10, "horizon": 5, "rng": 0} | change
    policy = arguments.pop("policy")
    for call in (rollout, lambda *a, **k: estimate_gradient(*a, RewardToGo(), **k)):
        with pytest.raises(error) as caught:
            call(LAKE, policy, **arguments)
        assert message in str(caught.value)


@pytest.mark.parametrize("progress", [True, 3, "bar"])
def test_progress_must_be_callable(progress):
    for call in (
        lambda: estimate_gradient(LAKE, RANDOM, RewardToGo(), n=10, horizon=5, rng=0, progress=progress),
        lambda: sample_evaluation(LAKE, RANDOM, n=10, rng=0, progress=progress),
    ):
        with pytest.raises(InvalidArgument, match=f"progress must be a function .* but is {progress!r}"):
            call()


@pytest.mark.parametrize(
    ("n", "horizon", "size"),
    [(10**9, 10**6, 16_000_012 * 10**9), (10**12, 10**6, 16_000_012 * 10**12), (2**62, "geometric", 12 * 2**62)],
)
def test_trajectories_that_no_memory_holds_are_refused(n, horizon, size):
    with pytest.raises(InvalidArgument) as caught:
        rollout(LAKE, RANDOM, n=n, horizon=horizon, rng=0)
    for words in (
        f"n = {n} trajectories",
        f"horizon {horizon}",
        f"{size} bytes",
        "estimate_gradient",
        "sample_returns",
    ):
        assert words in str(caught.value)
    with pytest.raises(InvalidArgument, match=f"{8 * 2**62} bytes"):
        sample_returns(LAKE, RANDOM, n=2**62, horizon=3, rng=0)


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        (np.zeros(3), "baseline must be None, a number or an array of shape (16,) but has shape (3,)"),
        (np.nan, "baseline[0] must be finite but is nan"),
        ("V", "baseline must hold real numbers"),
    ],
)
def test_bad_baselines_are_named(baseline, message):
    with pytest.raises(InvalidArgument) as caught:
        estimate_gradient(LAKE, RANDOM, RewardToGo(baseline), n=10, horizon=5, rng=0)
    assert message in str(caught.value)


def test_steps_from_the_visitation_have_no_horizon():
    ev, estimator = evaluate(LAKE, RANDOM), TemporalDifference(np.zeros(16), along="visitation")
    with pytest.raises(InvalidArgument, match="horizon must be None, 'geometric' or 1 but is 3"):
        estimator_moments(ev, estimator, horizon=3)


@pytest.mark.parametrize("pooling", [3, Pooling(np.zeros(3), np.zeros(3)), (np.zeros((16, 4)),) * 2])
def test_what_is_no_pooling_is_refused(pooling):
    with pytest.raises(InvalidArgument, match=r"pooling must be a Pooling of two arrays of shape \(16, 4\)"):
        estimate_gradient(LAKE, RANDOM, RewardToGo(), n=10, horizon=5, rng=0, pooling=pooling)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WrongRatio(RewardToGo(), power=np.nan), r"power must be a number in \[-100, 100\] but is nan"),
        (lambda: WrongRatio(RewardToGo(), power="x"), r"power must be a number in \[-100, 100\] but is 'x'"),
        (lambda: ActionBaseline(RewardToGo(), np.full((16, 4), np.nan)), r"baseline\[0, 0\] must be finite but is nan"),
        (lambda: ActionBaseline(RewardToGo(), "x"), "baseline must hold real numbers"),
    ],
)
def test_faults_check_what_they_are_given(make, message):
    with pytest.raises(InvalidArgument, match=message):
        make()


def test_a_behaviour_need_not_know_states_that_are_not_reached():
    P = np.zeros((3, 2, 3))
    P[0, :, 1] = P[2, :, 2] = 1.0
    mdp = MDP(P, [[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], 0.9, start=0, terminal=[0, 1, 0])
    policy, behaviour = SoftmaxPolicy.uniform(mdp), DirectPolicy([[0.3, 0.7], [0.5, 0.5], [0.0, 1.0]])
    estimator = RewardToGo(behaviour=behaviour)
    # E X = pi (r - pi r) whatever the behaviour.
    np.testing.assert_allclose(estimator_moments(evaluate(mdp, policy), estimator).mean[0], [0.25, -0.25], rtol=1e-14)
    assert not estimate_gradient(mdp, policy, estimator, n=100, horizon=5, rng=0).mean[2].any()
    leads = MDP(P, mdp.reward, 0.9, start=[0.5, 0.0, 0.5], terminal=[0, 1, 0])
    for x in (estimator, TemporalDifference(np.zeros(3), along="visitation", behaviour=behaviour)):
        with pytest.raises(InvalidPolicy, match=r"behaviour\[2, 0\] is 0"):
            estimator_moments(evaluate(leads, policy), x)


@pytest.mark.parametrize("estimator", [RewardToGo, None, "RewardToGo"])
def test_what_is_no_estimator_is_refused(estimator):
    with pytest.raises(InvalidArgument, match=r"estimator must be an object such as RewardToGo\(\) but is"):
        estimate_gradient(LAKE, RANDOM, estimator, n=10, horizon=5, rng=0)


def test_a_baseline_is_copied():
    baseline = np.zeros(16)
    estimator = RewardToGo(baseline)
    baseline += 1
    assert not estimator.baseline.any()
    with pytest.raises(ValueError, match="read-only"):
        estimator.baseline[0] = 1


def test_an_endless_run_is_refused_before_it_starts():
    mdp = MDP(np.ones((1, 1, 1)), [0.0], 1.0)
    with pytest.raises(SolveError, match="state 0 belongs to a recurrent class of 1 state"):
        rollout(mdp, SoftmaxPolicy.uniform(mdp), n=1, horizon="geometric", rng=0)


@pytest.mark.parametrize(("discount", "ending"), [(1.0, 1e-9), (1 - 1e-9, 1e-12)])
def test_a_run_that_hardly_ever_ends_is_refused_before_it_starts(discount, ending):
    P = np.zeros((2, 2, 2))
    P[0, 0], P[0, 1] = [1 - ending, ending], [0, 1]
    mdp = MDP(P, [[1.0, 1.0], [0.0, 0.0]], discount, 0, terminal=[False, True])
    quick, slow = SoftmaxPolicy.uniform(mdp), SoftmaxPolicy([[0.0, -50.0], [0.0, 0.0]])
    message = r"must take at most 1e\+08 steps on average but the sampled policy takes (1e\+09|9.99e\+08)"
    for run in (
        lambda: rollout(mdp, slow, n=1, horizon="geometric", rng=0),
        lambda: sample_evaluation(mdp, slow, n=1, rng=0),
        # The policy itself would end after two steps.
        lambda: estimate_gradient(mdp, quick, RewardToGo(behaviour=slow), n=1, horizon="geometric", rng=0),
    ):
        with pytest.raises(InvalidArgument, match=message):
            run()
    assert estimate_gradient(mdp, quick, RewardToGo(), n=10, horizon="geometric", rng=0).steps < 100
    assert len(rollout(mdp, slow, n=1, horizon=5, rng=0)) == 1
