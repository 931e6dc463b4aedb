"""Communicating classes solved in order, each by the solver that suits it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from fastpg.chain import Chain
from fastpg.solvers.columns import by_columns
from fastpg.solvers.substitution import CLASS, Indices, communicating_classes, compressed
from fastpg.validation import BoolArray, FloatArray, frozen, require_solver

if TYPE_CHECKING:
    from fastpg.solvers import Factorisation, Solver


@dataclass(frozen=True)
class Components:
    """Block substitution over communicating classes, in an order in which all lead to later ones.

    Consecutive classes of up to 64 states are left to one `Substitution`; each larger class is a chain of its own, that
    ends where it is left, for the solver that `choose` takes, or for `inner`. Each state's transitions to later classes
    are multiplied once, so that a chain of many classes costs one pass, and what is slow to mix in one is no burden to
    others.

    Source: Tarjan (1972) for the order of the classes.
    """

    inner: "Solver | None" = None

    def __post_init__(self) -> None:
        require_solver("inner", self.inner)

    def factorise(self, chain: Chain) -> "ComponentsFactorisation":
        """Factorise class by class."""
        classes = communicating_classes(compressed(chain), chain.n_states)
        assert classes is not None
        order, begin, _ = classes
        P = sparse.csr_array(chain.transition)[order][:, order]
        large = classes.sizes > CLASS
        ends = begin[1:][large | np.append(large[1:], True)]
        pieces, b = [], 0
        for e in ends.tolist():
            ahead = P[b:e, e:]
            piece = _piece(chain, P[b:e, b:e], np.asarray(ahead.sum(axis=1)).ravel(), chain.undefined[order[b:e]])
            solver = self.inner if self.inner is not None and e - b > CLASS else choose(piece)
            pieces.append(Piece(slice(b, e), solver.factorise(piece), ahead * chain.discount))
            b = e
        return ComponentsFactorisation(order, tuple(pieces))


class Piece(NamedTuple):
    """Consecutive places in the order, their factorisation, and discount P_pi from them to later places."""

    places: slice
    factors: "Factorisation"
    ahead: sparse.csr_array

    def extended(self, b: FloatArray) -> FloatArray:
        """`b` with 0 for the state where what leaves has ended, if there is one."""
        return np.append(b, 0.0) if self.ahead.nnz else b


def _piece(chain: Chain, P: sparse.csr_array, outflow: FloatArray, undefined: BoolArray) -> Chain:
    """The chain of some classes, with one more state, where it has ended, for what leaves them."""
    if outflow.any():
        P = sparse.csr_array(
            sparse.block_array([[P, outflow[:, None]], [None, sparse.csr_array((1, 1))]], format="csr")
        )
        undefined = np.append(undefined, False)
    return Chain(P, np.zeros(P.shape[0]), chain.discount, chain.discount_complement, frozen(undefined))


@dataclass(frozen=True, eq=False, repr=False)
class ComponentsFactorisation:
    """The order of the states and the pieces of it, no transition leading back."""

    order: Indices
    pieces: tuple[Piece, ...]

    def solve(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi) x = b, the last piece first."""
        return by_columns(self._solve, b)

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi)^T x = b, the first piece first."""
        return by_columns(self._solve_transposed, b)

    def _solve(self, b: FloatArray) -> FloatArray:
        y = b[self.order]
        for piece in reversed(self.pieces):
            at = piece.places
            right = y[at] + piece.ahead @ y[at.stop :]
            y[at] = piece.factors.solve(piece.extended(right))[: at.stop - at.start]
        return self._in_place(y)

    def _solve_transposed(self, b: FloatArray) -> FloatArray:
        y = b[self.order]
        for piece in self.pieces:
            at = piece.places
            y[at] = piece.factors.solve_transposed(piece.extended(y[at]))[: at.stop - at.start]
            y[at.stop :] += piece.ahead.T @ y[at]
        return self._in_place(y)

    def _in_place(self, y: FloatArray) -> FloatArray:
        x = np.empty(y.shape)
        x[self.order] = y
        return x


from fastpg.solvers import choose  # noqa: E402
