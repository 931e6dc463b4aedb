"""Evaluation in rational numbers, against an independent elimination, enumeration and published numbers."""

from fractions import Fraction

import numpy as np
from hypothesis import given

from fastpg import (
    LogLinearPolicy,
    evaluate,
)
from fastpg.exact import evaluate_exactly
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
