"""Evaluation in rational numbers and balls, against an independent elimination, enumeration and published numbers."""

import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpg import (
    MDP,
    DirectPolicy,
    InvalidArgument,
    InvalidModel,
    InvalidPolicy,
    LogLinearPolicy,
    SoftmaxPolicy,
    SolveError,
    evaluate,
    fisher_information,
    natural_gradient,
    policy_gradient,
    problems,
    uniform,
)
from fastpg.exact import ExactMDP, enclose, evaluate_exactly
from fastpg.model import UNPAID
from fastpg.testing.assertions import assert_within, rounding
from fastpg.testing.oracles import rational_evaluation
from fastpg.testing.strategies import mdp_and_policy

F = Fraction
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


def floats(x):
    """Each number rounded once, None as nan."""
    return np.asarray(x, dtype=object).astype(float)


@given(mdp_and_policy(sparse=None))
def test_equals_gaussian_elimination_on_fractions(case):
    mdp, policy = case
    ev, oracle = evaluate_exactly(mdp, policy), rational_evaluation(mdp, policy)
    missing = ~mdp.available & ~mdp.terminal[:, None]
    for name in oracle._fields:
        expected = getattr(oracle, name)
        if name == "action_value":
            expected = np.where(missing, oracle.value[:, None], expected)
        if name == "advantage":
            expected = np.where(missing, F(0), expected)
        assert np.array_equal(getattr(ev, name), expected), name


@given(mdp_and_policy(sparse=None))
def test_floats_are_within_the_rounding_that_conditioning_allows(case):
    mdp, policy = case
    ev, exact = evaluate(mdp, policy), evaluate_exactly(mdp, policy)
    for name, resolvents in QUANTITIES:
        unit = 1.0 if "occupancy" in name or "visitation" in name else None
        bound = rounding(mdp, policy, resolvents=resolvents, scale=unit)
        assert_within(getattr(ev, name), floats(getattr(exact, name)), bound)


@given(mdp_and_policy(sparse=None))
def test_laws_hold_exactly(case):
    mdp, policy = case
    ev = evaluate_exactly(mdp, policy)
    assert ev.visitation.sum() == ev.state_action_visitation.sum() == 1
    assert not ev.logit_gradient.sum(axis=1).any()
    assert not ev.fisher_blocks.sum(axis=2).any()
    if not isinstance(policy, LogLinearPolicy):
        assert not ev.natural_gradient[ev.occupancy == 0].any()
        assert not ev.natural_gradient[policy.probabilities == 0].any()
    for quantity in (ev.value, ev.advantage, ev.gradient, ev.fisher_blocks, ev.natural_gradient):
        assert not quantity.flags.writeable
        assert all(type(x) is Fraction for x in quantity.ravel())


@given(mdp_and_policy(sparse=None))
def test_derived_quantities_are_those_of_the_float_functions(case):
    mdp, policy = case
    ev, exact = evaluate(mdp, policy), evaluate_exactly(mdp, policy)
    weight = fisher_information(ev).weight
    bound = rounding(mdp, policy, resolvents=1, scale=1.0)
    assert_within(fisher_information(ev).blocks, floats(exact.fisher_blocks), bound)
    assert exact.gradient.shape == policy_gradient(ev).shape
    size = np.abs(policy.features).sum() if isinstance(policy, LogLinearPolicy) else 1
    assert_within(policy_gradient(ev), floats(exact.gradient), size * rounding(mdp, policy, resolvents=2))
    scale = 1 if mdp.discount == 1 else 1 - mdp.discount
    if not isinstance(policy, LogLinearPolicy):
        bound = 8 * rounding(mdp, policy, resolvents=1) / scale
        # The float weight of a state may underflow to 0, and its step is then 0.
        seen = (weight > 0) | (exact.occupancy == 0)
        assert_within(natural_gradient(ev)[seen], floats(exact.natural_gradient)[seen], bound)


@given(mdp_and_policy(max_states=3, max_actions=3))
def test_natural_gradient_solves_with_the_least_norm(case):
    """F x = dJ in the parameters; x of least norm is orthogonal to the null space of F, so it is F z for some z."""
    mdp, policy = case
    ev = evaluate_exactly(mdp, policy)
    x, pi = ev.natural_gradient, np.array([[F(p) for p in row] for row in policy.probabilities.tolist()], dtype=object)
    if isinstance(policy, SoftmaxPolicy):
        assert np.array_equal((ev.fisher_blocks * x[:, None, :]).sum(axis=2), ev.logit_gradient)
        assert not x.sum(axis=1).any()
    elif isinstance(policy, LogLinearPolicy):
        phi = np.array([F(v) for v in policy.features.ravel().tolist()], dtype=object).reshape(policy.features.shape)
        image = (ev.fisher_blocks * (phi @ x)[:, None, :]).sum(axis=2)
        assert np.array_equal(np.einsum("sak,sa->k", phi, image), ev.gradient)
    else:
        assert not x.sum(axis=1).any()
        assert not x[pi == 0].any()


