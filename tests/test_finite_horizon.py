"""The process that stops after T steps, against enumeration of its trajectories and against the infinite horizon."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpg import MDP, InvalidArgument, SoftmaxPolicy, SolveError, evaluate, finite_horizon, problems, uniform
from fastpg.solvers import LU
from fastpg.testing.assertions import assert_within, rounding
from fastpg.testing.models import as_dense, as_sparse, dense_reward
from fastpg.testing.oracles import enumerate_trajectories, enumerated_gradient, enumerated_return
from fastpg.testing.strategies import mdp_and_policy

EPS = np.finfo(float).eps
small = mdp_and_policy(max_states=3, max_actions=2, sparse=None)
horizons = st.integers(1, 4)


def rounding_of_steps(mdp, horizon, unit=None):
    """A bound on the rounding of a sum of at most T^2 products over states and actions."""
    unit = np.abs(dense_reward(mdp)).max() if unit is None else unit
    return 16 * EPS * (mdp.n_states + mdp.n_actions) * horizon**2 * unit


@given(small, horizons)
def test_return_and_gradient_by_enumeration(case, horizon):
    mdp, policy = case
    ev = evaluate(mdp, policy, horizon=horizon)
    bound = rounding_of_steps(mdp, horizon)
    assert_within(ev.expected_return, enumerated_return(mdp, policy, horizon), bound)
    assert_within(ev.logit_gradient, enumerated_gradient(mdp, policy, horizon), horizon * bound)


@given(small, horizons)
def test_laws_by_enumeration(case, horizon):
    mdp, policy = case
    ev = evaluate(mdp, policy, horizon=horizon)
    states = np.zeros((horizon + 1, mdp.n_states))
    pairs = np.zeros((horizon, mdp.n_states, mdp.n_actions))
    for path in enumerate_trajectories(mdp, policy, horizon):
        stays = horizon + 1 - len(path.states)
        for t, s in enumerate(path.states + path.states[-1:] * stays):
            states[t, s] += path.probability
        for t, (s, a) in enumerate(zip(path.states, path.actions, strict=False)):
            pairs[t, s, a] += path.probability
    bound = rounding_of_steps(mdp, horizon, 1.0)
    assert_within(ev.visitation, states, bound)
    goes_on = ~mdp.terminal[:, None]
    assert_within(np.where(goes_on, ev.state_action_visitation, 0), pairs, bound)
    discounts = mdp.discount ** np.arange(horizon)
    assert_within(ev.occupancy, np.einsum("t,tsa->s", discounts, pairs), bound)


@given(mdp_and_policy(sparse=None), st.integers(1, 12))
def test_laws_of_each_step_and_the_return_from_them(case, horizon):
    mdp, policy = case
    ev = evaluate(mdp, policy, horizon=horizon)
    bound = rounding_of_steps(mdp, horizon, 1.0)
    assert_within(ev.visitation.sum(axis=1), np.ones(horizon + 1), bound)
    assert_within(ev.state_action_visitation.sum(axis=(1, 2)), np.ones(horizon), bound)
    ended = ev.visitation[:, mdp.terminal]
    assert (np.diff(ended, axis=0) >= 0).all()
    assert not ev.occupancy[mdp.terminal].any()
    paid = (ev.occupancy[:, None] * policy.probabilities * mdp.expected_reward).sum()
    assert_within(ev.expected_return, paid, rounding_of_steps(mdp, horizon))


@given(mdp_and_policy(sparse=None), st.integers(2, 6))
def test_values_by_steps_to_go(case, horizon):
    mdp, policy = case
    ev, bound = evaluate(mdp, policy, horizon=horizon), rounding_of_steps(mdp, horizon)
    assert not ev.value[0].any()
    assert not ev.action_value[0].any()
    assert not ev.value[:, mdp.terminal].any()
    missing = ~mdp.available & ~mdp.terminal[:, None]
    for k in range(1, horizon + 1):
        shorter = evaluate(mdp, policy, horizon=k)
        assert_within(ev.value[: k + 1], shorter.value, 0)
        assert_within(shorter.expected_return, mdp.start @ ev.value[k], bound)
        q = np.einsum("sa,sa->s", policy.probabilities, ev.action_value[k])
        assert_within(ev.value[k], q, bound)
        difference = np.where(missing, 0, ev.action_value[k] - ev.value[k][:, None])
        assert_within(ev.advantage[k], difference, bound)


@given(mdp_and_policy(sparse=None, discount=st.floats(0, 0.9)), st.integers(1, 40))
def test_converges_to_the_infinite_horizon_at_the_rate_of_the_discount(case, horizon):
    mdp, policy = case
    ev, limit = evaluate(mdp, policy, horizon=horizon), evaluate(mdp, policy)
    left = mdp.discount**horizon
    bound = rounding(mdp, policy, resolvents=1) + rounding_of_steps(mdp, horizon)
    assert_within(ev.value[horizon], limit.value, left * np.abs(limit.value).max() + bound)
    bound = rounding(mdp, policy, resolvents=1, scale=1.0)
    assert_within(ev.occupancy, limit.occupancy, left * limit.occupancy.sum() + bound)


@given(mdp_and_policy(sparse=None, discount=st.floats(0, 0.9)))
def test_a_long_horizon_has_the_gradient_of_the_infinite_one(case):
    mdp, policy = case
    ev, limit = evaluate(mdp, policy, horizon=500), evaluate(mdp, policy)
    bound = rounding(mdp, policy, resolvents=2) + rounding_of_steps(mdp, 500) * 1e-2
    assert_within(ev.logit_gradient, limit.logit_gradient, bound)
    assert_within(ev.probability_gradient, limit.probability_gradient, bound)


@given(mdp_and_policy(), horizons)
def test_dense_equals_sparse(case, horizon):
    mdp, policy = case
    one, other = (evaluate(storage(mdp), policy, horizon=horizon) for storage in (as_dense, as_sparse))
    bound = rounding_of_steps(mdp, horizon)
    for name in ("value", "action_value", "advantage", "logit_gradient", "probability_gradient"):
        assert_within(getattr(one, name), getattr(other, name), horizon * bound)
    assert_within(one.visitation, other.visitation, rounding_of_steps(mdp, horizon, 1.0))


def test_slicing_the_horizon_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    mdp = MDP(rng.dirichlet(np.ones(3), size=(3, 2)), rng.standard_normal((3, 2)), 0.9)
    whole = evaluate(mdp, uniform(mdp), horizon=11)
    for numbers in (1, 18, 24):
        monkeypatch.setattr(finite_horizon, "SLICE", numbers)
        sliced = evaluate(mdp, uniform(mdp), horizon=11)
        assert_within(sliced.logit_gradient, whole.logit_gradient, rounding_of_steps(mdp, 11))
        assert_within(sliced.probability_gradient, whole.probability_gradient, rounding_of_steps(mdp, 11))


def test_a_process_that_never_ends_has_a_finite_horizon_at_discount_1():
    mdp = MDP([[[1.0]]], [2.0], 1)
    assert evaluate(mdp, uniform(mdp), horizon=7).expected_return == 14
    with pytest.raises(SolveError, match="a finite horizon"):
        evaluate(mdp, uniform(mdp))


def test_a_solver_for_a_finite_horizon_is_refused():
    mdp = problems.two_state()
    with pytest.raises(InvalidArgument, match=r"a finite horizon needs no solver but LU\(\) was given with horizon=3"):
        evaluate(mdp, SoftmaxPolicy.uniform(mdp), horizon=3, solver=LU())
    assert evaluate(mdp, SoftmaxPolicy.uniform(mdp), horizon=3).solved_by == "backward recursion"


@pytest.mark.parametrize("storage", [lambda mdp: mdp, as_sparse], ids=["dense", "sparse"])
def test_a_million_steps(storage):
    """Two states in turn at discount 1: a step pays 1 in the first and 3 in the second."""
    mdp = storage(MDP([[[0.0, 1.0]], [[1.0, 0.0]]], [1.0, 3.0], 1.0, 0))
    ev = evaluate(mdp, uniform(mdp), horizon=1_000_000)
    steps = np.arange(1_000_001)
    assert (ev.value[:, 0] == 4 * (steps // 2) + steps % 2).all()
    assert (ev.value[:, 1] == 4 * (steps // 2) + 3 * (steps % 2)).all()
    assert (ev.visitation[:, 0] == 1 - steps % 2).all()
    assert ev.occupancy.tolist() == [500_000, 500_000]


def test_an_unavailable_action_has_the_value_of_its_state_with_as_many_steps_to_go():
    mdp = MDP([[[0.0, 1.0]] * 2] * 2, [[1.0, 5.0], [2.0, 3.0]], 0.5, available=[[1, 0], [1, 1]])
    ev = evaluate(mdp, uniform(mdp), horizon=4)
    assert ev.action_value[:, 0, 1].tolist() == ev.value[:, 0].tolist()
    assert len(set(ev.value[:, 0])) == 5
    assert not ev.advantage[:, 0, 1].any()
