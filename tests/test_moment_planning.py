"""Optimal baselines and sample sizes against closed formulas, parabolas and what sampling shows."""

from dataclasses import replace

import numpy as np
import pytest

from fastpg import (
    GAE,
    MDP,
    InfiniteVariance,
    InvalidArgument,
    PlugIn,
    RewardToGo,
    SoftmaxPolicy,
    TemporalDifference,
    TotalReturn,
    estimate_gradient,
    estimator_moments,
    evaluate,
    optimal_baseline,
    problems,
    samples_needed,
)
from fastpg.testing.models import dense_transition


def closed_formula(ev, *, plug_in):
    """b*(s) = N(s) / n(s) from the three terms of N for reward-to-go, the first two for a plug-in table Q."""
    pi, P, discount, S = ev.policy.probabilities, dense_transition(ev.mdp), ev.mdp.discount, ev.mdp.n_states
    P_pi = np.einsum("sa,sak->sk", pi, P)
    P_D = np.einsum("sak,kl->sal", P, np.linalg.inv(np.eye(S) - discount * P_pi))
    P_D2 = np.einsum("sak,kl->sal", P, np.linalg.inv(np.eye(S) - discount**2 * P_pi))
    size = 1 - 2 * pi + (pi**2).sum(axis=1, keepdims=True)

    def against(v):
        return v - (pi * v).sum(axis=1, keepdims=True)

    def own(x):
        return np.stack([x[s, :, s] for s in range(S)])

    N = (pi * size * ev.action_value).sum(axis=1)
    N += discount * (pi * own(P_D) * against(pi * ev.advantage)).sum(axis=1)
    if not plug_in:
        zeta = discount**2 * pi * against(own(P_D2))
        N += (pi * ev.action_value * against(zeta)).sum(axis=1)
    weight = np.linalg.solve(np.eye(S) - discount**2 * P_pi.T, ev.mdp.start)
    n = (pi * size).sum(axis=1)
    return N / n, (weight @ N) / (weight @ n)


@pytest.mark.parametrize("seed", range(5))
def test_optimal_baselines_are_those_of_the_closed_formula(seed):
    mdp = problems.random_mdp(5, 3, rng=seed)
    ev = evaluate(mdp, SoftmaxPolicy(np.random.default_rng(seed).normal(size=(5, 3))))
    for estimator, plug_in in ((RewardToGo(), False), (PlugIn(ev.action_value), True)):
        by_state, constant = closed_formula(ev, plug_in=plug_in)
        np.testing.assert_allclose(optimal_baseline(ev, estimator), by_state, rtol=1e-12)
        assert optimal_baseline(ev, estimator, by="constant") == pytest.approx(constant, rel=1e-12)


def by_parabolas(ev, estimator, horizon, by):
    """The minimum of the parabola through three exact sums of variances for each state, or for all of them."""

    def spread(baseline):
        return estimator_moments(ev, replace(estimator, baseline=baseline), horizon=horizon).variance.sum(axis=1)

    best, width = np.zeros(ev.mdp.n_states), np.ones(ev.mdp.n_states)
    # A step as wide as the spread at the minimum leaves least rounding, so a second look starts from the first.
    for _ in range(3):
        below, at, above = spread(best - width), spread(best), spread(best + width)
        curvature, slope = (above - 2 * at + below) / 2, (above - below) / 2
        if by == "constant":
            curvature, slope, at = (np.full_like(x, x.sum()) for x in (curvature, slope, at))
        known = curvature > 1e-12 * np.abs(at)
        step = np.divide(-slope, 2 * curvature, out=np.zeros_like(best), where=known)
        best = best + width * step
        least = np.maximum(at - curvature * step**2, 0.0)
        width = width * np.sqrt(np.divide(least, curvature, out=np.ones_like(best), where=known & (least > 0)))
    return best if by == "state" else best[0]


