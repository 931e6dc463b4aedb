"""What a model and a policy become for the sampler: one alias table a state, and the rule that ends a trajectory."""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastpg.chain import induced_chain
from fastpg.errors import InvalidArgument
from fastpg.kernels import sampling as kernels
from fastpg.model import MDP
from fastpg.policy import Policy
from fastpg.validation import FloatArray, frozen, positive_integer

IntArray = npt.NDArray[np.int64]
Horizon = int | Literal["geometric"]

FOREVER = np.iinfo(np.int64).max


class OutcomeTable(NamedTuple):
    """The outcomes (action, successor) of each state with their alias tables; segment S holds the first states."""

    offset: IntArray
    threshold: FloatArray
    alias: IntArray
    successor: IntArray
    action: IntArray
    reward: FloatArray
    probability: FloatArray


def outcome_table(mdp: MDP, policy: Policy, start: FloatArray | None = None) -> OutcomeTable:
    """Outcomes with probability pi(a|s) P(k|s,a) > 0 in time and memory proportional to their number.

    `start` (S,) is the law of the first state, that of the model where left out.
    """
    S, A = mdp.n_states, mdp.n_actions
    P = mdp.transition if mdp.is_sparse else sparse.csr_array(mdp.transition.reshape(S * A, S))
    row = np.repeat(np.arange(S * A), np.diff(P.indptr))
    weight = policy.probabilities.ravel()[row] * P.data
    kept = np.flatnonzero(weight > 0)
    row, successor = row[kept], P.indices[kept]
    start = mdp.start if start is None else start
    first = np.flatnonzero(start)
    counts = np.append(np.bincount(row // A, minlength=S), first.size)
    offset = np.concatenate(([0], np.cumsum(counts)))
    weight = frozen(np.concatenate((weight[kept], start[first])))
    threshold, alias = np.empty(weight.size), np.empty(weight.size, np.int64)
    kernels.alias_table(weight, frozen(offset), threshold, alias)
    unused = np.zeros(first.size)
    return OutcomeTable(
        offset,
        frozen(threshold),
        frozen(alias),
        frozen(np.concatenate((successor, first)).astype(np.int64)),
        frozen(np.concatenate((row % A, unused)).astype(np.int64)),
        frozen(np.concatenate((_rewards(mdp, row, successor, kept), unused))),
        weight,
    )


def _rewards(mdp: MDP, row: IntArray, successor: IntArray, kept: IntArray) -> FloatArray:
    """R(s,a,k) of the kept transitions."""
    R, A = mdp.reward, mdp.n_actions
    if sparse.issparse(R):
        return R.data[kept]
    index = (row // A, row % A, successor)
    return R[index[: R.ndim]]


class Stopping(NamedTuple):
    """When a trajectory stops: after `horizon` steps, or after a geometric time where `powers` is not empty."""

    horizon: int
    powers: FloatArray
    discounts: FloatArray


def stopping(mdp: MDP, policy: Policy, horizon: Horizon) -> Stopping:
    """Check `horizon`, a positive number of steps or "geometric".

    "geometric" goes on with probability `discount` after each step and does not discount rewards, which is unbiased
    for the infinite horizon. At discount 1 it runs to the end, and SolveError is raised where there may be none.
    """
    if isinstance(horizon, str):
        if horizon != "geometric":
            raise InvalidArgument(f"horizon must be a positive number of steps or 'geometric' but is {horizon!r}")
        undiscounted = frozen(np.ones(1))
        if mdp.discount == 1 and mdp.discount_complement > 0:
            raise InvalidArgument(
                f"horizon 'geometric' needs a discount below 1 in float64 but the discount is 1.0 with complement "
                f"{mdp.discount_complement!r}: a trajectory would take too many steps; give a number of steps"
            )
        if mdp.discount == 1:
            induced_chain(mdp, policy)
            return Stopping(FOREVER, frozen(np.empty(0)), undiscounted)
        # Products beyond 2^-53, the smallest uniform number drawn, are never reached.
        powers = [mdp.discount]
        while powers[-1] > 2.0**-54:
            powers.append(powers[-1] * powers[-1])
        return Stopping(FOREVER, frozen(np.array(powers)), undiscounted)
    steps = positive_integer("horizon", horizon)
    return Stopping(steps, frozen(np.empty(0)), frozen(discount_powers(mdp.discount, steps)))


def discount_powers(discount: float, steps: int) -> FloatArray:
    """discount^t for t < steps; the last entry stands for all later ones (all 1, or underflowed to 0)."""
    if discount in (0, 1):
        return np.array([1.0, discount])
    until_zero = int(np.log(5e-324) / np.log(discount)) + 3
    return np.power(discount, np.arange(min(steps, until_zero), dtype=np.float64))
