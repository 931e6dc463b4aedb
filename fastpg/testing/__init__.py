"""For tests of fastpg and of any tabular reinforcement learning code.

`models` turns a model into its dense or sparse twin; `oracles` computes by enumeration, complex step and rational
arithmetic what the library computes fast; `assertions` derives tolerances from conditioning; `strategies` generates
models and policies for Hypothesis, with all their corners, and only that module needs it.

A solver of one's own must be right to a tolerance that comes from the bound of the exact answer, or from the problem's
conditioning:

>>> import numpy as np
>>> from hypothesis import given, settings
>>> from fastpg import evaluate
>>> from fastpg.testing.strategies import mdp_and_policy
>>> @given(mdp_and_policy(discount=0.9))
... @settings(derandomize=True, database=None, deadline=None)
... def test_my_values(case):
...     mdp, policy = case
...     P_pi = np.einsum("sa,sak->sk", policy.probabilities, mdp.transition)
...     r_pi = (policy.probabilities * mdp.expected_reward).sum(axis=1)
...     mine = np.linalg.solve(np.eye(mdp.n_states) - 0.9 * P_pi, r_pi)
...     ev = evaluate(mdp, policy)
...     assert (abs(mine - ev.value) <= ev.error.value + 1e-13 * abs(mdp.expected_reward).max()).all()
>>> test_my_values()
"""
