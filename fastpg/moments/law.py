"""One step of the sampled process with its weights: all that moments are made of."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastpg.chain import reached
from fastpg.lazy import cached_property
from fastpg.model import Transition
from fastpg.sampling.estimators import origin
from fastpg.sampling.plan import Plan
from fastpg.validation import FloatArray

# Matrices over (state, action) and successor are stored densely where more than this share of them is not 0.
DENSE = 0.1


@dataclass(frozen=True, eq=False, repr=False)
class StepLaw:
    """The outcomes of the states that can be reached from the start, numbered anew.

    `probability` (n,) is that of an outcome given its state, `ratio` (n,) its importance ratio. `successor` is -1
    where the process ends. `pi` (S, A) is the policy of the scores and `start` (S,) the law of the first state.
    """

    states: npt.NDArray[np.int64]
    state: npt.NDArray[np.int64]
    action: npt.NDArray[np.int64]
    successor: npt.NDArray[np.int64]
    probability: FloatArray
    ratio: FloatArray
    credit: FloatArray
    signal: FloatArray
    income: FloatArray
    baseline: FloatArray
    last: FloatArray
    pi: FloatArray
    start: FloatArray

    @property
    def shape(self) -> tuple[int, int]:
        """(S, A) of the states that matter."""
        S, A = self.pi.shape
        return S, A

    def measure(self, power: int) -> "Measure":
        """Expectations of what is multiplied by that power of the ratio at each step."""
        return Measure(self, self.probability * self.ratio**power)

    @cached_property
    def pair(self) -> npt.NDArray[np.int64]:
        """state A + action of each outcome."""
        return self.state * self.pi.shape[1] + self.action


@dataclass(frozen=True, eq=False, repr=False)
class Measure:
    """Sums over the outcomes of a step with `weight` (n,), from each state and action."""

    law: StepLaw
    weight: FloatArray

    def total(self, x: FloatArray | float = 1.0) -> FloatArray:
        """sum over outcomes of weight x, shape (S, A)."""
        S, A = self.law.shape
        return _sums(self.law.pair, self.weight * x, S * A).reshape(S, A)

    def onto(self, x: FloatArray | float = 1.0) -> Transition:
        """The matrix (S A, S) of sums of weight x over the outcomes with each successor."""
        S, A = self.law.shape
        goes_on = self.law.successor >= 0
        weight = (self.weight * x)[goes_on]
        index = (self.law.pair[goes_on], self.law.successor[goes_on])
        matrix = sparse.csr_array((weight, index), shape=(S * A, S))
        return matrix.toarray() if weight.size > DENSE * S * A * S else matrix

    def chain(self, x: FloatArray | float = 1.0) -> Transition:
        """The matrix (S, S) of sums over the actions as well."""
        S, _ = self.law.shape
        goes_on = self.law.successor >= 0
        weight = (self.weight * x)[goes_on]
        matrix = sparse.csr_array((weight, (self.law.state[goes_on], self.law.successor[goes_on])), shape=(S, S))
        return matrix.toarray() if weight.size > DENSE * S * S else matrix

    def ending(self, x: FloatArray | float = 1.0) -> FloatArray:
        """sum of weight x over the outcomes that end the process, shape (S, A)."""
        return self.total(np.where(self.law.successor < 0, x, 0.0))

    def centred(self, x: FloatArray) -> FloatArray:
        """sum_a x(s,a,...) (e_a - pi(s)), along the second axis, for x that has the weights in it."""
        return centred(self.law.pi, x)


def centred(pi: FloatArray, x: FloatArray) -> FloatArray:
    """x(s,j,...) - pi(j|s) sum_a x(s,a,...)."""
    weight = pi.reshape(pi.shape + (1,) * (x.ndim - 2))
    return x - weight * x.sum(axis=1, keepdims=True)


def without(factor: float, K: Transition) -> FloatArray:
    """I - factor K, dense."""
    K = K.toarray() if sparse.issparse(K) else K
    return np.asarray(np.eye(K.shape[0]) - factor * K)


def score_blocks(pi: FloatArray, f: FloatArray) -> FloatArray:
    """sum_a f(s,a) (e_a - pi)(e_a - pi)^T, shape (S, A, A)."""
    S, A = pi.shape
    out = np.zeros((S, A, A))
    out[:, np.arange(A), np.arange(A)] = f
    cross = f[:, :, None] * pi[:, None, :]
    return out - cross - cross.swapaxes(1, 2) + f.sum(axis=1)[:, None, None] * pi[:, :, None] * pi[:, None, :]


def own_block(matrix: Transition, x: FloatArray) -> FloatArray:
    """sum_k matrix[s A + a, k] x(k, s, b), shape (S, A, A)."""
    S, _, A = x.shape
    if isinstance(matrix, np.ndarray):
        return np.asarray(matrix.reshape(S, A, S) @ x.transpose(1, 0, 2))
    row = np.repeat(np.arange(S * A), np.diff(matrix.indptr))
    terms = matrix.data[:, None] * x[matrix.indices, row // A]
    return np.stack([_sums(row, column, S * A) for column in terms.T], axis=1).reshape(S, A, A)


def _sums(index: npt.NDArray[np.int64], weight: FloatArray, size: int) -> FloatArray:
    """Sums of the weights with each index."""
    return np.asarray(np.bincount(index, weight, minlength=size), dtype=np.float64)


def step_law(plan: Plan) -> StepLaw:
    """The outcomes that matter: of positive ratio, from states that the start leads to, where anything is counted."""
    mdp, table, terms = plan.mdp, plan.table, plan.terms
    state = origin(table)
    n, S = state.size, mdp.n_states
    successor, action, ratio = table.successor[:n], table.action[:n], plan.ratio
    taken = ratio > 0
    edges = sparse.csr_array((np.ones(n)[taken], (state[taken], successor[taken])), shape=(S, S))
    alive = ~mdp.terminal
    seen = reached(edges, (plan.start > 0) & alive) & alive & _counting(plan, state, edges)
    states = np.flatnonzero(seen)
    index = np.full(S, -1)
    index[states] = np.arange(states.size)
    kept = np.flatnonzero(seen[state] & taken)
    return StepLaw(
        states,
        index[state[kept]],
        action[kept],
        index[successor[kept]],
        table.probability[kept],
        ratio[kept],
        terms.credit[kept],
        terms.signal[kept],
        np.zeros(kept.size) if terms.income is None else terms.income[kept],
        terms.baseline[states],
        plan.last[states],
        plan.policy.probabilities[states],
        plan.start[states],
    )


def _counting(plan: Plan, state: npt.NDArray[np.int64], edges: sparse.csr_array) -> npt.NDArray[np.bool_]:
    """States from which a credit, a signal or a last value other than 0 can be reached.

    In a whole return or an average of the sample a reward counts for all scores, before and after it, and so do all
    ratios where they weigh whole trajectories.
    """
    terms, n = plan.terms, state.size
    signal = terms.signal[:n] != (0.0 if terms.whole else terms.baseline[state])
    counts = np.zeros(plan.mdp.n_states, bool)
    counts[state[(plan.ratio > 0) & ((terms.credit[:n] != 0) | signal)]] = True
    counts |= (plan.last != 0) & ~plan.mdp.terminal
    if terms.whole or plan.joint or terms.income is not None:
        income = terms.income is not None and bool(terms.income.any())
        return np.full(counts.size, income or bool((counts | (terms.baseline != 0)).any()))
    return reached(sparse.csr_array(edges.T), counts) if counts.any() else counts
