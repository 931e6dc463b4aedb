"""The gradient that vanishes exponentially: 12 digits of it, where a backward-stable solver has the wrong sign."""

from fractions import Fraction
from functools import cache

import numpy as np
import pytest

from fastpg import MDP, SoftmaxPolicy, evaluate, policy_gradient, problems
from fastpg.chain import induced_chain, next_value
from fastpg.solvers import GTH
from fastpg.testing.assertions import assert_within
from fastpg.testing.oracles import exact


def vanishing_gradient(length, flip):
    """The chain and its policy, states numbered from the far end where `flip`."""
    mdp, policy = problems.vanishing_gradient_chain(length), problems.vanishing_gradient_policy(length)
    if not flip:
        return mdp, policy
    turned = MDP(mdp.transition[::-1, :, ::-1], mdp.reward[::-1], mdp.discount, mdp.start[::-1])
    return turned, SoftmaxPolicy(policy.logits[::-1])


def tridiagonal_solve(below, diagonal, above, right):
    """x with below_i x_{i-1} + diagonal_i x_i + above_i x_{i+1} = right_i, exactly   (Thomas 1949)"""
    n, diagonal, right = len(right), list(diagonal), list(right)
    for i in range(1, n):
        factor = below[i] / diagonal[i - 1]
        diagonal[i] -= factor * above[i - 1]
        right[i] -= factor * right[i - 1]
    x = [Fraction(0)] * n
    for i in reversed(range(n)):
        x[i] = (right[i] - (above[i] * x[i + 1] if i + 1 < n else 0)) / diagonal[i]
    return x


@cache
def exact_gradient(length):
    """dJ/dlogits (S, A) of the vanishing-gradient chain: each factor exact, then rounded once."""
    mdp, policy = vanishing_gradient(length, flip=False)
    g, S = Fraction(mdp.discount), length + 2
    pi = exact(policy.probabilities)
    pi /= pi.sum(axis=1)[:, None]
    up = [Fraction(1), *pi[1:-1, 0], Fraction(0)]
    down = [Fraction(0), *(1 - p for p in pi[1:-1, 0]), Fraction(0)]
    above, below = [-g * p for p in up], [-g * p for p in down]
    diagonal = [Fraction(1)] * (S - 1) + [1 - g]
    V = tridiagonal_solve(below, diagonal, above, [0] * (S - 1) + [1])
    d = tridiagonal_solve([0, *above], diagonal, [*below[1:], 0], [1] + [0] * (S - 1))
    advantage = np.zeros((S, 4))
    for s in range(1, S - 1):
        advantage[s] = [float(g * V[s + 1] - V[s]), *3 * [float(g * V[s - 1] - V[s])]]
    return np.array(d, dtype=float)[:, None] * pi.astype(float) * advantage


@pytest.mark.parametrize("length", [8, 24, 32, 40, 64, 100, 200])
@pytest.mark.parametrize("flip", [False, True])
def test_the_vanishing_gradient_has_12_digits(length, flip):
    mdp, policy = vanishing_gradient(length, flip)
    gradient, expected = policy_gradient(evaluate(mdp, policy, solver=GTH())), exact_gradient(length)
    size = np.linalg.norm(expected)
    assert_within(np.linalg.norm(gradient), size, 1e-12 * size)
    entries = expected[:: -1 if flip else 1]
    assert_within(gradient, entries, 1e-12 * np.abs(entries))


def test_a_backward_stable_solver_has_the_wrong_sign():
    """LAPACK interchanges rows of this matrix; fastpg's LU takes the transpose, whose columns are dominated."""
    mdp, policy = vanishing_gradient(64, flip=False)
    expected, system = exact_gradient(64), np.eye(66) - mdp.discount * induced_chain(mdp, policy).transition
    V = np.linalg.solve(system, mdp.expected_reward[:, 0])
    d = np.linalg.solve(system.T, mdp.start)
    q = mdp.expected_reward + mdp.discount * next_value(mdp, V)
    naive = d[:, None] * policy.probabilities * (q - V[:, None])
    assert np.vdot(naive, expected) < 0
    assert np.linalg.norm(naive) > 1e9 * np.linalg.norm(expected)
