"""Where the states of a sparse model lead: what P_pi stores, found once for all policies that take every action."""

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fastpg.kernels.sparse import longest_moves, merge_successors, merge_transitions
from fastpg.lazy import cached_property
from fastpg.parallel import ranges, spread
from fastpg.validation import FloatArray, frozen

# Moves of so many states are local: a band of as many diagonals to either side is factorised at once, which took 15 ms
# of processor time for 10^5 states, and no chain that moves so little mixes soon.
LOCAL = 20

Indices: TypeAlias = npt.NDArray[np.signedinteger]


class Moves(NamedTuple):
    """The longest moves (back, ahead) of all transitions and of the local ones, and the share of others."""

    longest: tuple[int, int]
    local: tuple[int, int]
    far: float


def moves(indices: Indices, first: Indices) -> Moves:
    """How far stored transitions lead."""
    longest = np.zeros((2, 2), np.int64)
    far = longest_moves(frozen(indices[:]), frozen(first[:]), LOCAL, longest)
    (back, ahead), (near_back, near_ahead) = longest.tolist()
    return Moves((back, ahead), (near_back, near_ahead), far / max(indices.size, 1))


@dataclass(frozen=True, eq=False, repr=False)
class Successors:
    """Columns `indices` of P_pi by rows, which begin at `first`; transition j is added to entry `place[j]`."""

    indices: Indices
    first: Indices
    place: Indices

    @cached_property
    def moves(self) -> Moves:
        """How far they are from the states that lead to them."""
        return moves(self.indices, self.first)

    def transition(self, P: Any, pi: FloatArray) -> FloatArray:
        """The entries of P_pi = sum_a pi(a|s) P(.|s,a), P being (S*A, S) in CSR."""
        out = np.empty(self.indices.size)
        data, first = frozen(P.data[:]), frozen(P.indptr[:])
        spread(
            lambda piece: merge_transitions(data, first, pi, self.place, self.first, *piece, out),
            ranges(len(pi), P.nnz),
            P.nnz,
        )
        return out


def successors(P: Any, pi: FloatArray) -> Successors:
    """Where the actions that `pi` (S, A) takes lead, each state once, in the order met; P is (S*A, S) in CSR."""
    S, index = len(pi), P.indices.dtype
    (indices, place), first, last = np.empty((2, P.nnz), index), np.empty(S + 1, index), np.full(S, -1, index)
    merge_successors(frozen(P.indices[:]), frozen(P.indptr[:]), pi, last, indices, first, place)
    return Successors(frozen(indices[: first[-1]]), frozen(first), frozen(place))
