"""Tolerances derived from the conditioning of a problem, and an assertion that reports the worst entry."""

import numpy as np
import numpy.typing as npt

from fastpg.model import MDP
from fastpg.policy import Policy
from fastpg.testing.models import dense_reward, dense_transition


def assert_within(actual: npt.ArrayLike, expected: npt.ArrayLike, bound: npt.ArrayLike) -> None:
    """Raise unless |actual - expected| <= bound everywhere; nan agrees with nan only. Shapes must be the same."""
    x, y = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if x.shape != y.shape:
        raise AssertionError(f"shape {x.shape} is not the expected {y.shape}")
    limit = np.broadcast_to(np.asarray(bound, dtype=np.float64), x.shape)
    with np.errstate(invalid="ignore"):
        bad = ~((np.abs(x - y) <= limit) | (x == y) | (np.isnan(x) & np.isnan(y)))
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        raise AssertionError(
            f"entry {list(place)} is {float(x[place])!r} but {float(y[place])!r} was expected within "
            f"{float(limit[place]):.3g}; {int(bad.sum())} of {bad.size} entries fail"
        )


def conditioning(mdp: MDP, policy: Policy) -> float:
    """The norm of D = (I - discount P_pi)^{-1}, max_s sum_k D(s,k): the largest discounted number of states seen.

    The condition number of I - discount P_pi in the maximum norm is at most twice this. At discount 1 the policy
    must end for certain from every state.
    """
    P = np.einsum("sa,sak->sk", policy.probabilities, dense_transition(mdp))
    steps = np.linalg.solve(np.eye(mdp.n_states) - mdp.discount * P, np.ones(mdp.n_states))
    return float(steps.max())


def rounding(mdp: MDP, policy: Policy, *, resolvents: int, scale: float | None = None) -> float:
    """A bound on the rounding error of an exact quantity that is a product of so many resolvents D and a reward.

    A backward-stable solve of (I - discount P_pi) x = b errs by a small multiple of S eps cond(I - discount P_pi)
    |x|, so each factor D of a quantity is known to about (S + A) eps |D| of itself: with m factors the error is at
    most 32 (S + A) eps |D|^(m+1) `scale`. V and d have one factor, gradients two. `scale` is the largest reward
    unless given; 1 suits quantities without a reward.
    """
    limits = np.finfo(np.float64)
    unit = float(np.abs(dense_reward(mdp)).max()) if scale is None else scale
    # Below `tiny` floats have an absolute precision, not a relative one.
    error = 32 * (mdp.n_states + mdp.n_actions) * limits.eps * max(unit, limits.tiny / limits.eps)
    return float(error * conditioning(mdp, policy) ** (resolvents + 1))
