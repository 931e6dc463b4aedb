"""Bandits: one decision, then the end."""

import numpy as np
import numpy.typing as npt

from fastpg.errors import InvalidArgument
from fastpg.model import MDP
from fastpg.validation import float_array


def bandit(means: npt.ArrayLike, *, discount: float = 0.0) -> MDP:
    """A bandit with one arm for each of `means` (A,): state 0, where action a pays means[a], then terminal state 1.

    V = sum_a pi(a) means[a] and dV/dtheta(a) = pi(a) (means[a] - V) at any discount. It is 0 by default, so that
    `visitation` is the law of the one state in which something is decided.

    Gradient ascent on the logits with step 2/5 for means (1, .9, .1): from pi = (.05, .01, .94) the gap is .0223833215
    after 100 steps; from (.01, .05, .94) the best arm first has probability above 1/2 after 7525 steps.

    Source: Mei et al. (2020), "On the global convergence rates of softmax policy gradient methods", section 3.

    >>> bandit([1.0, 0.9, 0.1]).expected_reward[0]
    array([1. , 0.9, 0.1])
    """
    r = float_array("means", means, InvalidArgument)
    if r.ndim != 1 or r.size == 0:
        raise InvalidArgument(f"means must have shape (A,) with A >= 1 but has shape {r.shape}")
    transition = np.zeros((2, r.size, 2))
    transition[0, :, 1] = 1.0
    return MDP(transition, [r, np.zeros(r.size)], discount, 0, terminal=[False, True])
