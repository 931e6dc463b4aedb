"""Exact moments of estimators that perturb the logits, against all directions and all trajectories."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpg import (
    MDP,
    DirectPolicy,
    EvolutionStrategy,
    FiniteDifference,
    InvalidArgument,
    NoExactMoments,
    SoftmaxPolicy,
    crosscheck,
    directions,
    estimate_gradient,
    estimator_moments,
    evaluate,
    problems,
    return_variance,
)
from fastpg.sampling.contributions import expected_contributions
from fastpg.sampling.coupled import coupled_moments
from fastpg.sampling.faults import MissingDiscount
from fastpg.sampling.plan import plan
from fastpg.testing.models import as_sparse, dense_reward
from fastpg.testing.perturbed import (
    PERTURBATIONS,
    coupled_returns,
    enumerated_moments,
    free_logits,
    moved,
    returns_of,
)
from fastpg.testing.strategies import mdps, softmax_policies

GOOD = problems.frozen_lake("4x4", discount=0.9)
BETTER = SoftmaxPolicy(50 * evaluate(GOOD, SoftmaxPolicy.uniform(GOOD)).advantage)


SCALES = (0.1, 0.5, 2.0)


@given(st.data())
@settings(max_examples=60)
@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_moments_are_those_of_all_directions_and_trajectories(kind, data):
    mdp = data.draw(mdps(max_states=3, max_actions=2, sparse=None))
    policy = data.draw(softmax_policies(mdp, extreme=False))
    x = PERTURBATIONS[kind](data.draw(st.sampled_from(SCALES)))
    horizon = data.draw(st.integers(1, 4 if "common" not in kind else 2))
    mean, covariance = enumerated_moments(x, mdp, policy, horizon)
    moments = estimator_moments(evaluate(mdp, policy, horizon=horizon), x)
    size = np.abs(dense_reward(mdp)).max() * horizon + 1
    tolerance = 1e-12 * (size * moments.plan.factor) ** 2 + 1e-12
    assert np.abs(moments.mean - mean).max(initial=0) <= 1e-12 * size * moments.plan.factor
    assert np.abs(moments.covariance() - covariance).max(initial=0) <= tolerance
    states = np.arange(mdp.n_states)
    assert np.abs(moments.blocks - covariance[states, :, states]).max(initial=0) <= tolerance
    assert abs(moments.trace - np.einsum("sasa->", covariance)) <= tolerance * covariance.size


ENDLESS = {name: kind for name, kind in PERTURBATIONS.items() if name not in ("coordinate", "common coordinate")}


@pytest.mark.parametrize("kind", ENDLESS)
def test_the_infinite_horizon_is_the_limit_of_long_ones(kind):
    rng = np.random.default_rng(2)
    ended = np.array([False, False, True])
    R = np.where(ended[:, None, None], 0.0, rng.normal(size=(3, 2, 3)))
    mdp = MDP(rng.dirichlet(np.ones(3), size=(3, 2)), R, 0.7, [0.5, 0.3, 0.2], terminal=ended)
    policy, x = SoftmaxPolicy(rng.normal(size=(3, 2))), PERTURBATIONS[kind](0.5)
    limit = estimator_moments(evaluate(mdp, policy), x)
    long = estimator_moments(evaluate(mdp, policy), x, horizon=120)
    np.testing.assert_allclose(limit.mean, long.mean, rtol=0, atol=1e-13)
    np.testing.assert_allclose(limit.covariance(), long.covariance(), rtol=0, atol=1e-13 * limit.trace)


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_geometric_horizon_is_that_of_a_model_that_ends(kind):
    # Each transition pays and then either goes on or ends.
    rng = np.random.default_rng(3)
    P, R, gamma = rng.dirichlet(np.ones(3), size=(3, 2)), rng.normal(size=(3, 2)), 0.8
    policy, x = SoftmaxPolicy(rng.normal(size=(3, 2))), PERTURBATIONS[kind](0.5)
    longer = np.zeros((4, 2, 4))
    longer[:3, :, :3], longer[:3, :, 3] = gamma * P, 1 - gamma
    ending = MDP(longer, np.vstack([R, np.zeros(2)]), 1.0, [0.2, 0.3, 0.5, 0.0], terminal=np.arange(4) == 3)
    endless = MDP(P, R, gamma, [0.2, 0.3, 0.5])
    geometric = estimator_moments(evaluate(endless, policy), x, horizon="geometric")
    twin = estimator_moments(evaluate(ending, SoftmaxPolicy(np.vstack([policy.logits, np.zeros(2)]))), x)
    np.testing.assert_allclose(geometric.mean, twin.mean[:3], rtol=0, atol=1e-13)
    if "common" not in kind:
        # With common random numbers the end is drawn apart from successors, and the coupling is another one.
        np.testing.assert_allclose(geometric.covariance(), twin.covariance()[:3, :, :3], atol=1e-13 * twin.trace)
    discounted = estimator_moments(evaluate(endless, policy), x)
    np.testing.assert_allclose(geometric.mean, discounted.mean, rtol=0, atol=1e-13)


def test_the_bias_of_a_central_difference_has_a_closed_form():
    mdp = problems.random_mdp(12, 3, rng=0)
    policy = SoftmaxPolicy.random(mdp, rng=1)
    ev = evaluate(mdp, policy)
    pi, P, g = policy.probabilities, mdp.transition, ev.logit_gradient
    D = np.linalg.inv(np.eye(12) - mdp.discount * np.einsum("sa,sak->sk", pi, P))
    own = np.einsum("sak,ks->sa", P, D)
    k = pi * (1 - mdp.discount * (own - (pi * own).sum(axis=1, keepdims=True)))
    for h in (1e-8, 1e-3, 0.1, 2.0):
        up, down = np.expm1(h), np.expm1(-h)
        exact = g * (up / (1 + k * up) - down / (1 + k * down)) / (2 * h)
        mean = estimator_moments(ev, FiniteDifference(h)).mean
        # The difference of two numbers near 1 loses digits here, not in the mean.
        np.testing.assert_allclose(mean, exact, rtol=1e-11 + 1e-15 / h)
        # One coordinate at random, and without the other side, is the same on average.
        for antithetic in (True, False):
            other = EvolutionStrategy(h, directions.Coordinate(), antithetic=antithetic)
            tolerance = 1e-11 if antithetic else 1e-13 / h
            np.testing.assert_allclose(estimator_moments(ev, other).mean, mean, rtol=1e-11, atol=tolerance)
    bias = estimator_moments(ev, FiniteDifference(0.01)).bias
    np.testing.assert_allclose(bias, 1e-4 * g * (1 / 6 - k * (1 - k)), rtol=0.01, atol=1e-8 * np.abs(g).max())
    # However small the step, no digit is lost.
    np.testing.assert_allclose(estimator_moments(ev, FiniteDifference(1e-8)).mean, g, rtol=1e-12)


def test_many_states_agree_with_an_evaluation_of_every_perturbed_policy():
    mdp = problems.frozen_lake("4x4", discount=0.95)
    policy = SoftmaxPolicy.random(mdp, rng=1)
    for horizon in (None, 15):
        ev = evaluate(mdp, policy, horizon=horizon)
        moments = estimator_moments(ev, FiniteDifference(0.5))

        def law_of_return(s, a, change, horizon=horizon):
            delta = np.zeros((16, 4))
            delta[s, a] = change
            ev = evaluate(mdp, moved(policy, delta), horizon=horizon)
            V, v = (np.reshape(x, (-1, 16))[-1] for x in (ev.value, return_variance(ev)))
            return ev.expected_return, mdp.start @ v + mdp.start @ (V - ev.expected_return) ** 2

        for s, a in free_logits(mdp, policy):
            (up, v_up), (down, v_down) = (law_of_return(s, a, change) for change in (0.5, -0.5))
            assert moments.mean[s, a] == pytest.approx(up - down, abs=1e-14)
            assert moments.variance[s, a] == pytest.approx(v_up + v_down, abs=1e-14)


def test_any_policy_is_perturbed_in_its_logits():
    mdp = as_sparse(problems.random_mdp(4, 3, rng=0))
    policy = SoftmaxPolicy([[0.0, 1.0, -np.inf], [0.0, 0.5, 1.0], [0.0, -np.inf, -np.inf], [1.0, 2.0, 3.0]])
    direct = DirectPolicy(policy.probabilities)
    same = [estimator_moments(evaluate(mdp, x), FiniteDifference(), horizon=5).variance for x in (policy, direct)]
    np.testing.assert_allclose(*same, rtol=1e-14)
    assert not same[0][2].any()
    assert same[0][0, 2] == 0


def test_what_makes_no_sense_is_told():
    ev = evaluate(GOOD, BETTER)
    for make, message in (
        (lambda: FiniteDifference(0.0), r"step must be a number in \[1e-60, 50\] but is 0.0"),
        (lambda: FiniteDifference(1e-300), r"step must be a number in \[1e-60, 50\] but is 1e-300"),
        (lambda: FiniteDifference(51.0), r"step must be a number in \[1e-60, 50\] but is 51.0"),
        (lambda: EvolutionStrategy(-1.0), "scale must be a number"),
        (lambda: EvolutionStrategy(0.1, directions.Gaussian), "directions must be random ones such as Gaussian"),
        (lambda: EvolutionStrategy(antithetic=False, common=True), "common random numbers need pairs"),
        (lambda: MissingDiscount(FiniteDifference()), "MissingDiscount needs an estimator that weighs scores"),
        (lambda: crosscheck(GOOD, BETTER, FiniteDifference, n=9, horizon=2, rng=0), "must be an object such as"),
        (lambda: estimator_moments(ev, FiniteDifference(), horizon=0), "horizon must be a positive integer"),
        (lambda: estimate_gradient(GOOD, BETTER, FiniteDifference(), n=9, horizon="never", rng=0), "'geometric'"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            make()
    with pytest.raises(NoExactMoments, match=r"all 2\^44 sign vectors of 44 free logits"):
        estimator_moments(ev, EvolutionStrategy(0.1, directions.Rademacher()))
    large = problems.garnet(2000, 4, 3, rng=0, sparse=True)
    with pytest.raises(NoExactMoments, match="16000 perturbed policies on 2000 states"):
        estimator_moments(evaluate(large, SoftmaxPolicy.uniform(large)), FiniteDifference(), horizon=10_000)
    wide = problems.garnet(60, 4, 20, rng=0)
    with pytest.raises(NoExactMoments, match="common random numbers has no exact covariance on 60 states"):
        estimator_moments(evaluate(wide, SoftmaxPolicy.uniform(wide)), FiniteDifference(common=True)).trace  # noqa: B018


def test_contributions_are_those_of_all_pairs_of_trajectories():
    mdp = problems.random_mdp(3, 2, rng=4)
    policy, n, F = SoftmaxPolicy.random(mdp, rng=5), 1000, 6
    p, gain = returns_of(mdp, policy, 2)
    pairs, difference = np.outer(p, p).ravel(), np.subtract.outer(gain, gain).ravel()
    for kind, chance, scale in (("difference", 1.0, 0.5), ("signs", 1.0, 0.5), ("coordinate", 1 / F, 0.5 * F)):
        found = expected_contributions(mdp, policy, PERTURBATIONS[kind](0.1), n=n, horizon=2)
        second, fourth = chance * (pairs @ difference**2), chance * (pairs @ difference**4)
        np.testing.assert_allclose(found.total, n * second**2 / fourth, rtol=1e-10)
        unit = plan(mdp, policy, FiniteDifference(), 2).unit
        np.testing.assert_allclose(found.second * unit**2, second * (scale / 0.1) ** 2, rtol=1e-12)
        np.testing.assert_array_equal(found.distinct, found.total)
    one_sided = expected_contributions(mdp, policy, PERTURBATIONS["one-sided signs"](0.1), n=n, horizon=2)
    np.testing.assert_allclose(one_sided.total, n * (p @ gain**2) ** 2 / (p @ gain**4), rtol=1e-12)
    common = expected_contributions(mdp, policy, PERTURBATIONS["common difference"](0.1), n=n, horizon=2)
    for s, a in free_logits(mdp, policy):
        change = np.zeros((3, 2))
        change[s, a] = 0.1
        q, gain = np.array(list(coupled_returns(mdp, moved(policy, change), moved(policy, -change), 2))).T
        gain = gain - q @ gain
        assert common.total[s, a] == pytest.approx(n * (q @ gain**2) ** 2 / (q @ gain**4), rel=1e-9)


def test_what_is_never_done_may_have_no_value():
    # At discount 1 the third action would lead to a state that is never left.
    P = np.zeros((3, 3, 3))
    P[0, :2, 2] = P[0, 2, 1] = P[1, :, 1] = 1.0
    mdp = MDP(P, [[1.0, 0.5, 7.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]], 1.0, start=0, terminal=[False, False, True])
    policy = SoftmaxPolicy([[0.2, 0.1, -np.inf], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    for kind in PERTURBATIONS.values():
        for horizon in (None, "geometric"):
            endless = estimator_moments(evaluate(mdp, policy), kind(0.3), horizon=horizon)
            step = estimator_moments(evaluate(mdp, policy, horizon=1), kind(0.3))
            np.testing.assert_allclose(endless.mean, step.mean, rtol=0, atol=1e-15)
            np.testing.assert_allclose(endless.variance, step.variance, rtol=1e-13)


def test_where_all_has_ended_or_there_is_one_action_nothing_varies():
    for mdp in (MDP([[[1.0]]], [0.0], 0.9, start=0, terminal=[True]), problems.bandit([1.0])):
        policy = SoftmaxPolicy.uniform(mdp)
        for kind in PERTURBATIONS.values():
            assert estimator_moments(evaluate(mdp, policy), kind(0.1)).trace == 0
            check = crosscheck(mdp, policy, kind(0.1), n=10, horizon=3, rng=0)
            assert check.agrees
            assert check.settled.all()


def test_rewards_in_other_units_give_the_same_in_these():
    small = MDP(GOOD.transition, 1e-200 * GOOD.reward, GOOD.discount, GOOD.start, terminal=GOOD.terminal)
    for x in (FiniteDifference(0.3), FiniteDifference(0.3, common=True)):
        one, other = (estimator_moments(evaluate(mdp, BETTER), x) for mdp in (GOOD, small))
        np.testing.assert_allclose(other.standard_deviation * 1e200, one.standard_deviation, rtol=1e-12)
        estimates = [estimate_gradient(mdp, BETTER, x, n=100, horizon=9, rng=0).mean for mdp in (GOOD, small)]
        np.testing.assert_allclose(estimates[1] * 1e200, estimates[0], rtol=1e-12)


def test_a_difference_of_coupled_returns_has_the_law_of_its_words():
    mdp = problems.random_mdp(3, 2, rng=0)
    policy = SoftmaxPolicy.random(mdp, rng=0)
    made = plan(mdp, policy, FiniteDifference(0.7, common=True), 3)
    u = directions.Coordinate().enumerate(6).direction
    moments = coupled_moments(made, u, 4)
    for n in (0, 5, 7):
        delta = 0.7 * u[[n]].toarray().reshape(3, 2)
        p, gain = np.array(list(coupled_returns(mdp, moved(policy, delta), moved(policy, -delta), 3))).T
        for j in range(5):
            assert moments[j, n] * made.unit**j == pytest.approx(p @ gain**j, abs=1e-13)
