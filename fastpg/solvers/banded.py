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
        band = narrowest(chain.rows)
        if 8 * chain.n_states * band.width > MEMORY:
            raise InvalidArgument(
                f"Banded takes factors of up to {MEMORY >> 20} MiB but a band of {band.lower} + {band.upper} diagonals "
                f"over {chain.n_states} states takes {8 * chain.n_states * band.width >> 20}; use solvers.Krylov() or "
                "solvers.SparseLU()"
            )
        return _eliminated(chain, band)


@dataclass(frozen=True)
class Near:
    """`Banded` for moves of at most 20 states, as if the process ended with a longer one: not a solution, but near one.

    As a `preconditioner` of Krylov it leaves to the iteration what few long moves change.
    """

    def factorise(self, chain: Chain) -> "BandedFactorisation":
        """Factorise I - discount P_pi without the transitions out of the band."""
        return _eliminated(chain, moves(chain.rows).near)


def _eliminated(chain: Chain, band: Band) -> "BandedFactorisation":
    P, S = chain.rows, chain.n_states
    factors, leaving = np.zeros((S, band.width)), np.empty(S)
    at = frozen(P.data[:]), frozen(P.indices[:]), frozen(P.indptr[:]), _places(band.order, S)
    kernels.fill_band(*at, chain.discount, chain.discount_complement, factors, band.lower, leaving)
    if not kernels.eliminate_band(factors, band.lower, leaving) > 0:
        raise singular(chain)
    return BandedFactorisation(band, frozen(factors))


@dataclass(frozen=True, eq=False, repr=False)
class BandedFactorisation:
    """Factors (S, lower + 1 + upper) of I - discount P_pi in the order of the band; see `kernels.banded`."""

    band: Band
    factors: FloatArray

    def solve(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi) x = b; for b >= 0 each entry is right to a few S ulp of itself."""
        return by_columns(lambda b: self._solve(b, transposed=False), b)

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi)^T x = b; for b >= 0 each entry is right to a few S ulp of itself."""
        return by_columns(lambda b: self._solve(b, transposed=True), b)

    def _solve(self, b: FloatArray, *, transposed: bool) -> FloatArray:
        order = self.band.order
        substitute = kernels.substitute_band_transposed if transposed else kernels.substitute_band
        x = np.array(b, np.float64) if order is None else b[order]
        substitute(self.factors, self.band.lower, x)
        if order is None:
            return x
        solution = np.empty(x.shape)
        solution[order] = x
        return solution


class Moves(NamedTuple):
    """The bands of all transitions and of those within `LOCAL`, in the states' own order; the share of longer ones."""

    band: Band
    near: Band
    far: float


def moves(P: sparse.csr_array) -> Moves:
    """How far the stored transitions lead."""
    longest = np.zeros((2, 2), np.int64)
    far = longest_moves(P.indices, P.indptr, LOCAL, longest)
    own, near = (Band(None, int(lower), int(upper)) for lower, upper in longest)
    return Moves(own, near, far / max(P.indices.size, 1))


def narrowest(P: sparse.csr_array) -> Band:
    """The band of the states' own order if it is local, or else that of reverse Cuthill-McKee where it costs less."""
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    own, _, far = moves(P)
    if not far:
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
