"""Values and visitation: laws of the theory over generated models, and exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpg import (
    MDP,
    Evaluation,
    FiniteHorizonEvaluation,
    InvalidArgument,
    InvalidModel,
    SoftmaxPolicy,
    evaluate,
    policy_gradient,
    problems,
    uniform,
)
from fastpg.evaluation import SAFETY
from fastpg.exact import evaluate_exactly
from fastpg.solvers import GTH, LU, Bordered, GainBias, Krylov
from fastpg.testing.assertions import assert_within, rounding
from fastpg.testing.models import as_dense, as_sparse, dense_reward, dense_transition
from fastpg.testing.oracles import rational_evaluation
from fastpg.testing.strategies import mdp_and_policy, mdp_and_two_policies

QUANTITIES = (
    ("value", 1),
    ("action_value", 1),
    ("advantage", 1),
    ("occupancy", 1),
    ("visitation", 1),
    ("state_action_visitation", 1),
    ("expected_return", 1),
    ("logit_gradient", 2),
    ("probability_gradient", 2),
)


def bound_of(mdp, policy, name, resolvents):
    """The rounding that a quantity may carry; laws have no unit of reward."""
    unit = 1.0 if "occupancy" in name or "visitation" in name else None
    return rounding(mdp, policy, resolvents=resolvents, scale=unit)


@given(mdp_and_policy(sparse=None))
def test_against_rational_arithmetic(case):
    mdp, policy = case
    ev, exact = evaluate(mdp, policy), rational_evaluation(mdp, policy)
    for name, resolvents in QUANTITIES:
        if hasattr(exact, name):
            expected = np.asarray(getattr(exact, name)).astype(float)
            if name in ("action_value", "advantage"):
                missing = ~mdp.available & ~mdp.terminal[:, None]
                fill = exact.value.astype(float)[:, None] if name == "action_value" else 0.0
                expected = np.where(missing, fill, expected)
            assert_within(getattr(ev, name), expected, bound_of(mdp, policy, name, resolvents))


@given(mdp_and_policy(sparse=None))
def test_dense_equals_sparse(case):
    mdp, policy = case
    dense, sparse = evaluate(as_dense(mdp), policy), evaluate(as_sparse(mdp), policy)
    for name, resolvents in QUANTITIES:
        assert_within(getattr(dense, name), getattr(sparse, name), bound_of(mdp, policy, name, resolvents))


@given(mdp_and_policy(sparse=None))
def test_bellman_equations(case):
    mdp, policy = case
    ev, pi = evaluate(mdp, policy), policy.probabilities
    P, R = dense_transition(mdp), dense_reward(mdp)
    bound = rounding(mdp, policy, resolvents=1)
    q = np.einsum("sak,sak->sa", P, R + mdp.discount * ev.value)
    missing = ~mdp.available & ~mdp.terminal[:, None]
    assert_within(ev.action_value, np.where(missing, ev.value[:, None], q), bound)
    assert_within(ev.value, (pi * ev.action_value).sum(axis=1), bound)
    assert_within(ev.advantage, np.where(missing, 0, ev.action_value - ev.value[:, None]), bound)
    assert_within((pi * ev.advantage).sum(axis=1), np.zeros(mdp.n_states), bound)
    assert not ev.value[mdp.terminal].any()
    assert not ev.advantage[~mdp.available | mdp.terminal[:, None]].any()


@given(mdp_and_policy(sparse=None))
def test_occupancy_flows(case):
    """What arrives in a state came from start or from a predecessor, terminal states keep what they get."""
    mdp, policy = case
    ev, pi, gamma = evaluate(mdp, policy), policy.probabilities, mdp.discount
    inflow = mdp.start + gamma * np.einsum("s,sa,sak->k", ev.occupancy, pi, dense_transition(mdp))
    bound = rounding(mdp, policy, resolvents=1, scale=1.0)
    assert_within(ev.occupancy, np.where(mdp.terminal, 0, inflow), bound)
    assert_within(ev.visitation, np.where(mdp.terminal, inflow, (1 - gamma) * inflow), bound)
    assert_within(ev.visitation.sum(), 1.0, bound)
    assert_within(ev.state_action_visitation, ev.visitation[:, None] * pi, 0)
    assert (ev.occupancy >= 0).all()


@given(mdp_and_policy(sparse=None))
def test_expected_return_two_ways(case):
    mdp, policy = case
    ev = evaluate(mdp, policy)
    bound = rounding(mdp, policy, resolvents=1)
    assert_within(ev.expected_return, mdp.start @ ev.value, bound)
    paid = np.einsum("s,sa,sa->", ev.occupancy, policy.probabilities, mdp.expected_reward)
    assert_within(ev.expected_return, paid, bound)


@given(mdp_and_two_policies(sparse=None))
def test_performance_difference(case):
    """J(new) - J(old) = sum_s d_new(s) sum_a new(a|s) A_old(s,a)   (Kakade & Langford 2002)"""
    mdp = case.mdp
    old, new = (evaluate(mdp, policy) for policy in case.policies)
    gain = (new.policy.probabilities * old.advantage).sum(axis=1)
    bound = max(rounding(mdp, policy, resolvents=2) for policy in case.policies)
    assert_within(new.expected_return - old.expected_return, new.occupancy @ gain, bound)


@given(mdp_and_policy(sparse=None), st.floats(-5, 5))
def test_a_potential_moves_the_value_and_nothing_else(case, unit):
    """Rewards R + discount phi(k) - phi(s), phi = 0 where the process has ended   (Ng, Harada & Russell 1999)"""
    mdp, policy = case
    phi = np.where(mdp.terminal, 0.0, unit * np.arange(1.0, mdp.n_states + 1))
    R = dense_reward(mdp) + mdp.discount * phi - phi[:, None, None]
    R[mdp.terminal] = 0.0
    shaped = MDP(dense_transition(mdp), R, mdp.discount, mdp.start, terminal=mdp.terminal, available=mdp.available)
    plain, moved = evaluate(mdp, policy), evaluate(shaped, policy)
    units = max(np.abs(dense_reward(mdp)).max(), np.abs(R).max())
    bound = rounding(mdp, policy, resolvents=1, scale=units)
    assert_within(moved.value, plain.value - phi, bound)
    assert_within(moved.advantage, plain.advantage, bound)
    assert_within(moved.logit_gradient, plain.logit_gradient, rounding(mdp, policy, resolvents=2, scale=units))


@given(mdp_and_policy(sparse=None), st.floats(-3, 3))
def test_linear_in_reward_and_in_start(case, factor):
    mdp, policy = case
    ev, bound = evaluate(mdp, policy), rounding(mdp, policy, resolvents=1)
    paid = MDP(
        mdp.transition, factor * mdp.reward, mdp.discount, mdp.start, terminal=mdp.terminal, available=mdp.available
    )
    assert_within(evaluate(paid, policy).value, factor * ev.value, 6 * bound)
    singles = [evaluate(mdp.restart(s), policy) for s in range(mdp.n_states)]
    assert_within([single.expected_return for single in singles], ev.value, bound)
    for name in ("occupancy", "visitation"):
        mixed = sum(p * getattr(single, name) for p, single in zip(mdp.start, singles, strict=True))
        assert_within(getattr(ev, name), mixed, rounding(mdp, policy, resolvents=1, scale=1.0))


@given(mdp_and_policy(discount=0.0, sparse=None))
def test_discount_0_sees_one_step(case):
    mdp, policy = case
    ev = evaluate(mdp, policy)
    bound = rounding(mdp, policy, resolvents=1)
    assert_within(ev.value, (policy.probabilities * mdp.expected_reward).sum(axis=1), bound)
    assert_within(ev.occupancy, np.where(mdp.terminal, 0, mdp.start), 0)
    assert_within(ev.visitation, mdp.start, 0)


@given(mdp_and_policy(max_states=1, discount=st.floats(0, 0.999), terminal=False))
def test_one_state_is_a_geometric_series(case):
    mdp, policy = case
    ev = evaluate(mdp, policy)
    r = (policy.probabilities * mdp.expected_reward).sum()
    assert_within(ev.value, [r / (1 - mdp.discount)], rounding(mdp, policy, resolvents=1))
    assert_within(ev.visitation, [1.0], rounding(mdp, policy, resolvents=1, scale=1.0))


@given(mdp_and_policy(max_actions=1, sparse=None))
def test_one_action_leaves_nothing_to_choose(case):
    ev = evaluate(*case)
    assert not ev.advantage.any()
    assert not ev.logit_gradient.any()


@pytest.mark.parametrize("discount", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("storage", [as_dense, as_sparse])
def test_a_start_where_all_has_ended(discount, storage):
    mdp = storage(MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [3.0, 0.0], discount, 1, terminal=[False, True]))
    ev = evaluate(mdp, uniform(mdp))
    assert ev.expected_return == 0
    assert_within(ev.occupancy, [0, 0], 0)
    assert_within(ev.visitation, [0, 1], 0)
    ended = storage(MDP([[[1.0]]], [0.0], discount, 0, terminal=[True]))
    assert evaluate(ended, uniform(ended)).expected_return == 0


def test_values_known_in_closed_form():
    """A fair walk on 0..4 that ends at both ends and is paid 1 at the right one: V(s) = s/4, d = 1, 2, 1."""
    P = np.zeros((5, 2, 5))
    for s in (1, 2, 3):
        P[s, 0, s - 1] = P[s, 1, s + 1] = 1
    R = np.zeros((5, 2, 5))
    R[3, 1, 4] = 1
    mdp = MDP(P, R, 1, start=2, terminal=[1, 0, 0, 0, 1])
    ev = evaluate(mdp, uniform(mdp))
    assert_within(ev.value, [0, 0.25, 0.5, 0.75, 0], 1e-15)
    assert_within(ev.occupancy, [0, 1, 2, 1, 0], 1e-15)
    assert_within(ev.visitation, [0.5, 0, 0, 0, 0.5], 1e-15)
    assert_within(ev.advantage[1:4], [[-0.25, 0.25]] * 3, 1e-15)


@given(mdp_and_policy(sparse=None))
def test_quantities_are_read_only_and_kept(case):
    for ev in (evaluate(*case), evaluate(*case, horizon=2)):
        for name, _ in QUANTITIES:
            quantity = getattr(ev, name)
            assert getattr(ev, name) is quantity
            assert isinstance(quantity, float) or not quantity.flags.writeable
        assert not policy_gradient(ev).flags.writeable


@pytest.mark.parametrize("horizon", [0, -1, 1.5, True, "3", np.inf])
def test_a_horizon_is_a_positive_integer(horizon):
    mdp = MDP([[[1.0]]], [1.0], 0.5)
    with pytest.raises(InvalidArgument, match="horizon must be a positive integer but is"):
        evaluate(mdp, uniform(mdp), horizon=horizon)


def test_the_kind_of_evaluation_follows_the_horizon():
    mdp = MDP([[[1.0]]], [1.0], 0.5)
    ev = evaluate(mdp, SoftmaxPolicy([[0.0]]))
    assert isinstance(ev, Evaluation)
    assert repr(ev) == (
        "Evaluation(expected return 2, MDP(1 state, 1 action, discount 0.5, dense), SoftmaxPolicy(1 state, 1 action))"
    )
    finite = evaluate(mdp, uniform(mdp), horizon=2)
    assert isinstance(finite, FiniteHorizonEvaluation)
    assert repr(finite).startswith("FiniteHorizonEvaluation(horizon 2, expected return 1.5, MDP(")


@pytest.mark.parametrize(
    ("error", "message", "arguments", "options"),
    [
        (InvalidModel, "mdp must be an MDP but is SoftmaxPolicy", (1, 0), {}),
        (InvalidModel, "mdp must be an MDP but is NoneType", (None, 1), {}),
        (InvalidArgument, r"solver must be a solver such as LU\(\) but is 'lu'", (0, 1), {"solver": "lu"}),
        (InvalidArgument, "solver must be a solver such as LU", (0, 1), {"solver": LU}),
        (InvalidArgument, r"but 1.00e\+20 steps of 2 states take 1.60e\+21 bytes", (0, 1), {"horizon": 10**20}),
        (InvalidArgument, r"but 1.00e\+400 steps of 2 states take 1.60e\+401 bytes", (0, 1), {"horizon": 10**400}),
    ],
)
def test_misuse_of_evaluate_is_one_sentence(error, message, arguments, options):
    mdp = MDP(np.full((2, 2, 2), 0.5), [1.0, 0.0], 0.9)
    given = (mdp, uniform(mdp))
    with pytest.raises(error, match=message):
        evaluate(*(None if i is None else given[i] for i in arguments), **options)


class Rough:
    """LU, and an error of the values that is random or, where the process does not end, cancels in the advantages."""

    def __init__(self, size, constant):
        self.size, self.constant = size, constant

    def factorise(self, chain):
        """What solves, and keeps what it solves with."""
        self.factors = LU().factorise(chain)
        return self

    def solve(self, b):
        """The solution with the error; a refinement by a small right side has a small one."""
        noise = np.ones(b.size) if self.constant else np.cos(np.arange(b.size) ** 2.0)
        return self.factors.solve(b) + self.size * np.abs(b).max() * noise

    def solve_transposed(self, b):
        """The solution."""
        return self.factors.solve_transposed(b)


@pytest.mark.parametrize("seed", range(5))
def test_the_error_of_the_advantage_is_told_from_one_refinement(seed):
    """Against the advantage of LU, which is right to 1e-13; an error that is constant is none, however large."""
    mdp = problems.garnet(12, 3, 3, rng=seed, discount=0.95)
    policy = SoftmaxPolicy.random(mdp, rng=seed)
    truth = evaluate(mdp, policy)
    ev, shifted = (evaluate(mdp, policy, solver=Rough(1e-6, constant)) for constant in (False, True))
    centred = ev.action_value - (policy.probabilities * ev.action_value).sum(axis=1, keepdims=True)
    error = (truth.state_action_visitation * np.abs(centred - truth.advantage)).sum() / mdp.discount_complement
    error *= SAFETY
    assert ev._is_accurate(0.0, 1.001 * error)
    assert ev._is_accurate(error, 2.001 * error)
    assert not ev._is_accurate(0.0, 0.999 * error)
    assert not ev._is_accurate(error, 1.999 * error)
    assert SAFETY * np.ptp(ev.value - truth.value) * truth.occupancy.sum() > error  # the first bound alone would refine
    assert shifted._is_accurate(0.0, 1e-5 * error)
    assert not shifted._is_accurate(0.0, 0.0)


def off_the_truth(ev):
    """The largest error of a value, and that of the return, as shares of the largest value of rational arithmetic."""
    exact = evaluate_exactly(ev.mdp, ev.policy)
    off = [abs(Fraction(float(x)) - y) for x, y in zip(ev.value, exact.value, strict=True)]
    largest = max(map(abs, exact.value))
    return float(max(off) / largest), float(abs(Fraction(ev.expected_return) - exact.expected_return) / largest)


def mean_of_nearly_0(S):
    """P (S, 1, S) and rewards (S, 1) whose mean under the stationary law is 0 but for rounding."""
    rng = np.random.default_rng(S)
    P = rng.dirichlet(np.ones(S), S)
    law = np.linalg.matrix_power(P, 1024)[0]
    reward = rng.standard_normal(S)
    return P[:, None], (reward - law @ reward / law.sum())[:, None]


@pytest.mark.parametrize("solver", [None, LU(), Bordered()])
@pytest.mark.parametrize("complement", [9e-5, 1e-6, 1e-9])
@pytest.mark.parametrize("S", [2, 20])
def test_values_keep_their_digits_where_the_mean_reward_is_nearly_0(S, complement, solver):
    """What rewards above 0 and below 0 are worth alone is up to 1e9 times as much, and cancels."""
    P, reward = mean_of_nearly_0(S) if S > 2 else ([[[0.5, 0.5]], [[1.0, 0.0]]], [1.0, -2.0])
    mdp = MDP(P, reward, 1 - complement, 0)
    ev = evaluate(mdp, SoftmaxPolicy.uniform(mdp), solver=solver)
    assert max(off_the_truth(ev)) <= 1e-15
    assert ev.error.value.max() <= 1e-15 * np.abs(ev.value).max()
    assert ev.error.expected_return <= 1e-15 * np.abs(ev.value).max()


@pytest.mark.parametrize("storage", [as_dense, as_sparse])
def test_values_keep_their_digits_where_the_rewards_of_successors_cancel(storage):
    rng = np.random.default_rng(4)
    P, R = rng.dirichlet(np.ones(20), (20, 1)), rng.standard_normal((20, 1, 20))
    R -= (P * R).sum(axis=2, keepdims=True) - 1e-3
    mdp = storage(MDP(P, R, 1 - 1e-9, 0))
    assert max(off_the_truth(evaluate(mdp, SoftmaxPolicy.uniform(mdp)))) <= 1e-15


@pytest.mark.parametrize("complement", [2e-6, 5e-7])
@pytest.mark.parametrize("signed", [False, True])
def test_large_sparse_models_keep_the_digits_of_their_values_near_discount_1(complement, signed):
    """Where iterations, and gain and bias, know no more than norms."""
    mdp = as_sparse(problems.garnet(1200, 4, 5, rng=0, discount=1 - complement))
    reward = np.random.default_rng(2).random((1200, 4))
    policy = SoftmaxPolicy.uniform(mdp)
    if signed:
        reward -= evaluate(mdp, policy).visitation @ reward.mean(axis=1)
    ev = evaluate(MDP(mdp.transition, reward, mdp.discount, 0), policy)
    assert isinstance(ev.solver, Krylov | GainBias)
    assert ev.error.value.max() <= 1e-14 * np.abs(ev.value).max()


@pytest.mark.parametrize("shift", [0.005, 0.05])
@pytest.mark.parametrize("solver", [GTH(), Bordered()])
@pytest.mark.parametrize("complement", [1e-17, 1e-25, 1e-30, 1e-100])
def test_a_correction_that_rounding_would_spoil_is_not_made(complement, solver, shift):
    """Rounding of V itself to floats leaves more than V of a correction: what elimination knows is better."""
    P, reward = mean_of_nearly_0(20)
    mdp = MDP(P, reward + shift, 1 - complement, 0, discount_complement=complement)
    assert off_the_truth(evaluate(mdp, SoftmaxPolicy.uniform(mdp), solver=solver))[0] <= 1e-12


def test_mean_rewards_keep_what_large_ones_of_either_sign_leave():
    mdp = MDP([[[1.0]] * 3], [[-1e16, 1.0, 1e16]], 0.5)
    assert off_the_truth(evaluate(mdp, SoftmaxPolicy.uniform(mdp)))[0] <= 1e-15
