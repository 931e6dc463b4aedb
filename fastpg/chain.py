"""The Markov chain with rewards that a policy induces on an MDP."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastpg.errors import SolveError
from fastpg.kernels import horizon as sweeps
from fastpg.kernels.bellman import UNSIGNED, expected_next, sparse_expected_next
from fastpg.kernels.evaluation import induced_transition, policy_average
from fastpg.kernels.sparse import compress, count_entries
from fastpg.lazy import cached_property
from fastpg.model import MDP, Transition
from fastpg.parallel import all_rows, ranges, spread
from fastpg.policy import Policy
from fastpg.successors import Moves, Successors, moves, successors
from fastpg.validation import BoolArray, FloatArray, frozen

Unsigned = npt.NDArray[np.unsignedinteger]

# BLAS adds up so many numbers on one thread.
ONE_THREAD = 10_000


@dataclass(frozen=True, eq=False, repr=False)
class Chain:
    """P_pi (S, S), dense or CSR, with zero rows where the process has ended, and r_pi (S,).

    Zero rows are the elimination of terminal states: the columns still record who arrives there, so one
    system I - discount P_pi gives values, occupancies and the mass that each terminal state ends up with.
    `discount_complement` is 1 - discount, known to full precision however close to 1 the discount is.
    `undefined` marks the states whose value does not exist (only at discount 1); their rows are zero as well.
    `successors` are those of a sparse P_pi where the model has found them for many policies.
    """

    transition: Transition
    reward: FloatArray
    discount: float
    discount_complement: float
    undefined: BoolArray
    successors: Successors | None = None

    @property
    def n_states(self) -> int:
        """S."""
        return self.reward.shape[0]

    @cached_property
    def needs_complement(self) -> bool:
        """Whether only a complement that the float `discount` cannot say keeps I - discount P_pi from being singular.

        Where all states lead to an end the complement is no more than one rounding of P_pi.
        """
        if self.discount < 1 or self.discount_complement == 0:
            return False
        edges = sparse.csr_array(self.rows.T, copy=True)
        edges.eliminate_zeros()
        return not reached(edges, self.ended).all()

    @cached_property
    def is_sparse(self) -> bool:
        """Whether P_pi is stored as CSR."""
        return not isinstance(self.transition, np.ndarray)

    @cached_property
    def rows(self) -> sparse.csr_array:
        """P_pi as CSR, however it is stored."""
        P = self.transition
        if self.is_sparse:
            return sparse.csr_array(P)
        n = count_entries(P, P.size)
        data, indices, first = np.empty(n), np.empty(n, np.int32), np.empty(len(P) + 1, np.int32)
        compress(P, data, indices, first)
        return sparse.csr_array((data, indices, first), shape=P.shape)

    @cached_property
    def moves(self) -> Moves:
        """How far the stored transitions lead."""
        return moves(self.rows.indices, self.rows.indptr) if self.successors is None else self.successors.moves

    def has_few_transitions(self, most: int) -> bool:
        """Whether at most so many entries of P_pi are not 0; where a dense one has more, only a part of it is read."""
        n: int = self.transition.nnz if self.is_sparse else count_entries(self.transition, most)
        return n <= most

    @cached_property
    def ended(self) -> BoolArray:
        """(S,), the states whose row is empty."""
        return np.asarray(self.transition.sum(axis=1)).ravel() == 0

    @cached_property
    def all_defined(self) -> bool:
        """Whether every state has a value; all do below discount 1."""
        return self.discount_complement > 0 or not self.undefined.any()


def induced_chain(mdp: MDP, policy: Policy) -> Chain:
    """P_pi = sum_a pi(a|s) P(.|s,a) and r_pi = sum_a pi(a|s) r(s,a).

    At discount 1 raises SolveError, naming a state of a recurrent class, unless the process ends for certain
    from every state that can be reached from `start`.
    """
    pi = policy.probabilities
    S = mdp.n_states
    reward = np.empty(S)
    policy_average(pi, mdp.expected_reward, reward)
    at = _successors(mdp, pi) if mdp.is_sparse else None
    P = _transition(mdp, pi, at)
    undefined = np.zeros(S, bool)
    if mdp.discount_complement == 0:
        undefined = never_certain_to_end(P, mdp.terminal, mdp.start > 0)
        if undefined.any():
            keep = np.where(undefined, 0.0, 1.0)
            P = sparse.csr_array(sparse.diags_array(keep) @ P) if sparse.issparse(P) else P * keep[:, None]
            reward *= keep
            at = None
    return Chain(P, reward, mdp.discount, mdp.discount_complement, frozen(undefined), at)


def state_transition(mdp: MDP, policy: Policy) -> Transition:
    """P_pi (S, S), rows of terminal states zero, stored as the model's transitions are."""
    pi = policy.probabilities
    return _transition(mdp, pi, _successors(mdp, pi) if mdp.is_sparse else None)


