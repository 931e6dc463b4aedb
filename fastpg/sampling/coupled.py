"""The law of the difference of two returns with common random numbers.

Two episodes that are driven by the same words are one chain of pairs of states, and the difference of their returns is
the return of that chain.
"""

from math import comb
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastpg.errors import NoExactMoments
from fastpg.kernels.coupling import coupled_steps
from fastpg.kernels.perturbation import distribution_functions
from fastpg.sampling.perturbation import PerturbedPlan
from fastpg.validation import FloatArray, frozen

# Outcomes of one coupled chain, or pairs of its states, and outcomes of all chains together: about a minute.
MOST = 4_000_000
MOST_TOGETHER = 20_000_000


class CoupledChain(NamedTuple):
    """The outcomes of the pairs of states that are reached; `following` is -1 where both episodes have ended."""

    pair: npt.NDArray[np.int64]
    following: npt.NDArray[np.int64]
    probability: FloatArray
    reward: FloatArray
    start: FloatArray

    @classmethod
    def of(cls, steps: FloatArray, begin: npt.NDArray[np.int64], start: FloatArray) -> "CoupledChain":
        """From what `coupled_steps` leaves, the first pairs having the probabilities `start`."""
        pairs = begin.size - 1
        law = np.append(start, np.zeros(pairs - start.size))
        pair = np.repeat(np.arange(pairs), np.diff(begin))
        return cls(pair, steps[:, 0].astype(np.int64), steps[:, 1], steps[:, 2], law)

    def total(self, x: FloatArray) -> FloatArray:
        """sum over the outcomes of each pair of probability x."""
        return np.asarray(np.bincount(self.pair, self.probability * x, minlength=self.start.size), np.float64)

    def onto(self, x: FloatArray) -> sparse.csc_array:
        """The matrix of sums of probability x over the outcomes with each following pair."""
        on = self.following >= 0
        size = self.start.size
        return sparse.csc_array(((self.probability * x)[on], (self.pair[on], self.following[on])), shape=(size, size))


def coupled_moments(plan: PerturbedPlan, directions: sparse.csr_array, order: int) -> FloatArray:
    """E D^j of D = G(theta + scale u) - G(theta - scale u) in units of the plan, j = 0..order, shape (order + 1, N).

    Raises NoExactMoments where there are too many pairs of states.
    """
    count, out = directions.shape[0], np.empty((order + 1, directions.shape[0]))
    for n in range(count):
        chain = coupled_chain(plan, directions[[n]].toarray()[0], min(MOST, MOST_TOGETHER // count))
        out[:, n] = _moments(plan, chain, order)
    return out


def coupled_chain(plan: PerturbedPlan, u: FloatArray, most: int = MOST) -> CoupledChain:
    """That of the two policies at theta + scale u and theta - scale u."""
    p = plan.pairs
    step = plan.perturbation.scale * u
    above, below = (_distributions(plan, sign * step) for sign in (1.0, -1.0))
    begins = np.flatnonzero((plan.mdp.start > 0) & ~plan.mdp.terminal)
    reward = frozen(plan.table.reward / plan.unit)
    size, S = 2**12, plan.mdp.n_states
    while size <= max(most, 2**12) and S * S <= MOST:
        index = np.full((S + 1, S + 1), -1)
        index[begins, begins] = np.arange(begins.size)
        upper, lower, begin = np.empty((3, index.size + 1), np.int64)
        upper[: begins.size] = lower[: begins.size] = begins
        steps = np.empty((size, 3))
        tables = (p.first, p.offset, above, below, p.cumulative, plan.table.successor, reward)
        found = coupled_steps(*tables, index, upper, lower, begin, steps)
        if found >= 0:
            return CoupledChain.of(steps[: begin[found]], begin[: found + 1], plan.mdp.start[begins])
        size *= 2
    raise NoExactMoments(
        f"{plan.name} with common random numbers has no exact covariance on {S} states, whose pairs have more than "
        f"{most} outcomes for each perturbation; use common=False or a smaller model"
    )


def _distributions(plan: PerturbedPlan, step: FloatArray) -> FloatArray:
    """The distribution functions of actions under a perturbed policy, for each pair (state, action)."""
    weight = plan.pairs.probability.copy()
    weight[plan.pairs.free] *= np.exp(step)
    out = np.empty(weight.size)
    distribution_functions(frozen(weight), plan.pairs.first, out)
    return frozen(out)


def _moments(plan: PerturbedPlan, chain: CoupledChain, order: int) -> FloatArray:
    """E D^j from the start: the powers of a reward plus what follows, for a number of steps or in the limit."""
    from scipy.sparse.linalg import splu  # takes a tenth of a second

    discount, survival = plan.mdp.discount, 1.0
    if plan.horizon == "geometric":
        discount, survival = 1.0, plan.mdp.discount
    powers = [chain.reward**j for j in range(order + 1)]

    def factor(j: int, i: int) -> float:
        return survival * comb(j, i) * discount**i

    ahead = {(j, i): factor(j, i) * chain.onto(powers[j - i]) for j in range(1, order + 1) for i in range(1, j + 1)}
    alone = [chain.total(power) for power in powers]
    m = np.zeros((order + 1, chain.start.size))
    if isinstance(plan.horizon, int):
        for _ in range(plan.horizon):
            m = np.array(
                [m[0], *(alone[j] + sum(ahead[j, i] @ m[i] for i in range(1, j + 1)) for j in range(1, order + 1))]
            )
    else:
        identity = sparse.eye_array(chain.start.size, format="csc")
        for j in range(1, order + 1):
            right = alone[j] + sum(ahead[j, i] @ m[i] for i in range(1, j))
            m[j] = splu(sparse.csc_array(identity - ahead[j, j])).solve(right)
    out = m @ chain.start
    out[0] = 1.0
    return np.asarray(out)
