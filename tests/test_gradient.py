"""The policy gradient, against derivatives that know no theorem: complex step, enumeration, rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpg import MDP, DirectPolicy, LogLinearPolicy, SoftmaxPolicy, evaluate, policy_gradient
from fastpg.testing.assertions import assert_within, rounding
from fastpg.testing.models import as_sparse
from fastpg.testing.oracles import complex_step_gradient, enumerated_gradient, rational_evaluation
from fastpg.testing.strategies import direct_policies, log_linear_policies, mdp_and_policy, mdps

EPS = np.finfo(float).eps


@given(mdp_and_policy(sparse=None))
def test_against_the_complex_step(case):
    """Every parametrisation; direct probabilities are perturbed one by one."""
    mdp, policy = case
    expected = complex_step_gradient(mdp, policy)
    if isinstance(policy, DirectPolicy):
        expected = np.where(mdp.available | mdp.terminal[:, None], expected, 0.0)
    size = mdp.n_states * mdp.n_actions if isinstance(policy, LogLinearPolicy) else 1
    assert_within(policy_gradient(evaluate(mdp, policy)), expected, size * rounding(mdp, policy, resolvents=2))


@given(mdp_and_policy(sparse=None), st.integers(1, 6))
def test_finite_horizon_against_the_complex_step(case, horizon):
    mdp, policy = case
    expected = complex_step_gradient(mdp, policy, horizon)
    size = mdp.n_states * mdp.n_actions if isinstance(policy, LogLinearPolicy) else 1
    bound = 64 * EPS * (mdp.n_states + mdp.n_actions) * horizon**3 * size * (1 + np.abs(mdp.expected_reward).max())
    assert_within(policy_gradient(evaluate(mdp, policy, horizon=horizon)), expected, bound)


@given(st.data(), st.integers(1, 3))
def test_log_linear_by_the_chain_rule(data, horizon):
    """dJ/dw = sum over state and action of phi dJ/dlogits, the latter by enumeration."""
    mdp = data.draw(mdps(max_states=3, max_actions=2))
    policy = data.draw(log_linear_policies(mdp))
    gradient = policy_gradient(evaluate(mdp, policy, horizon=horizon))
    expected = np.einsum("sak,sa->k", policy.features, enumerated_gradient(mdp, policy, horizon))
    assert_within(gradient, expected, 256 * EPS * horizon**3 * (1 + np.abs(mdp.expected_reward).max()))


@given(st.data())
def test_direct_gradient_predicts_a_move_within_the_simplex(data):
    """J(pi + t(pi' - pi)) is differentiable in t; for one changed state it is a ratio of linear functions."""
    mdp = data.draw(mdps(discount=st.sampled_from([0.0, 0.5, 0.9])))
    here, there = data.draw(direct_policies(mdp)), data.draw(direct_policies(mdp))
    gradient = policy_gradient(evaluate(mdp, here))
    slope = float((gradient * (there.probabilities - here.probabilities)).sum())

    def moved_return(t):
        return evaluate(mdp, DirectPolicy((1 - t) * here.probabilities + t * there.probabilities)).expected_return

    # |J'''| <= 96 |D|^4 R; one-sided, to stay inside the simplex: h^2 / 3 of that is lost, and 4/h of J's rounding.
    stay, reward = 1 / (1 - mdp.discount), np.abs(mdp.expected_reward).max()
    h = 1e-5 / stay
    difference = (-3 * moved_return(0) + 4 * moved_return(h) - moved_return(2 * h)) / (2 * h)
    noise = 32 * EPS * (mdp.n_states + mdp.n_actions) * stay**2 * reward
    assert abs(difference - slope) <= 32 * stay**4 * reward * h**2 + 4 * noise / h


@given(mdp_and_policy(sparse=None))
def test_rows_sum_to_zero_and_unvisited_places_have_no_gradient(case):
    mdp, policy = case
    for ev in (evaluate(mdp, policy), evaluate(mdp, policy, horizon=3)):
        g = ev.logit_gradient
        assert_within(g.sum(axis=1), np.zeros(mdp.n_states), rounding(mdp, policy, resolvents=2))
        assert not g[mdp.terminal].any()
        assert not g[ev.occupancy == 0].any()
        assert not g[~mdp.available].any()
        assert not g[policy.probabilities == 0].any()
        assert not ev.probability_gradient[mdp.terminal | (ev.occupancy == 0)].any()


@pytest.mark.parametrize("storage", [lambda mdp: mdp, as_sparse], ids=["dense", "sparse"])
@pytest.mark.parametrize("gap", [5.0, 40.0, 300.0, 700.0])
def test_almost_deterministic_policies_keep_every_digit(gap, storage):
    """Q - V of the likely action cancels to nothing, yet its gradient is exact: minus the others' gradients."""
    P = np.zeros((3, 3, 3))
    P[0, :, 1], P[1, :, 2] = 1.0, 1.0
    # Rewards and discount are dyadic, so that Q is exact and all error is the advantage's own.
    rewards = [[1024.0, 1025.0, 1024.5], [2048.0, 2048.0, 4096.0], [0.0, 0.0, 0.0]]
    mdp = storage(MDP(P, rewards, 0.5, start=0, terminal=[0, 0, 1]))
    policy = SoftmaxPolicy([[gap, 0.0, -1.0], [0.0, -np.inf, -np.inf], [0, 0, 0]])
    ev = evaluate(mdp, policy)
    exact = rational_evaluation(mdp, policy).logit_gradient
    for actual, expected in zip(policy_gradient(ev)[0], exact[0], strict=True):
        assert expected != 0
        assert abs(Fraction(float(actual)) / expected - 1) <= 16 * EPS
    naive = ev.occupancy[0] * policy.probabilities[0, 0] * (ev.action_value[0, 0] - ev.value[0])
    if gap >= 40:
        assert abs(Fraction(float(naive)) / exact[0, 0] - 1) > 0.5


@given(st.data())
def test_the_gradient_of_each_start_mixes_linearly(data):
    mdp, policy = data.draw(mdp_and_policy(sparse=None))
    each = [policy_gradient(evaluate(mdp.restart(s), policy)) for s in range(mdp.n_states)]
    mixed = sum(p * g for p, g in zip(mdp.start, each, strict=True))
    size = mdp.n_states * mdp.n_actions
    assert_within(policy_gradient(evaluate(mdp, policy)), mixed, size * rounding(mdp, policy, resolvents=2))


@pytest.mark.heavy
def test_larger_models_against_the_complex_step(seeds):
    for seed in seeds(2, 50):
        rng = np.random.default_rng(seed)
        S, A = int(rng.integers(10, 25)), int(rng.integers(2, 5))
        mdp = MDP(rng.dirichlet(np.full(S, 0.2), size=(S, A)), rng.standard_normal((S, A)), 0.97)
        policy = SoftmaxPolicy.random(mdp, rng=seed)
        for model in (mdp, as_sparse(mdp)):
            gradient = policy_gradient(evaluate(model, policy))
            assert_within(gradient, complex_step_gradient(mdp, policy), rounding(mdp, policy, resolvents=2))