def _transition(mdp: MDP, pi: FloatArray, at: Successors | None) -> Transition:
    S = mdp.n_states
    if at is not None:
        return sparse.csr_array((at.transition(mdp.transition, pi), at.indices, at.first), shape=(S, S))
    P = np.empty((S, S))
    all_rows(induced_transition, mdp.transition, pi, P)
    return P


def _successors(mdp: MDP, pi: FloatArray) -> Successors:
    """Where P_pi may be positive: the same for all policies that take every available action."""
    takes_all = pi.all() or ((pi != 0) | ~mdp.available).all()
    return mdp.successors if takes_all else successors(mdp.transition, pi)


def next_value(mdp: MDP, value: FloatArray) -> FloatArray:
    """sum_k P(k|s,a) V(k), shape (S, A); V may have further axes, which come last."""
    S, A, P = mdp.n_states, mdp.n_actions, mdp.transition
    if value.ndim > 1:
        P = P if mdp.is_sparse else P.reshape(S * A, S)
        return P.dot(value).reshape(S, A, *value.shape[1:])
    out = np.empty((S, A))
    if mdp.is_sparse or P.size > ONE_THREAD:
        add_up(mdp, frozen(np.ascontiguousarray(value, np.float64)[:]), out)
    else:
        P.reshape(S * A, S).dot(value, out.reshape(S * A))
    return out


def add_up(mdp: MDP, value: FloatArray, out: FloatArray, threads: int | None = None) -> None:
    """`next_value` of V (S,) into `out` (S, A), by our own kernels on as many threads as it is worth."""
    kernel = sparse_expected_next if mdp.is_sparse else expected_next
    law, pieces = law_of(mdp), ranges(mdp.n_states, mdp.transition.size)
    spread(lambda piece: kernel(*law, value, *piece, out), pieces, mdp.transition.size, threads)


def law_of(mdp: MDP) -> tuple[Any, ...]:
    """The transitions as the kernels of `kernels.bellman` take them."""
    return unsigned_rows(mdp.transition) if mdp.is_sparse else (mdp.transition,)


def add_values_to_go(P: Transition, discount: float, out: FloatArray) -> None:
    """out[k] += discount P out[k-1] for k = 1..T, in place, shape (T+1, S)."""
    if sparse.issparse(P):
        sweeps.sparse_values_to_go(*_rows(P), discount, out)
    else:
        sweeps.values_to_go(frozen(np.ascontiguousarray(P.T)), discount, out)


def add_laws(P: Transition, discount: float, stays: BoolArray, out: FloatArray) -> None:
    """out[t+1] += discount P^T out[t], and out[t] where it `stays` (S,), for t = 0..T-1, in place, shape (T+1, S)."""
    if sparse.issparse(P):
        sweeps.sparse_laws(*_rows(P), discount, stays, out)
    else:
        sweeps.laws(frozen(P[:]), discount, stays, out)


