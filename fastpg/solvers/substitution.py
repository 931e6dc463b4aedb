"""Substitution: chains whose states fall into small classes are solved in one pass over their transitions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from fastpg.chain import Chain
from fastpg.errors import InvalidArgument
from fastpg.kernels import components as kernels
from fastpg.solvers.columns import by_columns
from fastpg.solvers.lu import singular
from fastpg.validation import FloatArray, frozen

Indices: TypeAlias = npt.NDArray[np.int32]

# Classes of so many states are eliminated one after the other, in n^3 / 3 multiplications and 8 n^2 bytes each.
CLASS = 64


@dataclass(frozen=True)
class Substitution:
    """One substitution over communicating classes of up to 64 states, in an order in which all lead to later ones.

    The chains of finite horizons, of trees and of lines without a way back have classes of one state. Others, whose
    states come back to a few of them only, are eliminated class by class; larger classes are an InvalidArgument.
    Nothing is subtracted, as in GTH, so for b >= 0 each entry of the solution has a small relative error at any
    discount. Time and memory O(S + transitions) for classes of a bounded size.

    Source: Tarjan (1972) for the order; Grassmann, Taksar & Heyman (1985) for the elimination.
    """

    def factorise(self, chain: Chain) -> "SubstitutionFactorisation":
        """Find the order and eliminate within the classes."""
        rows = compressed(chain)
        classes = communicating_classes(rows, CLASS)
        if classes is None:
            raise InvalidArgument(
                f"Substitution takes chains whose communicating classes have up to {CLASS} states but this one has a "
                "larger one; use solvers.Components(), solvers.Krylov() or solvers.SparseLU()"
            )
        scale, factors = np.empty(chain.n_states), np.empty(int((classes.sizes.astype(np.int64) ** 2).sum()))
        if (
            not kernels.eliminate_classes(*rows, chain.discount, chain.discount_complement, *classes, scale, factors)
            > 0
        ):
            raise singular(chain)
        return SubstitutionFactorisation(rows, frozen(scale), classes, frozen(factors))


class Rows(NamedTuple):
    """P_pi as compressed rows, read-only."""

    data: FloatArray
    indices: Indices
    first: Indices


class Classes(NamedTuple):
    """Class c is order[begin[c]:begin[c+1]]; transitions lead to no earlier class; order[place[s]] = s."""

    order: Indices
    begin: Indices
    place: Indices

    @property
    def sizes(self) -> Indices:
        """States of each class."""
        return np.diff(self.begin)


def compressed(chain: Chain) -> Rows:
    """The rows of P_pi."""
    P = chain.rows
    return Rows(frozen(P.data[:]), frozen(P.indices[:]), frozen(P.indptr[:]))


def communicating_classes(rows: Rows, largest: int) -> Classes | None:
    """The communicating classes; None where one has more than `largest` states, which is found early as a rule."""
    S, index = rows.first.size - 1, rows.indices.dtype
    position, (path, bound, calls, order, place) = np.zeros(S, index), np.empty((5, S), index)
    begin = np.empty(S + 1, index)
    scratch = position, rows.first[:-1].astype(index), path, bound, calls
    n = kernels.communicating_classes(*rows, largest, *scratch, order, begin)
    if n < 0:
        return None
    place[order] = np.arange(S, dtype=index)
    return Classes(frozen(order), frozen(begin[S - n :]), frozen(place))


def recurrent_classes(chain: Chain) -> int:
    """How many communicating classes go on without ever being left."""
    rows = compressed(chain)
    classes = communicating_classes(rows, chain.n_states)
    assert classes is not None
    label = np.repeat(np.arange(classes.sizes.size), classes.sizes)[classes.place]
    row = np.repeat(label, np.diff(rows.first))
    left = np.unique(row[(row != label[rows.indices]) & (rows.data > 0)])
    return classes.sizes.size - left.size - int(np.count_nonzero(chain.ended))


@dataclass(frozen=True, eq=False, repr=False)
class SubstitutionFactorisation:
    """P_pi, discount / its row sums, its classes, and the factors within them."""

    rows: Rows
    scale: FloatArray
    classes: Classes
    factors: FloatArray

    def solve(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi) x = b; for b >= 0 each entry is right to a few roundings for each step ahead."""
        return by_columns(lambda b: self._solve(b, kernels.substitute_classes), b)

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi)^T x = b; for b >= 0 each entry is right to a few roundings for each step."""
        return by_columns(lambda b: self._solve(b, kernels.substitute_classes_transposed), b)

    def _solve(self, b: FloatArray, substitute: Callable[..., None]) -> FloatArray:
        x = np.array(b, dtype=np.float64)
        substitute(*self.rows, self.scale, *self.classes, self.factors, x)
        return x
