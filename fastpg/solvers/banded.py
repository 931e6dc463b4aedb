"""Elimination without subtraction (Grassmann, Taksar & Heyman) within a band."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastpg.chain import Chain
from fastpg.errors import InvalidArgument
from fastpg.kernels import banded as kernels
from fastpg.kernels.sparse import longest_moves
from fastpg.solvers.columns import by_columns
from fastpg.solvers.lu import singular
from fastpg.validation import FloatArray, frozen

# A band of so many diagonals to either side is factorised at once: for w = 20 and 10^5 states that took 35 ms, as 40
# products do, and no chain that moves so little mixes soon. To look for a narrower one took as long.
LOCAL = 20
# Factors of more bytes than this are refused.
MEMORY = 2**31


class Band(NamedTuple):
    """An order of the states (None for their own) in which transitions go at most `lower` back and `upper` ahead."""

    order: npt.NDArray[np.int32] | None
    lower: int
    upper: int

    @property
    def width(self) -> int:
        """Diagonals of the factors."""
        return self.lower + 1 + self.upper

    @property
    def work(self) -> int:
        """Multiplications of the elimination for each state, at most."""
        return self.upper * self.lower

    @property
    def reach(self) -> int:
        """The longest move in either direction."""
        return max(self.lower, self.upper)


@dataclass(frozen=True)
class Banded:
    """Elimination in a band for chains that move locally: lines, rings, long corridors.

    The states keep their order or take that of reverse Cuthill-McKee, whichever has the narrower band. As in GTH
    nothing is subtracted and P_pi(s,s) is not read: for b >= 0 each entry of the solution has a small relative error at
    any discount. With moves of at most w in that order, time O(S w^2) and memory 16 S w bytes.

    Source: Grassmann, Taksar & Heyman (1985), whose elimination fills in no more than the band; see `GTH`.
    """

    def factorise(self, chain: Chain) -> "BandedFactorisation":
        """Factorise I - discount P_pi, P_pi being the stored rows divided by their sums."""
        P, S = sparse.csr_array(chain.transition), chain.n_states
        order, lower, upper = band = narrowest(P)
        if 8 * S * band.width > MEMORY:
            raise InvalidArgument(
                f"Banded takes factors of up to {MEMORY >> 20} MiB but a band of {lower} + {upper} diagonals over {S} "
                f"states takes {8 * S * band.width >> 20}; use solvers.Krylov() or solvers.SparseLU()"
            )
        factors, leaving = np.zeros((S, band.width)), np.empty(S)
        rows = frozen(P.data[:]), frozen(P.indices[:]), frozen(P.indptr[:])
        kernels.fill_band(*rows, _places(order, S), chain.discount, chain.discount_complement, factors, lower, leaving)
        if not kernels.eliminate_band(factors, lower, leaving) > 0:
            raise singular(chain)
        return BandedFactorisation(band, frozen(factors))


@dataclass(frozen=True, eq=False, repr=False)
class BandedFactorisation:
    """Factors (S, lower + 1 + upper) of I - discount P_pi in the order of the band; see `kernels.banded.eliminate_band`."""

    band: Band
    factors: FloatArray

    def solve(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi) x = b; for b >= 0 each entry is right to a few S ulp of itself."""
        return by_columns(lambda b: self._solve(b, transposed=False), b)

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi)^T x = b; for b >= 0 each entry is right to a few S ulp of itself."""
        return by_columns(lambda b: self._solve(b, transposed=True), b)

    def _solve(self, b: FloatArray, *, transposed: bool) -> FloatArray:
        order, substitute = (
            self.band.order,
            kernels.substitute_band_transposed if transposed else kernels.substitute_band,
        )
        x = np.array(b, np.float64) if order is None else b[order]
        substitute(self.factors, self.band.lower, x)
        if order is None:
            return x
        solution = np.empty(x.shape)
        solution[order] = x
        return solution


def own_band(P: sparse.csr_array) -> Band:
    """The band of the states' own order."""
    moves = np.zeros(2, np.int64)
    longest_moves(P.indices, P.indptr, moves)
    return Band(None, int(moves[0]), int(moves[1]))


def narrowest(P: sparse.csr_array) -> Band:
    """The band of the states' own order if it is local, or else that of reverse Cuthill-McKee where it costs less."""
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    own = own_band(P)
    if own.reach <= LOCAL:
        return own
    order = reverse_cuthill_mckee(P, symmetric_mode=False)
    place = _places(order, P.shape[0])
    step = place[P.indices] - np.repeat(place, np.diff(P.indptr))
    other = Band(order, int(-step.min(initial=0)), int(step.max(initial=0)))
    return min(own, other, key=lambda band: band.work)


def _places(order: npt.NDArray[np.int32] | None, S: int) -> npt.NDArray[np.int32]:
    """Which place each state has in `order`."""
    place = np.arange(S, dtype=np.int32)
    if order is not None:
        place[order] = place.copy()
    return frozen(place)
