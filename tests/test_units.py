"""The same answers in whatever unit the rewards are, or an error that names the cause."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from fastpg import (
    MDP,
    DirectPolicy,
    LogLinearPolicy,
    RewardToGo,
    SoftmaxPolicy,
    SolveError,
    crosscheck,
    evaluate,
    fisher_information,
    natural_gradient,
    normalised_step,
    policy_gradient,
    problems,
)
from fastpg.errors import InvalidArgument
from fastpg.exact import evaluate_exactly
from fastpg.kernels import evaluation as kernels
from fastpg.validation import frozen

EPS = np.finfo(float).eps
MAX = np.finfo(float).max
TINY = np.finfo(float).tiny
UNITS = [2.0**-1060, 1e-300, 1e-200, 1.0, 1e160, 1e300, 2.0**1015]
PAYS = np.array([[1.0, -0.5, 0.25], [0.25, 0.125, -0.75], [-1.0, 0.5, 0.0]])
LOGITS = np.array([[0.1, 0.4, -1.0], [0.2, -0.3, 0.0], [0.5, 1.0, 2.0]])
FEATURES = np.arange(27.0).reshape(3, 3, 3) % 5 - 1
POLICIES = {
    "softmax": lambda: SoftmaxPolicy(LOGITS),
    "log-linear": lambda: LogLinearPolicy(FEATURES, [0.1, 0.2, -0.1]),
    "direct": lambda: DirectPolicy(SoftmaxPolicy(LOGITS).probabilities),
}


def model(unit=1.0, discount=0.875, pays=PAYS):
    """Three states and three actions in dyadic numbers, rewards in units of `unit`."""
    P = np.array([1, 2, 5, 4, 3, 1, 2, 2, 4, 6, 1, 1, 3, 3, 2, 1, 1, 6, 2, 4, 2, 5, 2, 1, 1, 5, 2]).reshape(3, 3, 3) / 8
    return MDP(P, pays * unit, discount, [0.5, 0.25, 0.25])


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("unit", UNITS)
def test_steps_do_not_depend_on_the_unit_and_gradients_are_in_it(unit, kind):
    one, ev = (evaluate(model(u), POLICIES[kind]()) for u in (1.0, unit))
    # Numbers of less than 2^-1022 have fewer digits.
    digits = 1e-12 if unit > TINY else 1e-2
    expected = normalised_step(one, 0.1)
    assert normalised_step(ev, 0.1) == pytest.approx(expected, rel=digits, abs=digits * np.abs(expected).max())
    for quantity in (policy_gradient, natural_gradient, lambda e: fisher_information(e).pinv_solve(policy_gradient(e))):
        expected = quantity(one)
        assert quantity(ev) / unit == pytest.approx(expected, rel=digits, abs=digits * np.abs(expected).max())
    v = policy_gradient(ev)
    expected = fisher_information(one) @ policy_gradient(one)
    assert (fisher_information(ev) @ v) / unit == pytest.approx(expected, rel=digits, abs=10 * digits)


@pytest.mark.parametrize("unit", UNITS)
def test_the_normalised_step_is_that_of_rational_arithmetic(unit):
    ev = evaluate(model(unit), POLICIES["softmax"]())
    exact = evaluate_exactly(ev.mdp, ev.policy)
    centred = [[a - sum(row, Fraction(0)) / 3 for a in row] for row in exact.advantage.tolist()]
    rows = zip(exact.logit_gradient.tolist(), centred, strict=True)
    power = sum((g * x for row in rows for g, x in zip(*row, strict=True)), Fraction(0))
    squares = [[float(8 * x * x / (10 * power)) for x in row] for row in centred]
    digits = 1e-12 if unit > TINY else 1e-2
    assert normalised_step(ev, 0.1) ** 2 == pytest.approx(np.array(squares), rel=digits)


def test_the_step_of_a_direct_policy_is_normalised_although_its_values_hide_the_advantages():
    pays = PAYS[0] + 1e6
    ev = evaluate(model(pays=pays[:, None] * 0 + 1e6 + 1e-3 * PAYS, discount=0.5), POLICIES["direct"]())
    step = normalised_step(ev, 0.25)
    pi, w = ev.policy.probabilities, ev.visitation
    assert np.sum(w[:, None] * step**2 / pi) == pytest.approx(0.25, rel=1e-6)


def test_what_overflows_only_in_the_natural_gradient_is_named_there_and_its_step_exists():
    mdp = MDP([[[0.0, 1.0]] * 2, [[0.0, 1.0]] * 2], [[1e300, -1e300], [0.0, 0.0]], 1 - 2.0**-40, 0)
    ev = evaluate(mdp, SoftmaxPolicy.uniform(mdp))
    with pytest.raises(SolveError, match=r"natural_gradient\[0, 0\] overflows float64"):
        natural_gradient(ev)
    w = ev.visitation[0]
    assert normalised_step(ev, 0.1)[0] == pytest.approx(np.sqrt(0.1 / w) * np.array([1, -1]), rel=1e-14)


def magnitudes(low, high):
    return st.floats(low, high).map(lambda e: float(10.0**e))


@given(magnitudes(-300, 300), magnitudes(-300, 0), magnitudes(-300, 300))
def test_products_overflow_and_underflow_only_if_the_result_does(d, pi, adv):
    out = np.empty((1, 1))
    kernels.logit_gradient(*map(frozen, (np.array([d]), np.array([[pi]]), np.array([[adv]]))), out)
    exact = Fraction(d) * Fraction(pi) * Fraction(adv)
    if exact > Fraction(MAX):
        assert out[0, 0] == np.inf
    else:
        assert abs(Fraction(out[0, 0].item()) - exact) <= max(2 * Fraction(EPS) * exact, Fraction(2, 2**1074))


@given(magnitudes(-300, 300), st.lists(magnitudes(-300, -1), min_size=1, max_size=3))
def test_fisher_blocks_are_right_in_each_entry_and_symmetric(weight, rare):
    pi = np.array([[1 - sum(rare), *rare]])
    blocks = np.empty((1, pi.size, pi.size))
    kernels.fisher_blocks(frozen(np.array([weight])), frozen(pi), blocks)
    assert (blocks[0] == blocks[0].T).all()
    p = [Fraction(x) for x in pi[0].tolist()]
    for (a, b), x in np.ndenumerate(blocks[0]):
        exact = Fraction(weight) * (p[a] * (sum(p) - p[a]) if a == b else -p[a] * p[b])
        assert abs(Fraction(x.item()) - exact) <= max(8 * Fraction(EPS) * abs(exact), Fraction(2, 2**1074))


@pytest.mark.parametrize("size", [5e-300, 1.0, 1e308])
def test_fisher_products_with_directions_of_any_size(size):
    F = fisher_information(evaluate(model(), POLICIES["softmax"]()))
    v = np.array([[1.0, -1.0, 0.5], [-1.0, 1.0, 0.25], [0.0, 1.0, -1.0]])
    pi, w = F.policy.probabilities, F.weight
    expected = w[:, None] * pi * (v - (pi * v).sum(axis=1, keepdims=True))
    assert (F @ (size * v)) / size == pytest.approx(expected, rel=1e-14)


def test_fisher_products_that_overflow_or_are_no_numbers_are_refused():
    steps = fisher_information(evaluate(model().discounted(0.5), LogLinearPolicy(FEATURES * 1e154, np.zeros(3))))
    with pytest.raises(
        SolveError, match=r"pulling back to the parameters overflows float64, from .* and features up to 3e\+154"
    ):
        steps @ [1e10, 0.0, 0.0]
    large = fisher_information(evaluate(model(), LogLinearPolicy(FEATURES * 1e100, np.zeros(3))))
    with pytest.raises(SolveError, match=r"F v overflows float64 for a direction v with entries up to 1e\+300"):
        large @ [1e300, 0.0, 0.0]
    with pytest.raises(InvalidArgument, match=r"direction\[1\] must be finite but is nan"):
        steps @ [0.0, np.nan, 0.0]


def test_the_pseudoinverse_divides_by_what_float64_can_hold():
    pi = np.array([[1 - 2e-300, 1e-300, 1e-300]])
    for weight, size in ((1e300, 1e-10), (1e-200, 1e-300), (1.0, 1e-5)):
        F = type(fisher_information(evaluate(model(), POLICIES["softmax"]())))(
            frozen(np.array([weight])), SoftmaxPolicy(np.log(pi))
        )
        p = [Fraction(x) for x in F.policy.probabilities[0].tolist()]
        g = np.array([[-2.0, 1.0, 1.0]]) * size
        ratio = [Fraction(x) / (Fraction(weight) * q) for x, q in zip(g[0].tolist(), p, strict=True)]
        exact = np.array([float(x - sum(ratio) / 3) for x in ratio])
        assert F.pinv_solve(g)[0] == pytest.approx(exact, rel=1e-14)
    with pytest.raises(SolveError, match=r"F\^\+ g overflows float64 in state 0, whose weight in F is 1.0"):
        F.pinv_solve([[-2e100, 1e100, 1e100]])


def test_gradients_that_overflow_in_the_parameters_name_the_features_or_the_probability():
    words = r"overflows float64, from .* in the logits and features up to 3e\+300"
    with pytest.raises(SolveError, match=words):
        policy_gradient(evaluate(model(1e20), LogLinearPolicy(FEATURES * 1e300, np.zeros(3), available=None)))
    with pytest.raises(SolveError, match=r"from 1e\+10 in the logits and a small probability"):
        DirectPolicy([[1.0, 1e-300]]).pullback([[0.0, 1e10]])


@pytest.mark.parametrize("store", ["dense", "sparse"])
def test_means_of_finite_numbers_are_finite_and_within_their_range(store):
    thirds = np.full((3, 3, 3), 1 / 3) * (1 + EPS)
    reward = np.full((3, 3, 3), MAX)
    reward[1] *= -1
    reward[2] = 0.0
    if store == "sparse":
        thirds, reward = (sparse.csr_array(x.reshape(9, 3)) for x in (thirds, reward))
    mdp = MDP(thirds, reward, 0.0, np.full(3, 1 / 3))
    assert mdp.expected_reward == pytest.approx(np.array([MAX, -MAX, 0.0])[:, None] * np.ones(3), rel=1e-15)
    for ev in (evaluate(mdp, SoftmaxPolicy.uniform(mdp)), evaluate(mdp, SoftmaxPolicy.uniform(mdp), horizon=1)):
        assert np.isfinite(ev.value).all()
        assert abs(ev.expected_return) <= 1e-15 * MAX


def test_a_return_of_the_largest_float():
    mdp = MDP(np.ones((1, 3, 1)), [[MAX, MAX, MAX]], 0.0)
    for ev in (evaluate(mdp, SoftmaxPolicy([[0.1, 0.2, 0.3]])), evaluate(mdp, SoftmaxPolicy.uniform(mdp), horizon=1)):
        assert ev.expected_return == pytest.approx(MAX, rel=1e-15)
    law = np.full(49, 1 / 49) * (1 + EPS)
    many = MDP(np.eye(49)[:, None], np.full((49, 1), MAX), 0.0, law)
    assert evaluate(many, SoftmaxPolicy.uniform(many)).expected_return == pytest.approx(MAX, rel=1e-14)


def test_advantages_whose_differences_are_larger_than_any_float():
    mdp = MDP(np.ones((1, 2, 1)), [[0.9 * MAX, -0.9 * MAX]], 0.0)
    ev = evaluate(mdp, SoftmaxPolicy.uniform(mdp))
    assert ev.advantage.tolist() == [[0.9 * MAX, -0.9 * MAX]]
    assert policy_gradient(ev).tolist() == [[0.45 * MAX, -0.45 * MAX]]
    with pytest.raises(SolveError, match=r"advantage\[0, 1\] overflows float64"):
        evaluate(mdp, SoftmaxPolicy([[1.0, 0.0]])).advantage  # noqa: B018


def test_kernels_average_the_largest_floats():
    out = np.empty(2)
    pi = frozen(np.array([[0.5, 0.5 + EPS], [0.25, 0.75]]))
    kernels.policy_average(pi, frozen(np.array([[MAX, MAX], [-MAX, MAX]])), out)
    assert out.tolist() == [MAX, pytest.approx(MAX / 2, rel=1e-15)]
    out = np.empty((1, 3))
    kernels.centred_on_support(frozen(np.full((1, 3), 1 / 3)), frozen(np.array([[MAX, MAX, MAX / 4]])), out)
    assert out[0] / MAX == pytest.approx([0.25, 0.25, -0.5], rel=1e-14)


@pytest.mark.parametrize("unit", [2.0**-990, 2.0**-300, 2.0**300, 2.0**1000])
def test_samples_moments_and_verdicts_are_the_same_bit_for_bit_in_units_of_a_power_of_two(unit):
    lake = problems.frozen_lake("4x4")
    large = MDP(lake.transition, lake.reward * unit, lake.discount, lake.start, terminal=lake.terminal)
    policy, estimator = SoftmaxPolicy.uniform(lake), RewardToGo()
    one, other = (crosscheck(mdp, policy, estimator, n=50_000, horizon=30, rng=0) for mdp in (lake, large))
    assert (other.p_value, other.rank, other.worst_z) == (one.p_value, one.rank, one.worst_z)
    assert other.detectable_bias == unit * one.detectable_bias
    for name in ("mean", "standard_error"):
        np.testing.assert_array_equal(getattr(other.estimate, name), unit * getattr(one.estimate, name))
    np.testing.assert_array_equal(other.moments.standard_deviation, unit * one.moments.standard_deviation)
    ratio = other.moments.plan.unit / unit / one.moments.plan.unit
    np.testing.assert_array_equal(ratio**2 * other.covariance_in_units, one.covariance_in_units)
    if unit > 2.0**500:
        with pytest.raises(SolveError, match=r"covariance of RewardToGo.* overflows float64"):
            other.moments.covariance()
