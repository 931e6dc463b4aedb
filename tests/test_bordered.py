"""The bordered system: errors in proportion to its condition number and not to 1 / (1 - discount)."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given

from fastpg import MDP, SoftmaxPolicy, SolveError, evaluate, policy_gradient, uniform
from fastpg.chain import induced_chain
from fastpg.solvers import Bordered, knows_differences
from fastpg.testing.assertions import assert_within
from fastpg.testing.models import as_dense, as_sparse, dense_reward
from fastpg.testing.oracles import rational_evaluation
from fastpg.testing.strategies import mdp_and_policy

EPS = np.finfo(float).eps
FLOOR = 1e-290
COMPLEMENTS = (1e-1, 1e-3, 1e-9, 1e-16, 1e-30, 1e-100, 1e-300)


def loop(complement, storage=as_dense, seed=0, S=6):
    """A model whose states all lead to each other, and a policy."""
    rng = np.random.default_rng(seed)
    P, R = rng.dirichlet(np.ones(S), size=(S, 3)), rng.standard_normal((S, 3))
    mdp = storage(MDP(P, R, 1 - complement, discount_complement=complement))
    return mdp, SoftmaxPolicy.random(mdp, rng=seed)


def two_rooms(leak, complement):
    """Two rooms of three states, left for the other from the first state with probability `leak`, or half of it."""
    P = np.stack([np.kron(np.eye(2), np.full((3, 3), 1 / 3))] * 2, axis=1)
    for door, other in ((0, 3), (3, 0)):
        P[door, :, door] -= np.array([leak, leak / 2])
        P[door, :, other] += np.array([leak, leak / 2])
    rng = np.random.default_rng(0)
    return MDP(P, rng.standard_normal((6, 2)), 1 - complement, discount_complement=complement)


@pytest.mark.parametrize("storage", [as_dense, as_sparse])
@pytest.mark.parametrize("complement", COMPLEMENTS)
def test_nothing_is_lost_near_discount_1(complement, storage, seeds):
    for seed in seeds(1, 20):
        mdp, policy = loop(complement, storage, seed)
        ev, oracle = evaluate(mdp, policy, solver=Bordered()), rational_evaluation(mdp, policy)
        assert ev.factors.condition < 100
        for name in ("value", "occupancy", "advantage", "logit_gradient"):
            expected = getattr(oracle, name).astype(float)
            assert_within(getattr(ev, name), expected, 2e-14 * np.abs(expected).max())
        visitation = [Fraction(complement) * d for d in oracle.occupancy]
        assert_within(ev.visitation, np.array(visitation, dtype=float), 2e-14)


@given(mdp_and_policy(sparse=None))
def test_errors_are_in_proportion_to_the_condition(case):
    mdp, policy = case
    chain = induced_chain(mdp, policy)
    try:
        factors = Bordered().factorise(chain)
    except SolveError as error:
        assert "condition number" in str(error) or "singular" in str(error)  # noqa: PT017
        return
    oracle = rational_evaluation(mdp, policy)
    bound = 64 * mdp.n_states * EPS * factors.condition
    whole, relative = factors.solve_up_to_a_constant(chain.reward)
    value = oracle.value.astype(float)
    size = np.abs(dense_reward(mdp)).max() + np.abs(value).max()
    assert_within(whole.value, value, bound * size + FLOOR)
    assert_within(factors.solve(chain.reward), whole.value, 0)
    expected = np.array(oracle.value - oracle.value[factors.ground], dtype=float)
    assert_within(relative.value, expected, 64 * mdp.n_states * EPS * relative.size + FLOOR)
    assert relative.value[factors.ground] == 0
    occupancy = np.where(mdp.terminal, 0.0, factors.solve_transposed(mdp.start))
    assert_within(occupancy, oracle.occupancy.astype(float), bound * (1 + float(max(oracle.occupancy))) + FLOOR)


@pytest.mark.parametrize("complement", [1e-3, 1e-9, 1e-100])
@pytest.mark.parametrize("leak", [1e-2, 1e-6, 1e-10])
def test_the_condition_grows_as_a_chain_falls_apart_and_covers_the_error(leak, complement):
    mdp = two_rooms(leak, complement)
    ev, oracle = evaluate(mdp, uniform(mdp), solver=Bordered()), rational_evaluation(mdp, uniform(mdp))
    condition = ev.factors.condition
    assert 1 <= condition * (leak + complement) <= 30
    for name in ("value", "occupancy"):
        expected = getattr(oracle, name).astype(float)
        assert_within(getattr(ev, name), expected, 4 * EPS * condition * np.abs(expected).max())
    gradient = oracle.logit_gradient.astype(float)
    assert_within(policy_gradient(ev), gradient, 4 * EPS * condition * np.abs(gradient).max())
    _, relative = ev.factors.solve_up_to_a_constant(ev.chain.reward)
    expected = np.array(oracle.value - oracle.value[ev.factors.ground], dtype=float)
    assert_within(relative.value, expected, 4 * EPS * relative.size)
    advantage = oracle.advantage.astype(float)
    assert_within(ev.advantage, advantage, 1e-10 * np.abs(advantage).max())


def test_the_condition_is_that_of_the_bordered_matrix():
    mdp, policy = loop(1e-3)
    factors = Bordered().factorise(induced_chain(mdp, policy))
    matrix = np.eye(6) - mdp.discount * np.einsum("sa,sak->sk", policy.probabilities, mdp.transition)
    matrix[:, factors.ground] = 1.0
    exact = np.linalg.cond(matrix, np.inf)
    assert 0.3 * exact <= factors.condition <= exact * (1 + 1e-12)


def test_states_that_are_hardly_left_keep_their_digits():
    """1 - discount P(s|s) is 1e-12, to full precision."""
    ahead = np.roll(np.eye(5), 1, axis=1)
    P = (1 - 1e-12) * np.eye(5) + 1e-12 * ahead
    mdp = MDP(P[:, None], [1.0, 0.0, -2.0, 0.5, 0.0], 1.0, discount_complement=1e-100)
    ev, oracle = evaluate(mdp, uniform(mdp), solver=Bordered()), rational_evaluation(mdp, uniform(mdp))
    _, relative = ev.factors.solve_up_to_a_constant(ev.chain.reward)
    expected = np.array(oracle.value - oracle.value[ev.factors.ground], dtype=float)
    assert_within(relative.value, expected, 1e-14 * np.abs(expected).max())


def test_it_knows_differences_and_takes_several_right_sides():
    mdp, policy = loop(1e-6)
    factors = Bordered().factorise(induced_chain(mdp, policy))
    assert knows_differences(factors)
    rights = np.random.default_rng(0).standard_normal((6, 3))
    for solve in (factors.solve, factors.solve_transposed):
        found = solve(rights)
        for b, x in zip(rights.T, found.T, strict=True):
            assert_within(x, solve(b), 1e-14 * np.abs(x).max())


@pytest.mark.parametrize("storage", [as_dense, as_sparse])
def test_what_float64_cannot_tell_from_singular_is_refused(storage):
    closed = storage(MDP(np.eye(2)[:, None], [1.0, 0.0], 1.0, discount_complement=1e-20))
    with pytest.raises(SolveError, match=r"condition number .*, beyond float64: .* use solvers.GTH\(\)|singular"):
        evaluate(closed, uniform(closed), solver=Bordered())
    endless = storage(MDP([[[1.0, 1e-20]], [[0.0, 0.0]]], [1.0, 0.0], 1, start=0, terminal=[False, True]))
    with pytest.raises(SolveError, match=r"condition number 2e\+20, beyond float64"):
        evaluate(endless, uniform(endless), solver=Bordered())


def test_what_overflows_is_no_warning():
    mdp = MDP([[[0.5, 0.5]]] * 2, [1.0, 0.0], 1.0, 0, discount_complement=1e-300)
    factors = Bordered().factorise(induced_chain(mdp, uniform(mdp)))
    for solve in (factors.solve, factors.solve_transposed):
        assert not np.isfinite(solve(np.full(2, 1e10))).all()