def test_least_norm_with_dependent_features():
    """Two equal features share the one coordinate that there is: x = (c, c), with c half of it."""
    mdp = ExactMDP([[[1], [1]]], [[1, 0]], "1/2")
    policy = LogLinearPolicy([[[1.0, 1.0], [0.0, 0.0]]], [0.0, 0.0])
    ev = evaluate_exactly(mdp, policy)
    assert ev.gradient.tolist() == [F(1, 2)] * 2
    assert ev.natural_gradient.tolist() == [F(1)] * 2


def enumerated(P, R, gamma, mu, pi, horizon):
    """J_T and dJ_T/dlogits from all trajectories, in Fractions; no state is terminal."""
    S, A = pi.shape
    J, gradient = F(0), np.full((S, A), F(0))
    paths = [(mu[s], F(0), (s,), ()) for s in range(S)]
    for t in range(horizon):
        paths = [
            (p * pi[states[-1], a] * P[states[-1], a, k], G + gamma**t * R[states[-1], a, k], (*states, k), (*acts, a))
            for p, G, states, acts in paths
            for a in range(A)
            for k in range(S)
        ]
    for p, G, states, acts in paths:
        J += p * G
        for s, a in zip(states, acts, strict=False):
            gradient[s] -= p * G * pi[s]
            gradient[s, a] += p * G
    return J, gradient


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_finite_horizon_by_enumeration(horizon):
    P = [[["1/3", "2/3"], ["1/7", "6/7"]], [["0.1", "0.9"], [1, 0]]]
    R = [[[1, "-1/2"], [0, "1/3"]], [["0.7", 2], [-1, 5]]]
    mdp = ExactMDP(P, R, "9/10", ["1/4", "3/4"])
    pi = np.array([[F(1, 5), F(4, 5)], [F(2, 3), F(1, 3)]], dtype=object)
    ev = evaluate_exactly(mdp, pi, horizon=horizon)
    J, gradient = enumerated(mdp.transition, mdp.reward, mdp.discount, mdp.start, pi, horizon)
    assert ev.expected_return == J
    assert np.array_equal(ev.logit_gradient, gradient)
    assert (ev.visitation.sum(axis=1) == 1).all()


def test_discount_0_visits_only_the_start():
    mdp = ExactMDP([[[0, 1]] * 2, [[0, 1]] * 2], [[0, 1], [0, 1]], 0, 0)
    for probabilities in (SoftmaxPolicy(np.zeros((2, 2))), [["1/2", "1/2"]] * 2):
        ev = evaluate_exactly(mdp, probabilities)
        assert ev.occupancy.tolist() == [1, 0]
        assert ev.natural_gradient[0, 1] > 0
        assert not ev.natural_gradient[1].any()


@settings(max_examples=40)
@given(mdp_and_policy(max_states=4, sparse=None), st.integers(1, 4))
def test_finite_horizon_matches_floats(case, horizon):
    mdp, policy = case
    ev, exact = evaluate(mdp, policy, horizon=horizon), evaluate_exactly(mdp, policy, horizon=horizon)
    unit = max(1.0, np.abs(mdp.expected_reward).max())
    bound = 64 * np.finfo(float).eps * (mdp.n_states + mdp.n_actions) * horizon**2 * unit
    for name, _ in QUANTITIES:
        assert np.shape(getattr(ev, name)) == np.shape(getattr(exact, name))
        assert_within(getattr(ev, name), floats(getattr(exact, name)), horizon * bound)
    assert exact.gradient.shape == policy.parameters.shape


def thirds(mdp):
    """The slippery FrozenLake with 1/3 as a fraction."""
    P = np.array([F(p).limit_denominator(3) for p in mdp.transition.ravel().tolist()], dtype=object)
    R = mdp.reward if mdp.reward.ndim < 3 else np.vectorize(int, otypes=[object])(mdp.reward)
    return ExactMDP(P.reshape(mdp.transition.shape), R, mdp.discount, mdp.start, terminal=mdp.terminal)


def test_frozen_lake_under_the_optimal_policy_returns_14_17():
    lake = problems.frozen_lake(discount=1.0)
    actions = [0, 3, 3, 3, 0, 0, 0, 0, 3, 1, 0, 0, 0, 2, 1, 0]
    pi = np.eye(4, dtype=int)[actions]
    assert evaluate_exactly(thirds(lake), pi).expected_return == F(14, 17)
    rounded = evaluate_exactly(lake, DirectPolicy(pi)).expected_return
    assert 0 < abs(rounded - F(14, 17)) < F(1, 10**14)