def _rows(P: sparse.csr_array) -> tuple[FloatArray, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The entries, columns and row boundaries of a CSR array."""
    return frozen(P.data[:]), frozen(P.indices.astype(np.int64)), frozen(P.indptr.astype(np.int64))


def unsigned_rows(P: sparse.csr_array) -> tuple[FloatArray, Unsigned, Unsigned]:
    """The entries, columns and row boundaries of a CSR array; Numba tests a signed index for being negative."""
    unsigned = UNSIGNED[P.indices.itemsize]
    return frozen(P.data[:]), frozen(P.indices.view(unsigned)), frozen(P.indptr.view(unsigned))


def with_state_value(mdp: MDP, q: FloatArray, value: FloatArray) -> FloatArray:
    """`q` with the value of the state where an action is unavailable."""
    return q if mdp.all_available else np.where(mdp.available | mdp.terminal[:, None], q, value[..., None])


def finite(
    name: str,
    x: FloatArray,
    mdp: MDP,
    undefined: Callable[[], BoolArray] | None = None,
    first: int = 0,
    largest: float | None = None,
) -> FloatArray:
    """`x`, which begins at index `first`, all of it finite but where it is `undefined()`; else SolveError.

    `largest` is the size of the terms it is made of, where these are not rewards alone.
    """
    # The sum of squares settles nearly every case in a fraction of the time of isfinite; for more numbers BLAS starts
    # threads, which wait where the cores are busy.
    if x.size <= ONE_THREAD and isfinite(np.vdot(x, x)):
        return x
    good = np.isfinite(x) if undefined is None else np.isfinite(x) | undefined()
    if not good.all():
        head, *rest = (int(i) for i in np.argwhere(~good)[0])
        place = ", ".join(map(str, [head + first, *rest]))
        terms, them = "rewards", ""
        if largest is None:
            largest = float(np.abs(mdp.expected_reward).max())
        else:
            terms, them = "rewards, baselines and tables of values", " and the others with them"
        raise SolveError(
            f"{name}[{place}] overflows float64 at discount {mdp.discount!r} with {terms} up to "
            f"{largest:.3g}; scale the rewards down{them}"
        )
    return x


def in_units(name: str, x: FloatArray, unit: float, mdp: MDP, largest: float | None = None) -> FloatArray:
    """`x` times a unit of reward; SolveError where that overflows. What is not finite before stays."""
    with np.errstate(over="ignore"):
        return frozen(finite(name, unit * x, mdp, lambda: ~np.isfinite(x), largest=largest))


def reached(edges: sparse.csr_array, seeds: BoolArray) -> BoolArray:
    """States that a path of stored edges leads to from a seed, seeds included."""
    from scipy.sparse.csgraph import breadth_first_order

    # One more node leads to every seed, so that a single search serves them all.
    from_seeds = sparse.csr_array(seeds[None, :].astype(np.float64))
    graph = sparse.block_array([[edges, None], [from_seeds, sparse.csr_array((1, 1))]], format="csr")
    found = np.zeros(seeds.size + 1, bool)
    found[breadth_first_order(graph, seeds.size, return_predecessors=False)] = True
    return found[:-1]


def never_certain_to_end(P: Transition, terminal: BoolArray, start: BoolArray) -> BoolArray:
    """States from which the process may go on for ever; SolveError if a state of the mask `start` can reach one."""
    edges = sparse.csr_array(P, copy=True)
    edges.eliminate_zeros()
    reverse = sparse.csr_array(edges.T)
    trapped = ~reached(reverse, terminal)
    endless = reached(reverse, trapped) if trapped.any() else trapped
    bad = endless & reached(edges, start)
    if bad.any():
        state, size = _recurrent_state(edges, reached(edges, bad) & trapped)
        raise SolveError(
            f"at discount 1 the process must end for certain from every state reachable from start, but state "
            f"{state} belongs to a recurrent class of {size} state{'s' * (size != 1)} that it never leaves; "
            f"use a discount below 1, a finite horizon, or mark terminal states"
        )
    return endless


def _recurrent_state(edges: sparse.csr_array, closed: BoolArray) -> tuple[int, int]:
    """The first state of a closed communicating class within a closed set of states, and the size of the class."""
    from scipy.sparse.csgraph import connected_components

    inside = np.flatnonzero(closed)
    sub = edges[inside][:, inside].tocoo()
    count, label = connected_components(sub, directed=True, connection="strong")
    leaves = np.zeros(count, bool)
    leaves[label[sub.row[label[sub.row] != label[sub.col]]]] = True
    recurrent: npt.NDArray[np.intp] = np.flatnonzero(~leaves[label])
    first = recurrent[0]
    return int(inside[first]), int(np.count_nonzero(label == label[first]))
