"""One step of the sampled process with its weights: all that moments are made of."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse

from fastpg.chain import Chain, reached
from fastpg.lazy import cached_property
from fastpg.model import Transition
from fastpg.sampling.estimators import origin
from fastpg.sampling.plan import Plan
from fastpg.solvers import SMALL, choose
from fastpg.validation import FloatArray, frozen

# Matrices over (state, action) and successor are stored densely where more than this share of them is not 0.
DENSE = 0.1

# Moments x(k,s,b) of the score at s, given a state k, as a sum of products X(k,s) v(s,b).
Products = list[tuple[FloatArray, FloatArray]]


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

    @cached_property
    def going(self) -> slice | npt.NDArray[np.int64]:
        """Which outcomes do not end the process."""
        return _where(self.successor >= 0)

    @cached_property
    def flat(self) -> npt.NDArray[np.int64]:
        """Where each of these stands in a matrix over (state, action) and successor."""
        return np.asarray(self.pair[self.going] * self.pi.shape[0] + self.successor[self.going])

    @cached_property
    def is_dense(self) -> bool:
        """Whether such matrices are stored densely."""
        return self.successor[self.going].size > DENSE * self.pi.size * self.pi.shape[0]

    @cached_property
    def on_policy(self) -> bool:
        """Whether all ratios are 1, so that all powers of them are the same."""
        return bool((self.ratio == 1).all())

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
        (S, A), going = self.law.shape, self.law.going
        weight = (self.weight * x)[going]
        if self.law.is_dense:
            return _sums(self.law.flat, weight, S * A * S).reshape(S * A, S)
        return sparse.csr_array((weight, (self.law.pair[going], self.law.successor[going])), shape=(S * A, S))

    def chain(self, x: FloatArray | float = 1.0) -> Transition:
        """The matrix (S, S) of sums over the actions as well."""
        (S, _), going = self.law.shape, self.law.going
        weight = (self.weight * x)[going]
        matrix = sparse.csr_array((weight, (self.law.state[going], self.law.successor[going])), shape=(S, S))
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


def score_sizes(pi: FloatArray) -> FloatArray:
    """|e_a - pi|^2, shape (S, A)."""
    return np.asarray(((np.eye(pi.shape[1]) - pi[:, None, :]) ** 2).sum(axis=2))


def along_scores(pi: FloatArray, x: FloatArray) -> FloatArray:
    """sum_a (e_a - pi) . x(s,a,:), shape (S,)."""
    return np.asarray(np.trace(centred(pi, x), axis1=1, axis2=2))


def solved(factor: float, K: Transition, b: FloatArray, *, transposed: bool = False) -> FloatArray:
    """(I - factor K)^{-1} b, or with K^T: where K is large and sparse by what solves such chains, else by LU."""
    if factor == 0:
        return b
    if K.shape[0] <= SMALL or not sparse.issparse(K):
        return np.asarray(linalg.solve(without(factor, K.T if transposed else K), b))
    n = K.shape[0]
    # A chain has rows of sum 1 at most, and its discount tells how soon it ends.
    most = float(K.sum(axis=1).max())
    if 0 < factor * most < 1:
        factor, K = factor * most, K / most
    chain = Chain(K, frozen(np.zeros(n)), factor, 1.0 - factor, frozen(np.zeros(n, bool)))
    factors = choose(chain).factorise(chain)
    return factors.solve_transposed(b) if transposed else factors.solve(b)


def own_block(matrix: Transition, x: FloatArray | Products) -> FloatArray:
    """sum_k matrix[s A + a, k] x(k, s, b), shape (S, A, A)."""
    if not isinstance(x, np.ndarray):
        return np.asarray(sum(own_entry(matrix, X)[:, :, None] * v[:, None, :] for X, v in x))
    S, _, A = x.shape
    if isinstance(matrix, np.ndarray):
        return np.asarray(matrix.reshape(S, A, S) @ x.transpose(1, 0, 2))
    row = np.repeat(np.arange(S * A), np.diff(matrix.indptr))
    terms = matrix.data[:, None] * x[matrix.indices, row // A]
    return np.stack([_sums(row, column, S * A) for column in terms.T], axis=1).reshape(S, A, A)


def own_entry(matrix: Transition, x: FloatArray) -> FloatArray:
    """sum_k matrix[s A + a, k] x(k, s), shape (S, A)."""
    S = x.shape[0]
    if isinstance(matrix, np.ndarray):
        return np.asarray((matrix.reshape(S, -1, S) @ x.T[:, :, None])[:, :, 0])
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    A = matrix.shape[0] // S
    return _sums(row, matrix.data * x[matrix.indices, row // A], matrix.shape[0]).reshape(S, A)


def multiplied(x: FloatArray | Products) -> FloatArray:
    """The table x(k,s,b), shape (S, S, A)."""
    return x if isinstance(x, np.ndarray) else np.asarray(sum(X[:, :, None] * v for X, v in x))


def _where(chosen: npt.NDArray[np.bool_]) -> slice | npt.NDArray[np.int64]:
    """What to index with for the chosen of the first ones; where these are all, nothing is copied."""
    return slice(chosen.size) if chosen.all() else np.flatnonzero(chosen)


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
    kept = _where(seen[state] & taken)
    return StepLaw(
        states,
        index[state[kept]],
        action[kept],
        index[successor[kept]],
        table.probability[kept],
        ratio[kept],
        terms.credit[kept],
        terms.signal[kept],
        np.zeros(n)[kept] if terms.income is None else terms.income[kept],
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