@pytest.mark.parametrize("right", [F(1, 20), F(3, 10), F(19, 20)])
def test_short_corridor(right):
    ev = evaluate_exactly(problems.short_corridor(), [[1 - right, right]] * 4)
    assert ev.expected_return == -2 * (2 - right) / (right * (1 - right))
    assert ev.visitation.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(("H", "norm"), [(24, 3.9386e-12), (32, 1.1853e-16), (40, 3.0827e-21), (64, 3.4146e-35)])
def test_vanishing_gradients(H, norm):
    """The printed norm is in the probability of action 0, the other three sharing the rest evenly."""
    chain = problems.vanishing_gradient_chain(H)
    mdp = ExactMDP(chain.transition, chain.reward, F(H, H + 1), 0)
    ev = evaluate_exactly(mdp, [[F(1, 5)] + [F(4, 15)] * 3] * (H + 2))
    by_probability = ev.gradient[:, 0] - ev.gradient[:, 1]
    assert float(sum(by_probability**2)) ** 0.5 == pytest.approx(norm, rel=2e-5)
    in_logits = float((ev.logit_gradient**2).sum()) ** 0.5
    assert in_logits == pytest.approx(0.32 / 3**0.5 * norm, rel=2e-5)


def test_discount_1_where_some_values_do_not_exist():
    """State 1 never ends and cannot be reached under the policy; its value is None and nothing else changes."""
    P = [[[0, 0, 1], [0, 1, 0]], [[0, 1, 0], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]]]
    mdp = MDP(P, [1.0, 1.0, 0.0], 1.0, 0, terminal=[0, 0, 1], available=[[1, 1], [1, 0], [1, 1]])
    for policy in (SoftmaxPolicy([[0.0, -np.inf], [0.0, 0.0], [0.0, 0.0]]), DirectPolicy([[1.0, 0.0]] * 3)):
        ev, exact, balls = evaluate(mdp, policy), evaluate_exactly(mdp, policy), enclose(mdp, policy)
        assert exact.value.tolist() == [1, None, 0]
        assert exact.advantage.tolist() == [[0, None], [None, 0], [0, 0]]
        for name, _ in QUANTITIES:
            assert_within(getattr(ev, name), floats(getattr(exact, name)), 0)
            middle = getattr(balls, name).midpoint
            assert_within(middle.reshape(np.shape(getattr(ev, name))), getattr(ev, name), 0)
        assert_within(natural_gradient(ev), floats(exact.natural_gradient), 0)
        assert not balls.value.contains([1, 7, 1])[1:].any()


def test_endless_processes_are_refused_with_the_same_sentence():
    chain = problems.chain(discount=1.0)
    with pytest.raises(SolveError) as expected:
        evaluate(chain, uniform(chain))
    for function in (evaluate_exactly, enclose):
        with pytest.raises(SolveError) as found:
            function(chain, uniform(chain))
        assert str(found.value) == str(expected.value)
        assert function(chain, uniform(chain), horizon=2).value.shape == (3, 5)


def model(transition=(((1,),),), reward=(0,), discount="1/2", start=None, **options):
    return ExactMDP(transition, reward, discount, start, **options)