@pytest.mark.parametrize("by", ["state", "constant"])
@pytest.mark.parametrize("horizon", [None, 1, 4, "geometric"])
@pytest.mark.parametrize("off_policy", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_optimal_baselines_are_at_the_vertices_of_parabolas(by, horizon, off_policy, terminal):
    rng = np.random.default_rng(terminal)
    ended = np.arange(4) == (3 if terminal else -1)
    R = np.where(ended[:, None, None], 0.0, rng.normal(size=(4, 3, 4)) + 3)
    mdp = MDP(rng.dirichlet(np.ones(4), size=(4, 3)), R, 0.7, [0.5, 0.3, 0.2, 0.0], terminal=ended)
    policy = SoftmaxPolicy(rng.normal(size=(4, 3)))
    behaviour = SoftmaxPolicy(policy.logits + 0.3 * rng.normal(size=(4, 3))) if off_policy else None
    ev, V, q = evaluate(mdp, policy), rng.normal(size=4), rng.normal(size=(4, 3))
    for x in (
        RewardToGo(behaviour=behaviour),
        RewardToGo(bootstrap=V, behaviour=behaviour),
        PlugIn(q, behaviour=behaviour),
        GAE(0.7, V, behaviour=behaviour),
        TemporalDifference(V, behaviour=behaviour),
        TemporalDifference(V, along="visitation"),
        TotalReturn(behaviour=behaviour),
    ):
        if horizon == 4 and getattr(x, "along", None) == "visitation":
            continue
        try:
            found = optimal_baseline(ev, x, horizon=horizon, by=by)
        except InfiniteVariance:
            assert isinstance(x, TotalReturn)
            assert horizon is None
            assert not terminal
            continue
        expected = by_parabolas(ev, x, horizon, by)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


def test_where_one_action_is_certain_the_baseline_is_0():
    mdp = problems.random_mdp(3, 2, rng=0)
    policy = SoftmaxPolicy([[0.0, -np.inf], [0.0, 0.0], [0.0, -np.inf]])
    best = optimal_baseline(evaluate(mdp, policy), RewardToGo())
    assert (best != 0).tolist() == [False, True, False]
    still = problems.bandit([1.0])
    assert optimal_baseline(evaluate(still, SoftmaxPolicy.uniform(still)), RewardToGo(), by="constant") == 0.0


@pytest.mark.parametrize("horizon", [None, 9, "geometric"])
def test_no_baseline_near_the_optimal_one_is_better(horizon):
    mdp = problems.frozen_lake("4x4", discount=0.9)
    rng = np.random.default_rng(0)
    ev = evaluate(mdp, SoftmaxPolicy.random(mdp, rng=0))
    for kind in (RewardToGo, TotalReturn):
        for by in ("state", "constant"):
            best = optimal_baseline(ev, kind(), horizon=horizon, by=by)
            least = estimator_moments(ev, kind(best), horizon=horizon).trace
            for _ in range(5):
                other = best + 0.01 * (rng.normal(size=16) if by == "state" else rng.normal())
                assert estimator_moments(ev, kind(other), horizon=horizon).trace >= least * (1 - 1e-13)
            assert least < estimator_moments(ev, kind(), horizon=horizon).trace


def test_what_has_no_baseline_is_told():
    mdp = problems.two_state()
    ev = evaluate(mdp, SoftmaxPolicy.uniform(mdp))

    class Own:
        def terms(self, mdp, table):
            return RewardToGo().terms(mdp, table)

    with pytest.raises(InvalidArgument, match="Own has no baseline"):
        optimal_baseline(ev, Own())
    with pytest.raises(InvalidArgument, match=r"estimator must be an object such as RewardToGo\(\) but is"):
        optimal_baseline(ev, RewardToGo)
    with pytest.raises(InvalidArgument, match="by must be"):
        optimal_baseline(ev, RewardToGo(), by="action")


def test_the_mean_of_so_many_samples_has_the_error_that_was_asked_for():
    mdp = problems.frozen_lake("4x4", discount=0.9)
    policy = SoftmaxPolicy.random(mdp, rng=0)
    ev = evaluate(mdp, policy)
    estimator = GAE(0.9, ev.value)
    n = samples_needed(ev, estimator, 0.2, horizon="geometric")
    exact = ev.logit_gradient
    runs = [estimate_gradient(mdp, policy, estimator, n=n, horizon="geometric", rng=seed).mean for seed in range(200)]
    error = np.sqrt(np.mean([np.sum((x - exact) ** 2) for x in runs])) / np.linalg.norm(exact)
    # The mean square of 200 runs has a relative error below 0.1 (one standard deviation, for a single direction).
    assert 0.2 * 0.75 < error < 0.2 * 1.25
    assert samples_needed(ev, estimator, 0.1, horizon="geometric") == pytest.approx(4 * n, abs=4)


def test_a_bias_that_no_number_of_samples_removes_is_told():
    mdp = problems.frozen_lake("4x4", discount=0.9)
    ev = evaluate(mdp, SoftmaxPolicy.random(mdp, rng=0))
    with pytest.raises(InvalidArgument, match="the bias of GAE as a share of the gradient's length"):
        samples_needed(ev, GAE(0.0, np.zeros(16)), 0.01)
    with pytest.raises(InvalidArgument, match="relative_error must be a positive number but is 0"):
        samples_needed(ev, RewardToGo(), 0)
    for wrong in (True, np.True_, 1j, np.complex128(1), np.inf, np.nan, 10**400, -1, "1%", None):
        with pytest.raises(InvalidArgument, match="relative_error must be a positive number but is"):
            samples_needed(ev, RewardToGo(), wrong)
    for number in (np.float32(0.5), np.int64(1)):
        assert samples_needed(ev, RewardToGo(), number) == samples_needed(ev, RewardToGo(), float(number))
    still = problems.bandit([1.0, 1.0])
    with pytest.raises(InvalidArgument, match="gradient that is not 0"):
        samples_needed(evaluate(still, SoftmaxPolicy.uniform(still)), RewardToGo(), 0.1)


@pytest.mark.parametrize("scale", [2.0**-540, 2.0**-565, 2.0**-900, 2.0**500])
def test_the_number_of_samples_does_not_depend_on_the_unit_of_reward(scale):
    bandit, model = problems.bandit([1.0, 0.0]), problems.random_mdp(4, 2, rng=0)
    policy = SoftmaxPolicy.random(model, rng=1)
    for mdp, pi, relative_error, horizon in (
        (bandit, SoftmaxPolicy.uniform(bandit), 0.01, None),
        (model, policy, 0.05, "geometric"),
    ):
        scaled = MDP(mdp.transition, mdp.reward * scale, mdp.discount, mdp.start, terminal=mdp.terminal)
        expected = samples_needed(evaluate(mdp, pi), RewardToGo(), relative_error, horizon=horizon)
        assert samples_needed(evaluate(scaled, pi), RewardToGo(), relative_error, horizon=horizon) == expected
