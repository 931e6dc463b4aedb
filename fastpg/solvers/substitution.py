"""Substitution: chains in which no state is seen again once it is left, solved in one pass over their transitions."""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fastpg.chain import Chain
from fastpg.errors import InvalidArgument
from fastpg.kernels import sparse as kernels
from fastpg.solvers.columns import by_columns
from fastpg.solvers.lu import singular
from fastpg.validation import FloatArray, frozen

Indices: TypeAlias = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Substitution:
    """One substitution in an order of the states in which transitions, but to oneself, lead to later states.

    The chains of finite horizons, of trees and of lines without a way back have such an order; others are an
    InvalidArgument. Nothing is subtracted, as in GTH, so for b >= 0 each entry of the solution has a small relative
    error at any discount. Time and memory O(S + transitions).
    """

    def factorise(self, chain: Chain) -> "SubstitutionFactorisation":
        """Find the order."""
        rows, S = compressed(chain), chain.n_states
        order = acyclic_order(rows)
        if order.size < S:
            raise InvalidArgument(
                f"Substitution takes chains without cycles but {S - order.size} of {S} states lie on a cycle or behind "
                "one; use solvers.Krylov() or solvers.SparseLU()"
            )
        pivot = np.empty(S)
        kernels.pivots(*rows, chain.discount, chain.discount_complement, pivot)
        if not pivot.all():
            raise singular(chain)
        return SubstitutionFactorisation(rows, chain.discount, frozen(pivot), order)


class Rows(NamedTuple):
    """P_pi as compressed rows, read-only."""

    data: FloatArray
    indices: Indices
    first: Indices


def compressed(chain: Chain) -> Rows:
    """The rows of P_pi."""
    P = chain.rows
    return Rows(frozen(P.data[:]), frozen(P.indices[:]), frozen(P.indptr[:]))


def acyclic_order(rows: Rows) -> Indices:
    """The states, each before all that it leads to, as far as there is such an order."""
    S = rows.first.size - 1
    order, arrivals = np.empty(S, rows.indices.dtype), np.zeros(S, rows.indices.dtype)
    n = kernels.acyclic_order(*rows, arrivals, order)
    return frozen(order[:n])


@dataclass(frozen=True, eq=False, repr=False)
class SubstitutionFactorisation:
    """P_pi, the diagonal of I - discount P_pi, and the order of the states."""

    rows: Rows
    discount: float
    pivot: FloatArray
    order: Indices

    def solve(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi) x = b; for b >= 0 each entry is right to a few roundings for each step ahead."""
        return by_columns(self._solve, b)

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi)^T x = b; for b >= 0 each entry is right to a few roundings for each step."""
        return by_columns(self._solve_transposed, b)

    def _solve(self, b: FloatArray) -> FloatArray:
        x = np.empty(b.size)
        kernels.substitute(*self.rows, self.discount, self.pivot, self.order, frozen(b.copy()), x)
        return x

    def _solve_transposed(self, b: FloatArray) -> FloatArray:
        x = b.copy()
        kernels.substitute_transposed(*self.rows, self.discount, self.pivot, self.order, x)
        return x