NOT_A_NUMBER = "must be an int, a float, a Fraction, a Decimal or a string such as '1/3' or '0.1' but is"


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (
            lambda: model([[["1/3", "1/3"]], [[0, 1]]]),
            InvalidModel,
            "transition[0, 0] must sum to exactly 1 but sums to 2/3; 1 of 2 rows fail",
        ),
        (
            lambda: model([[[0.5, 0.75]], [[0, 1]]]),
            InvalidModel,
            "transition[0, 0] must sum to 1 within 1e-09 but sums to 1.25; 1 of 2 rows fail",
        ),
        (
            lambda: model([[[-1, 2]], [[0, 1]]]),
            InvalidModel,
            "transition[0, 0, 0] must not be negative but is -1; 1 of 4 entries fail",
        ),
        (
            lambda: model([[[float("nan")]]]),
            InvalidModel,
            "transition[0, 0, 0] must be finite but is nan; 1 of 1 entries fail",
        ),
        (lambda: model([[["x"]]]), InvalidModel, f"transition[0, 0, 0] {NOT_A_NUMBER} 'x'; 1 of 1 entries fail"),
        (lambda: model([[["1/0"]]]), InvalidModel, f"transition[0, 0, 0] {NOT_A_NUMBER} '1/0'; 1 of 1 entries fail"),
        (lambda: model([[[0, 1]], [[1]]]), InvalidModel, "transition must be a rectangular array of numbers"),
        (lambda: model([1]), InvalidModel, "transition must have shape (S, A, S) with S, A >= 1 but has shape (1,)"),
        (
            lambda: model(reward=[[0, 0]]),
            InvalidModel,
            "reward must have shape (1,), (1, 1) or (1, 1, 1) but has shape (1, 2)",
        ),
        (
            lambda: model(reward=[1], terminal=[1], start=0),
            InvalidModel,
            f"reward[0] must {UNPAID} but is 1; 1 of 1 entries fail",
        ),
        (lambda: model(reward=[None]), InvalidModel, f"reward[0] {NOT_A_NUMBER} None; 1 of 1 entries fail"),
        (lambda: model(discount="3/2"), InvalidModel, "discount must be a number in [0, 1] but is '3/2'"),
        (lambda: model(discount=True), InvalidModel, "discount must be a number in [0, 1] but is True"),
        (lambda: model(start=1), InvalidModel, "start must be a state in 0..0 or a law of shape (1,) but is 1"),
        (lambda: model(start=["1/2"]), InvalidModel, "start must sum to exactly 1 but sums to 1/2"),
        (
            lambda: model(start=["0.9999999999"]),
            InvalidModel,
            "start must sum to exactly 1 but sums to 9999999999/10000000000",
        ),
        (lambda: model(start=[0.5]), InvalidModel, "start must sum to 1 within 1e-09 but sums to 0.5"),
        (
            lambda: model(start=[0, 1]),
            InvalidModel,
            "start must be a state in 0..0 or a law of shape (1,) but has shape (2,)",
        ),
        (lambda: model(terminal=[1]), InvalidModel, "start must be given where all 1 states are terminal"),
        (
            lambda: model(available=[[0]]),
            InvalidModel,
            "available[0] must leave each non-terminal state an action but is 0; 1 of 1 entries fail",
        ),
        (lambda: evaluate_exactly(3, [[1]]), InvalidModel, "mdp must be an MDP or an ExactMDP but is int"),
        (
            lambda: evaluate_exactly(model(), [[1, 0]]),
            InvalidPolicy,
            "policy must have shape (1, 1) to fit the MDP but has shape (1, 2)",
        ),
        (
            lambda: evaluate_exactly(model(), [["1/2"]]),
            InvalidPolicy,
            "probabilities[0] must sum to exactly 1 but sums to 1/2; 1 of 1 rows fail",
        ),
        (
            lambda: evaluate_exactly(model([[[1], [1]]], available=[[1, 0]]), [[0, 1]]),
            InvalidPolicy,
            "probabilities[0, 1] must be 0 where the action is unavailable but is 1; 1 of 2 entries fail",
        ),
        (
            lambda: evaluate_exactly(model(), [[1]], horizon=0),
            InvalidArgument,
            "horizon must be a positive integer but is 0",
        ),
    ],
)
def test_errors(make, error, sentence):
    with pytest.raises(error) as found:
        make()
    assert str(found.value) == sentence


def test_without_flint_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "flint", None)
    with pytest.raises(
        ImportError, match=r"needs the package python-flint, which pip install 'fastpg\[exact\]' brings"
    ):
        evaluate_exactly(model(), [[1]])


def test_numbers_of_any_kind_are_taken_without_rounding():
    mdp = ExactMDP([[[F(1, 3), "2/3"]], [[Decimal("0.1"), "0.9"]]], [[0.1], ["1e-400"]], 0.5)
    assert mdp.transition.tolist() == [[[F(1, 3), F(2, 3)]], [[F(1, 10), F(9, 10)]]]
    assert mdp.reward.tolist() == [[F(0.1)], [F(1, 10**400)]]
    assert mdp.start.tolist() == [F(1, 2)] * 2
    with pytest.raises(
        InvalidModel, match=r"transition\[0, 0\] must sum to exactly 1 but sums to 99999999999/100000000000"
    ):
        ExactMDP([[["0.99999999999"]]], [0], 0)
    floats_in_it = ExactMDP([[[0.1, 0.9 + 1e-12]], [[0, 1]]], [0, 1], 0.5)
    assert floats_in_it.transition.sum(axis=2).tolist() == [[1], [1]]
    assert repr(floats_in_it) == "ExactMDP(2 states, 1 action, discount 1/2)"


def test_expected_returns_that_floats_cannot_hold_are_shown():
    ev = evaluate_exactly(model(reward=["1e400"]), [[1]])
    assert repr(ev) == "ExactEvaluation(expected return 2.00000000000e+400, ExactMDP(1 state, 1 action, discount 1/2))"
