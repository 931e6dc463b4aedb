"""Bounds on the errors of finite horizons, held against rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_certificate import EXTREMES, generated, uncontained, wrong_signs

from fastpg import MDP, SoftmaxPolicy, evaluate, policy_gradient, problems, uniform
from fastpg.certificate import horizon as certificate
from fastpg.errors import SolveError
from fastpg.exact import evaluate_exactly
from fastpg.testing import strategies
from fastpg.testing.models import as_sparse

BOUNDED = ("value", "action_value", "advantage", "visitation", "expected_return")


def all_uncontained(ev):
    """The entries of every bounded quantity that leave their bound, and the signs that are certain and wrong."""
    exact, error = evaluate_exactly(ev.mdp, ev.policy, horizon=ev.horizon), ev.error
    found = {name: uncontained(getattr(ev, name), getattr(error, name), getattr(exact, name)) for name in BOUNDED}
    found["gradient"] = uncontained(ev.logit_gradient, error.gradient, exact.logit_gradient)
    off = sum((abs(Fraction(float(x)) - y) for x, y in zip(ev.occupancy, exact.occupancy, strict=True)), Fraction(0))
    found["occupancy"] = [off] if off > Fraction(error.occupancy) else []
    found["signs"] = wrong_signs(ev, exact)
    return {name: entries for name, entries in found.items() if entries}


@pytest.mark.heavy
def test_no_bound_is_exceeded(seeds):
    judged = 0
    for seed in seeds(100, 2000):
        mdp, policy, _ = generated(seed)
        ev = evaluate(mdp, policy, horizon=1 + seed % 7)
        try:
            wrong = all_uncontained(ev)
        except SolveError:  # overflow
            continue
        judged += 1
        assert wrong == {}, f"seed {seed}: {mdp!r}, {policy!r}"
    assert judged > 0.95 * len(seeds(100, 2000))


@given(strategies.mdp_and_policy(sparse=None), st.integers(1, 9))
def test_no_bound_is_exceeded_on_drawn_models(case, horizon):
    assert all_uncontained(evaluate(*case, horizon=horizon)) == {}


@pytest.mark.parametrize("storage", [lambda mdp: mdp, as_sparse], ids=["dense", "sparse"])
@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_inputs_give_the_right_answer_within_its_bound(name, storage):
    mdp, logits = EXTREMES[name]
    with np.errstate(over="ignore"):  # differences of logits
        ev = evaluate(storage(mdp), SoftmaxPolicy(logits), horizon=9)
    assert all_uncontained(ev) == {}
    for floats in (ev.value, ev.action_value, ev.advantage, ev.visitation, ev.occupancy, policy_gradient(ev)):
        assert np.isfinite(floats).all()
    assert ev.error.value.max() <= max(1e-15 * np.abs(ev.value).max(), 1e-320)
    assert ev.error.visitation.max() <= 1e-15


@pytest.mark.parametrize("discount", [0.99, 1.0])
def test_bounds_are_of_the_size_of_the_errors(discount):
    """The largest error of each quantity is more than half its bound, whatever the number of steps."""
    mdp = problems.random_mdp(6, 3, rng=0, discount=discount)
    ev = evaluate(mdp, SoftmaxPolicy.random(mdp, rng=1), horizon=60)
    exact = evaluate_exactly(mdp, ev.policy, horizon=60)
    for name, floats, truth in (
        ("value", ev.value, exact.value),
        ("action_value", ev.action_value, exact.action_value),
        ("advantage", ev.advantage, exact.advantage),
        ("visitation", ev.visitation, exact.visitation),
        ("gradient", ev.logit_gradient, exact.logit_gradient),
    ):
        off = np.array([float(abs(Fraction(float(x)) - y)) for x, y in zip(floats.flat, truth.flat, strict=True)])
        bound = getattr(ev.error, name).ravel()
        assert (off <= bound).all()
        assert off.max() > 0.5 * bound[off.argmax()], name


def test_slicing_the_horizon_changes_no_bound(monkeypatch):
    rng = np.random.default_rng(0)
    mdp = MDP(rng.dirichlet(np.ones(3), size=(3, 2)), rng.standard_normal((3, 2)), 0.9)
    names = ("value", "action_value", "advantage", "visitation", "occupancy", "expected_return", "gradient")
    whole = evaluate(mdp, uniform(mdp), horizon=11).error
    for numbers in (1, 18, 24):
        monkeypatch.setattr(certificate, "SLICE", numbers)
        sliced = evaluate(mdp, uniform(mdp), horizon=11).error
        for name in names:
            np.testing.assert_allclose(getattr(sliced, name), getattr(whole, name), rtol=1e-9, err_msg=name)


def test_a_hundred_thousand_steps_add_up_no_bound():
    """Two states in turn pay 0.1 and 0.3, which floats do not hold: the exact value is their rational sum."""
    mdp = MDP([[[0.0, 1.0]], [[1.0, 0.0]]], [0.1, 0.3], 1.0, 0)
    T = 100_000
    ev = evaluate(mdp, uniform(mdp), horizon=T)
    truth = T // 2 * (Fraction(0.1) + Fraction(0.3))
    off = abs(Fraction(float(ev.value[T, 0])) - truth)
    assert off > 1e-9  # the sum of so many floats
    assert off <= Fraction(float(ev.error.value[T, 0])) <= 2 * off
    assert ev.error.expected_return == pytest.approx(ev.error.value[T, 0])
    assert ev.error.visitation.max() < 1e-24
    assert ev.error.occupancy < 1e-19
    assert ev.error.certain_signs.all()


def test_signs_of_a_vanishing_gradient_are_certain():
    """With 13 steps to go, 12 ahead: one path reaches the reward."""
    mdp = problems.vanishing_gradient_chain(12)
    ev = evaluate(mdp, problems.vanishing_gradient_policy(12), horizon=40)
    exact = evaluate_exactly(mdp, ev.policy, horizon=40).logit_gradient
    assert wrong_signs(ev, evaluate_exactly(mdp, ev.policy, horizon=40)) == []
    decided = np.array([x != 0 for x in exact.ravel()]).reshape(exact.shape)
    assert ev.error.certain_signs[decided].all()
    assert decided.sum() == 48


@pytest.mark.parametrize("least", [3e-300, 1e-310, 5e-324])
def test_a_start_that_is_hardly_possible_has_a_bound(least):
    mdp = MDP(np.full((3, 1, 3), 1 / 3), [1.0, 0.0, 0.0], 0.9, [least, 0.1 + 0.2, 0.7])
    ev = evaluate(mdp, SoftmaxPolicy.uniform(mdp), horizon=2)
    assert 0 < ev.error.visitation[0, 0] < 1e-312
    assert all_uncontained(ev) == {}
