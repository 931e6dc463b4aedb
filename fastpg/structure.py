"""How a chain hangs together: its recurrent classes, what is transient or unreachable, and weakly linked blocks."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastpg.chain import Chain, reached, state_transition
from fastpg.lazy import cached_property
from fastpg.model import MDP
from fastpg.policy import Policy, fitted
from fastpg.solvers import Factorisation, knows_differences
from fastpg.validation import BoolArray, FloatArray, frozen

IntArray = npt.NDArray[np.intp]

# A transition of less than this share of the likeliest one of its state links no blocks.
WEAK = 1e-3
# Pairs of solves that a condition number may take; two or three are enough nearly always.
ROUNDS = 6


@dataclass(frozen=True, eq=False, repr=False)
class Structure:
    """The graph of P_pi, whatever the discount; an underflowed probability is no transition.

    ==============  =====  ======================================================================================
    `recurrent`     (S,)   number of the recurrent class, 0 onwards, of states that never leave it; -1 elsewhere
    `transient`     (S,)   states that are left for good, for another state or a terminal one
    `reachable`     (S,)   states that `start` leads to
    `component`     (S,)   number of the part, where parts have no transition between them; -1 where terminal
    `block`         (S,)   the same with transitions left out that have less than 1e-3 of the likeliest of their state
    ==============  =====  ======================================================================================

    `proper` says whether the process ends for certain from every state that `start` leads to. `coupling` is the
    largest probability to leave a block for another one, in a step; `nearly_decomposable` whether there are more
    blocks than components and `coupling` is at most 1e-3: values then differ by as much as 1/coupling.

    Source: Kemeny & Snell (1960), chapter II; Courtois (1977) for near decomposability.
    """

    transition: sparse.csr_array
    start: BoolArray
    terminal: BoolArray

    @cached_property
    def _classes(self) -> tuple[IntArray, BoolArray]:
        """The communicating class of each state, and which classes are closed and not terminal."""
        count, label = sparse.csgraph.connected_components(self.transition, directed=True, connection="strong")
        edges = self.transition.tocoo()
        closed = np.ones(count, bool)
        closed[label[edges.row[label[edges.row] != label[edges.col]]]] = False
        closed[label[self.terminal]] = False
        return label, closed

    @cached_property
    def recurrent(self) -> IntArray:
        """Which recurrent class each state is in, numbered by their first states; -1 in none."""
        label, closed = self._classes
        out = np.full(label.size, -1)
        inside = np.flatnonzero(closed[label])
        out[inside] = _by_first(label[inside])
        return frozen(out)

    @property
    def class_sizes(self) -> IntArray:
        """How many states each recurrent class has."""
        return np.bincount(self.recurrent[self.recurrent >= 0])

    @cached_property
    def transient(self) -> BoolArray:
        """(S,), neither recurrent nor terminal."""
        return frozen((self.recurrent < 0) & ~self.terminal)

    @cached_property
    def reachable(self) -> BoolArray:
        """(S,), states that a path from `start` leads to."""
        return frozen(reached(self.transition, self.start))

    @cached_property
    def proper(self) -> bool:
        """Whether the process ends for certain: `start` leads to no recurrent class."""
        return not (self.reachable & (self.recurrent >= 0)).any()

    @cached_property
    def component(self) -> IntArray:
        """Which part each state is in, numbered by their first states; -1 where terminal."""
        return self._parts(np.zeros(self.terminal.size))

    @cached_property
    def block(self) -> IntArray:
        """Which part each state is in when weak transitions are left out; -1 where terminal."""
        likeliest = self.transition.max(axis=1).toarray().ravel()
        return self._parts(WEAK * likeliest)

    def _parts(self, weak: FloatArray) -> IntArray:
        """The parts of the states that go on, linked by transitions of more than `weak` of their state."""
        edges = self.transition.tocoo()
        kept = (edges.data > weak[edges.row]) & ~self.terminal[edges.col]
        shape = self.transition.shape
        links = sparse.coo_array((edges.data[kept], (edges.row[kept], edges.col[kept])), shape=shape)
        label = sparse.csgraph.connected_components(links, directed=False)[1]
        out = np.full(label.size, -1)
        out[~self.terminal] = _by_first(label[~self.terminal])
        return frozen(out)

    @cached_property
    def coupling(self) -> float:
        """The largest probability to go to another block, over all states."""
        edges = self.transition.tocoo()
        leaves = (self.block[edges.row] != self.block[edges.col]) & ~self.terminal[edges.col]
        return float(np.bincount(edges.row[leaves], edges.data[leaves], minlength=1).max())

    @property
    def nearly_decomposable(self) -> bool:
        """Whether there are blocks that are linked, but seldom left."""
        return bool(self.block.max() > self.component.max()) and self.coupling <= WEAK

    @property
    def blocks_text(self) -> str:
        """The blocks and their coupling in words."""
        return f"{self.block.max() + 1} of them, left for another with probability {self.coupling:.3g} a step at most"

    def __str__(self) -> str:
        sizes = self.class_sizes
        parts = [f"{sizes.size or 'no'} recurrent class{'es' * (sizes.size > 1)}"]
        if sizes.size == 1:
            parts[0] += f" of {_states(sizes[0])}"
        elif sizes.size:
            parts[0] += f" of {sizes.min()} to {_states(sizes.max())}"
        counts = {"transient": self.transient, "terminal": self.terminal, "unreachable": ~self.reachable}
        parts += [f"{np.count_nonzero(mask)} {name}" for name, mask in counts.items() if mask.any()]
        if self.component.max() > 0:
            parts.append(f"{self.component.max() + 1} parts without a transition between them")
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"Structure({self})"


def chain_structure(mdp: MDP, policy: Policy) -> Structure:
    """The structure of the chain that `policy` induces; it needs no solve and no discount.

    >>> from fastpg import problems, uniform
    >>> mdp = problems.frozen_lake("4x4")
    >>> chain_structure(mdp, uniform(mdp))
    Structure(no recurrent class, 11 transient, 5 terminal)
    """
    P = sparse.csr_array(state_transition(mdp, fitted(policy, mdp)), copy=True)
    P.eliminate_zeros()
    return Structure(P, frozen(mdp.start > 0), mdp.terminal)


def _states(count: int) -> str:
    return f"{count} state{'s' if count != 1 else ''}"


def _by_first(label: IntArray) -> IntArray:
    """The same classes, numbered in the order of their first members."""
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def condition(chain: Chain, factors: Factorisation) -> float:
    """How long the chain remembers where it began, in steps: an estimate from below of

        tau_1(D) = max_{i,j} 1/2 sum_k |D(i,k) - D(j,k)| = 1/2 max_{|r| <= 1} (max_s V(s) - min_s V(s)),   V = D r

    with D = (I - discount P_pi)^{-1}. Occupancies change by at most discount tau_1(D) |E|_inf in total, relative to
    themselves, when P_pi changes by E, and values differ by at most 2 tau_1(D) max |r|, which bounds how much of them
    the advantages are. It is at most 1 / (1 - discount), about the time to mix where that is shorter, and large where
    a chain nearly falls apart. States without a value have the value 0 here.

    Alternates between the best pair of states for a reward and the best reward for a pair, as Hager's estimate of a
    norm does; among 300 random chains it was never below 0.6 of the truth. Where 1 - discount is below rounding the
    best reward for a pair is lost, and the estimate weaker.

    Source: Seneta (1991) for tau_1 as a condition number; Cho & Meyer (2001) compare it with others; Hager (1984).
    """
    ramp = np.arange(chain.n_states) / chain.n_states
    return max(_spread(factors, reward) for reward in (ramp, np.where(ramp == 0, 1.0, 0.0)))


def _spread(factors: Factorisation, reward: FloatArray) -> float:
    """The largest tau_1 found from one reward."""
    best = 0.0
    for _ in range(ROUNDS):
        value = _differences(factors, reward)
        first, last = int(value.argmax()), int(value.argmin())
        found = (value[first] - value[last]) / 2
        pair = np.zeros(reward.size)
        pair[first] += 1.0
        pair[last] -= 1.0
        change = factors.solve_transposed(pair)
        if not knows_differences(factors):
            found = float(np.abs(change).sum()) / 2
        if found <= best * (1 + 1e-6):
            break
        best = float(found)
        reward = np.where(change < 0, -1.0, 1.0)
    return best


def _differences(factors: Factorisation, reward: FloatArray) -> FloatArray:
    """V up to a constant, with the least rounding that the factorisation offers."""
    if not knows_differences(factors):
        return factors.solve(reward)
    return min(factors.solve_up_to_a_constant(reward), key=lambda estimate: estimate.size.max()).value
