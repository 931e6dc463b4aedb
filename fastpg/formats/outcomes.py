"""A model from a list of what can happen: one entry for each outcome of an action."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastpg.model import Transition
from fastpg.validation import BoolArray, FloatArray

IntArray = npt.NDArray[np.intp]


class Outcomes(NamedTuple):
    """Parallel arrays (n,): in `state`, `action` leads to `next_state` with `probability` and pays `reward`."""

    state: IntArray
    action: IntArray
    next_state: IntArray
    probability: FloatArray
    reward: FloatArray

    def where(self, kept: BoolArray) -> "Outcomes":
        """Only the outcomes that the mask `kept` (n,) marks."""
        state, action, next_state, probability, reward = self
        return Outcomes(state[kept], action[kept], next_state[kept], probability[kept], reward[kept])


def tabulated(
    outcomes: Outcomes, n_states: int, n_actions: int, *, as_sparse: bool = False
) -> tuple[Transition, Transition]:
    """The laws P(k|s,a) and the mean rewards R(s,a,k) of `outcomes`, as an `MDP` takes them.

        P(k|s,a) = sum_i p_i,    R(s,a,k) = sum_i p_i r_i / P(k|s,a),    i over the outcomes of (s, a) in k

    Returns two (S, A, S) arrays, or two sparse (S*A, S) arrays. Equal rewards are merged without rounding.

    >>> one = np.array([0, 0])
    >>> P, R = tabulated(Outcomes(one, one, one, np.array([0.25, 0.75]), np.array([8.0, 4.0])), 1, 1)
    >>> P.item(), R.item()
    (1.0, 5.0)
    """
    S, A = n_states, n_actions
    s, a, k, p, r = outcomes.where(outcomes.probability != 0)
    place, entry = np.unique((s * A + a) * S + k, return_inverse=True)
    total = np.bincount(entry, p, minlength=place.size)
    mean = np.empty(place.size)
    mean[entry] = r
    mean += np.bincount(entry, p * (r - mean[entry]), minlength=place.size) / total
    if as_sparse:
        at = (place // S, place % S)
        return sparse.csr_array((total, at), shape=(S * A, S)), sparse.csr_array((mean, at), shape=(S * A, S))
    P, R = np.zeros((S, A, S)), np.zeros((S, A, S))
    P.flat[place] = total
    R.flat[place] = mean
    return P, R
