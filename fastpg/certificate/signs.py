"""Which entries of a gradient have a sign that is certain."""

import numpy as np
from scipy import sparse

from fastpg.certificate.evaluated import Evaluated
from fastpg.chain import reached
from fastpg.model import MDP
from fastpg.validation import BoolArray, FloatArray, frozen


def certain_signs(evaluation: Evaluated, bound: FloatArray) -> BoolArray:
    """(S, A), where |dJ/dlogits| exceeds its `bound`, or is 0 and d(s) pi(a|s) A(s,a) is 0 whatever the numbers are.

    That is so in states that are never visited, for actions that are never taken, and where one action always is.
    """
    taken = evaluation.policy.probabilities > 0
    chooses = _visited(evaluation.mdp, taken) & (np.count_nonzero(taken, axis=1) > 1)
    gradient = evaluation.logit_gradient
    return frozen((np.abs(gradient) > bound) | ((gradient == 0) & ~(taken & chooses[:, None])))


def _visited(mdp: MDP, taken: BoolArray) -> BoolArray:
    """States (S,) of positive occupancy, by the graph alone: products of probabilities may underflow."""
    start, (S, A) = mdp.start > 0, taken.shape
    if mdp.discount > 0:
        moves = sparse.csr_array(mdp.transition if mdp.is_sparse else mdp.transition.reshape(S * A, S)) > 0
        of_state = sparse.csr_array((taken.reshape(-1), np.arange(S * A), A * np.arange(S + 1)), shape=(S, S * A))
        edges = sparse.csr_array(of_state @ moves)
        edges.eliminate_zeros()
        start = reached(edges, start)
    return start & ~mdp.terminal
