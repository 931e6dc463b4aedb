"""Batches against single calls, oracles and laws."""

import numpy as np

from fastpg import MDP, SoftmaxPolicy, batch, evaluate, policy_gradient


def test_gradients_are_those_of_single_calls():
    rng = np.random.default_rng(0)
    S, A = 5, 3
    P, r, theta = (
        rng.dirichlet(np.ones(S), size=(7, S, A)),
        rng.standard_normal((S, A)),
        rng.standard_normal((4, 1, S, A)),
    )
    discount = np.linspace(0, 0.99, 7)
    got = batch.policy_gradient(P, r, discount, np.eye(S)[0], theta)
    for i, j in np.ndindex(4, 7):
        ev = evaluate(MDP(P[j], r, discount[j], 0), SoftmaxPolicy(theta[i, 0]))
        np.testing.assert_allclose(got[i, j], policy_gradient(ev), rtol=0, atol=1e-12)
