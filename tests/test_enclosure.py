"""Certified enclosures: nested, around the exact rational numbers, and narrow however small a number is."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings

from fastpg import MDP, DirectPolicy, InvalidArgument, SoftmaxPolicy, SolveError, evaluate, problems
from fastpg.exact import ExactMDP, enclose, enclosure, evaluate_exactly
from fastpg.testing.assertions import assert_within, rounding
from fastpg.testing.strategies import mdp_and_policy

F = Fraction
# Each with the number of resolvents that rounding is judged by.
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
BANDIT = ExactMDP([[[1]]], [0], "1/2")


def floats(x):
    """Each number rounded once."""
    return np.asarray(x, dtype=object).astype(float)


BALLS = (*(name for name, _ in QUANTITIES), "probabilities", "gradient", "fisher_blocks")


@settings(max_examples=30)
@given(mdp_and_policy(max_states=4, max_actions=3, sparse=None))
def test_narrower_balls_lie_within_wider_ones(case):
    wide, narrow = enclose(*case, width=1e-3), enclose(*case, width=1e-200)
    for name in BALLS:
        outer, inner = getattr(wide, name), getattr(narrow, name)
        assert all(x.overlaps(y) for x, y in zip(outer.balls.ravel(), inner.balls.ravel(), strict=True))
        assert (abs(outer.midpoint - inner.midpoint) <= outer.radius + inner.radius).all()


@settings(max_examples=30)
@given(mdp_and_policy(max_states=4, max_actions=3, sparse=None))
def test_balls_of_given_probabilities_hold_the_rational_numbers(case):
    mdp, policy = case
    direct = DirectPolicy(policy.probabilities)
    exact, balls = evaluate_exactly(mdp, direct), enclose(mdp, direct)
    for name in (*BALLS[:-3], "gradient", "fisher_blocks", "natural_gradient"):
        expected = np.asarray(getattr(exact, name), dtype=object).reshape(getattr(balls, name).shape)
        assert getattr(balls, name).contains(expected).all(), name
        assert (getattr(balls, name).radius <= 3e-15 * np.abs(floats(expected)) + 1e-300).all()


@settings(max_examples=30)
@given(mdp_and_policy(max_states=4, max_actions=3, sparse=None))
def test_floats_are_within_rounding_of_the_balls(case):
    mdp, policy = case
    ev, balls = evaluate(mdp, policy), enclose(mdp, policy)
    for name, resolvents in QUANTITIES:
        unit = 1.0 if "occupancy" in name or "visitation" in name else None
        # Logits of a log-linear policy are rounded sums before they are exponentiated.
        bound = 8 * rounding(mdp, policy, resolvents=resolvents + 1, scale=unit)
        middle = getattr(balls, name).midpoint.reshape(np.shape(getattr(ev, name)))
        assert_within(getattr(ev, name), middle, bound)


def test_logits_of_any_size_keep_their_relative_width():
    top = 1.7e308
    mdp = MDP([[[1, 0]] * 3, [[0, 1]] * 3], [[0, 1, 2.0], [0, 0, 0.0]], 0.5, 0)
    balls = enclose(mdp, SoftmaxPolicy([[top, -top, -np.inf], [0.0, 0.0, 0.0]]))
    p = balls.probabilities.balls
    assert p[0, 1] > 0
    assert p[0, 2] == 0
    assert balls.probabilities.midpoint[0].tolist() == [1, 0, 0]
    assert balls.probabilities.radius[0, 1] == 5e-324
    # log2 of exp(-2 top) has the exponent that it should have.
    exponent = int(p[0, 1].mid().man_exp()[1]) + 128
    assert float(F(exponent) / F(top)) == pytest.approx(-2 / np.log(2), rel=1e-12)
    g = balls.logit_gradient.balls
    assert g[0, 1] > 0 > g[0, 0]
    assert (g[0, 1] + g[0, 0]).contains(0)
    assert balls.occupancy.contains([2, 0]).all()
    with pytest.raises(InvalidArgument, match="is too long for a Fraction"):
        _ = balls.probabilities.lower


def test_rare_states_keep_their_relative_width():
    """Each of 4 states is passed with probability exp(-500) only: occupancies down to 1e-869."""
    P = np.zeros((5, 2, 5))
    for s in range(5):
        P[s, 0, 0] = P[s, 1, min(s + 1, 4)] = 1
    mdp = MDP(P, [0, 0, 0, 0, 1.0], 0.9, 0)
    balls = enclose(mdp, SoftmaxPolicy([[0.0, -500.0]] * 5))
    assert all(x > 0 and x.rad() < 1e-15 * x for x in balls.occupancy.balls)
    assert all(x > 0 and x.rad() < 1e-15 * x for x in balls.value.balls)
    assert balls.occupancy.midpoint[4] == 0 < balls.occupancy.upper[4] < F(1, 10**800)
    assert balls.occupancy.lower[4] < balls.occupancy.upper[4]


def test_the_natural_gradient_of_features_has_no_enclosure():
    mdp = problems.short_corridor()
    with pytest.raises(InvalidArgument, match="depends on the rank of a matrix"):
        _ = enclose(mdp, problems.short_corridor_policy()).natural_gradient
    assert repr(enclose(mdp, problems.short_corridor_policy())).startswith("Enclosure(relative width 1e-15, MDP(")


def test_too_few_bits_are_an_error(monkeypatch):
    monkeypatch.setattr(enclosure, "MOST_BITS", 128)
    mdp = problems.short_corridor()
    with pytest.raises(SolveError, match=r"value is not known to a relative width of 1e-100 with 128 bits; 3 of 4 ent"):
        _ = enclose(mdp, problems.short_corridor_policy(), width=1e-100).value


def test_numbers_beyond_floats_are_held():
    balls = enclose(ExactMDP([[[1]]], ["1e400"], "1/2"), [[1]]).value
    assert balls.contains([2 * 10**400]).all()
    assert not balls.contains([2 * 10**400 + 10**380]).any()
    assert not balls.contains([np.inf]).any()
    assert balls.midpoint == balls.radius == np.inf
    assert balls.lower[0] <= 2 * 10**400 <= balls.upper[0]


def test_a_ball_holds_its_ends_and_nothing_beyond():
    balls = enclose(ExactMDP([[[1]]], ["1/3"], 0), [[1]]).value
    assert balls.contains([F(1, 3)]).all()
    assert balls.contains(balls.lower).all()
    assert balls.contains(balls.upper).all()
    assert not balls.contains(balls.upper + F(1, 10**60)).any()
    assert balls.contains(balls).all()
    assert abs(F(balls.midpoint[0]) - F(1, 3)) <= F(balls.radius[0]) < F(1, 10**16)
    assert repr(balls).startswith("Balls(midpoint=array([0.33333333]), radius=array([")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: enclose(BANDIT, [[1]], width=0), "width must be positive but is 0"),
        (lambda: enclose(BANDIT, [[1]], absolute=2), "absolute must be a number in [0, 1] but is 2"),
        (
            lambda: enclose(BANDIT, [[1]], horizon=2).fisher_blocks,
            "the Fisher information is that of the visitation of an infinite horizon; enclose without horizon",
        ),
        (lambda: enclose(BANDIT, [[1]], horizon=0), "horizon must be a positive integer but is 0"),
    ],
)
def test_errors(make, sentence):
    with pytest.raises(InvalidArgument) as found:
        make()
    assert str(found.value) == sentence


@settings(max_examples=20)
@given(mdp_and_policy(max_states=3, max_actions=2, sparse=None))
def test_finite_horizon(case):
    mdp, policy = case
    direct = DirectPolicy(policy.probabilities)
    exact, balls = evaluate_exactly(mdp, direct, horizon=3), enclose(mdp, direct, horizon=3)
    for name in (*BALLS[:-3], "gradient"):
        found = getattr(balls, name)
        assert found.contains(np.asarray(getattr(exact, name), dtype=object).reshape(found.shape)).all(), name
    assert repr(balls).startswith("Enclosure(horizon 3, relative width 1e-15, MDP(")
