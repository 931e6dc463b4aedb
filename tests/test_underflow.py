"""Bounds where products of probabilities and rewards are too small for floats."""

import pytest
from test_certificate import all_uncontained

from fastpg import MDP, SoftmaxPolicy, evaluate


@pytest.mark.parametrize("logits", [[0.0, 745.0], [0.0, 744.0], [744.4, 0.0]])
@pytest.mark.parametrize("reward", [[1.0, 0.0], [0.5, 0.0], [0.0, -0.1]])
def test_what_underflows_is_within_its_bound(logits, reward):
    """Probabilities of a few 2^-1074: their products with rewards have no digit left."""
    mdp = MDP([[[1.0], [1.0]]], [[[reward[0]], [reward[1]]]], 0.0)
    assert all_uncontained(evaluate(mdp, SoftmaxPolicy([logits]))) == {}


def test_a_transition_that_underflows_is_not_forgotten():
    """State 0 leads to the reward with a probability of 2^-1076, which P_pi cannot hold, but in 1e300 steps."""
    transition = [[[0.75, 0.25], [1.0, 0.0]], [[0.0, 1.0]] * 2]
    mdp = MDP(transition, [0.0, 1.0], 1.0, start=0, discount_complement=1e-300)
    assert all_uncontained(evaluate(mdp, SoftmaxPolicy([[0.0, 745.0], [0.0, 0.0]]))) == {}
