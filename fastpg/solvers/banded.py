"""Banded LU with partial pivoting (LAPACK gbtrf, gbtrs)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.linalg.lapack import dgbtrf, dgbtrs

from fastpg.chain import Chain
from fastpg.errors import InvalidArgument
from fastpg.kernels import sparse as kernels
from fastpg.solvers.lu import require_float_discount, singular
from fastpg.validation import FloatArray

# Factors of more bytes than this are refused.
MEMORY = 2**31


class Band(NamedTuple):
    """An order of the states (None for their own) in which transitions go at most `lower` back and `upper` ahead."""

    order: npt.NDArray[np.int32] | None
    lower: int
    upper: int

    @property
    def height(self) -> int:
        """Diagonals of the factors of the transpose, those that pivoting could fill included."""
        return 2 * self.upper + self.lower + 1

    @property
    def work(self) -> int:
        """Multiplications of the elimination for each state, at most."""
        return self.upper * (self.lower + self.upper)


@dataclass(frozen=True)
class Banded:
    """Banded LU for chains that move locally: lines, rings, long corridors.

    The states keep their order or take that of reverse Cuthill-McKee, whichever has the narrower band. With moves of
    at most w in that order, time O(S w^2) and memory 24 S w bytes; normwise backward stable.
    """

    def factorise(self, chain: Chain) -> "BandedFactorisation":
        """Factorise I - discount P_pi."""
        require_float_discount(chain)
        P, S = chain.rows, chain.n_states
        order, kl, ku = band = narrowest(P)
        if 8 * S * band.height > MEMORY:
            raise InvalidArgument(
                f"Banded takes factors of up to {MEMORY >> 20} MiB but a band of {kl} + {ku} diagonals over {S} states "
                f"takes {8 * S * band.height >> 20}; use solvers.Krylov() or solvers.SparseLU()"
            )
        row, column = _places(P, order)
        # Of the transpose the diagonal dominates each column, so that no pivot is moved: entries keep their digits.
        factors = np.zeros((band.height, S), order="F")
        np.add.at(factors, (kl + ku + column - row, row), P.data * -chain.discount)
        factors[kl + ku] += 1.0
        factors, pivots, info = dgbtrf(factors, ku, kl, overwrite_ab=True)
        if info > 0:
            raise singular(chain)
        return BandedFactorisation(band, factors, pivots)


@dataclass(frozen=True, eq=False, repr=False)
class BandedFactorisation:
    """LU factors of (I - discount P_pi)^T in the order of the band."""

    band: Band
    factors: FloatArray
    pivots: npt.NDArray[np.int32]

    def solve(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi) x = b."""
        return self._solve(b, transposed=False)

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi)^T x = b."""
        return self._solve(b, transposed=True)

    def _solve(self, b: FloatArray, *, transposed: bool) -> FloatArray:
        order, kl, ku = self.band
        x = b if order is None else b[order]
        x, _ = dgbtrs(self.factors, ku, kl, x, self.pivots, trans=int(not transposed))
        if order is None:
            return x
        solution = np.empty(x.shape)
        solution[order] = x
        return solution


def own_band(P: sparse.csr_array) -> Band:
    """The band of the states' own order."""
    moves = np.zeros(2, np.int64)
    kernels.longest_moves(P.indices, P.indptr, moves)
    return Band(None, int(moves[0]), int(moves[1]))


def narrowest(P: sparse.csr_array) -> Band:
    """The band of the states' own order or of reverse Cuthill-McKee, whichever costs less."""
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    order = reverse_cuthill_mckee(P, symmetric_mode=False)
    row, column = _places(P, order)
    step = column - row
    other = Band(order, int(-step.min(initial=0)), int(step.max(initial=0)))
    return min(own_band(P), other, key=lambda band: band.work)


def _places(P: sparse.csr_array, order: npt.NDArray[np.int32] | None) -> tuple[Any, Any]:
    """Row and column of each entry, the states taken in `order`."""
    row, column = np.repeat(np.arange(P.shape[0], dtype=P.indices.dtype), np.diff(P.indptr)), P.indices
    if order is None:
        return row, column
    place = np.empty(order.size, order.dtype)
    place[order] = np.arange(order.size, dtype=order.dtype)
    return place[row], place[column]
