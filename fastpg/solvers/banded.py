"""Elimination without subtraction (Grassmann, Taksar & Heyman) within a band."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastpg.chain import Chain
from fastpg.errors import InvalidArgument
from fastpg.kernels import banded as kernels
from fastpg.parallel import spread
from fastpg.solvers.columns import by_columns
from fastpg.solvers.lu import singular
from fastpg.validation import FloatArray, frozen

# Factors of more bytes than this are refused.
MEMORY = 2**31
# The first state and the last.
ENDS = (0, 1)
# Pivots below have no inverse in float64.
SMALLEST = 1.0 / float(np.finfo(np.float64).max)

# f, lower, x, start, stop: one of the triangular systems, in place.
Substitution: TypeAlias = Callable[[FloatArray, int, FloatArray, int, int], None]


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
    any discount. With moves of at most w in that order, time O(S w^2) and memory 16 S w bytes. Two threads share the
    work, one from each end; the result is the same without.

    Source: Grassmann, Taksar & Heyman (1985), whose elimination fills in no more than the band; see `GTH`.
    """

    def factorise(self, chain: Chain) -> "BandedFactorisation":
        """Factorise I - discount P_pi, P_pi being the stored rows divided by their sums."""
        band = narrowest(chain)
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

    approximate: ClassVar[bool] = True

    def factorise(self, chain: Chain) -> "BandedFactorisation":
        """Factorise I - discount P_pi without the transitions out of the band."""
        return _eliminated(chain, Band(None, *chain.moves.local))


class Part(NamedTuple):
    """Factors (n, lower + 1 + upper + PAD) from one end of the band on, and the states that only this part holds."""

    factors: FloatArray
    lower: int
    own: int


def _eliminated(chain: Chain, band: Band) -> "BandedFactorisation":
    """Factors from both ends of the band until the states between them are no more than a move can cross."""
    P, S = _in_order(chain.rows, band.order), chain.n_states
    between = min(max(band.reach, 1), S)
    below = (S - between) // 2
    rows = frozen(P.data[:]), frozen(P.indices[:]), frozen(P.indptr[:])
    width = band.width + kernels.PAD
    parts = (
        Part(np.empty((S - below, width)), band.lower, S - below - between),
        Part(np.empty((below + between, width)), band.upper, below),
    )
    leaving, least = [np.empty(len(part.factors)) for part in parts], [1.0, 1.0]
    discount = chain.discount, chain.discount_complement

    def eliminate(end: int) -> None:
        (f, lower, own), begin, step = parts[end], end * (S - 1), 1 - 2 * end
        held = own if end else len(f)
        least[end] = kernels.eliminate_part(*rows, begin, step, *discount, held, own, lower, f, leaving[end])

    spread(eliminate, ENDS, S * band.width)
    (f, lower, own), other = parts
    kernels.meet(f, lower, leaving[0], other.factors, leaving[1], own)
    if not min(*least, kernels.eliminate_band(f, lower, leaving[0], own, len(f))) >= SMALLEST:
        raise singular(chain)
    for part in parts:
        frozen(part.factors)
    return BandedFactorisation(band, parts)


@dataclass(frozen=True, eq=False, repr=False)
class BandedFactorisation:
    """Factors of I - discount P_pi in the order of the band, in two parts; see `kernels.banded`.

    States are eliminated from both ends, each part by a thread of its own; what lies between is added up and eliminated
    last, with the first part. For elimination without subtraction one order is as good as another.
    """

    band: Band
    parts: tuple[Part, Part]

    def solve(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi) x = b; for b >= 0 each entry is right to a few S ulp of itself."""
        return by_columns(lambda b: self._solve(b, kernels.apply_lower, kernels.apply_upper), b)

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi)^T x = b; for b >= 0 each entry is right to a few S ulp of itself."""
        return by_columns(lambda b: self._solve(b, kernels.apply_upper_transposed, kernels.apply_lower_transposed), b)

    def _solve(self, b: FloatArray, first: Substitution, second: Substitution) -> FloatArray:
        order, (top, bottom) = self.band.order, self.parts
        x = np.array(b, np.float64) if order is None else b[order]
        sides = x[: len(top.factors)], x[top.own :][::-1].copy()
        between, mirrored = sides[0][top.own :], sides[1][bottom.own :][::-1]
        mirrored[:] = 0.0

        def substitute(kernel: Substitution) -> None:
            def at(end: int) -> None:
                part = self.parts[end]
                kernel(part.factors, part.lower, sides[end], 0, part.own)

            spread(at, ENDS, self.band.width * x.size)

        substitute(first)
        between += mirrored
        for kernel in (first, second):
            kernel(top.factors, top.lower, sides[0], top.own, len(top.factors))
        mirrored[:] = between
        substitute(second)
        x[len(top.factors) :] = sides[1][: bottom.own][::-1]
        if order is None:
            return x
        solution = np.empty(x.shape)
        solution[order] = x
        return solution


def narrowest(chain: Chain) -> Band:
    """The band of the states' own order if it is local, or else that of reverse Cuthill-McKee where it costs less."""
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    P, own = chain.rows, Band(None, *chain.moves.longest)
    if not chain.moves.far:
        return own
    order = reverse_cuthill_mckee(P, symmetric_mode=False)
    place = _places(order)
    step = place[P.indices] - np.repeat(place, np.diff(P.indptr))
    other = Band(order, int(-step.min(initial=0)), int(step.max(initial=0)))
    return min(own, other, key=lambda band: band.work)


def _in_order(P: sparse.csr_array, order: npt.NDArray[np.int32] | None) -> sparse.csr_array:
    """P_pi with its states in `order`."""
    return P if order is None else sparse.csr_array((P.data, _places(order)[P.indices], P.indptr), shape=P.shape)[order]


def _places(order: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Which place each state has in `order`."""
    place = np.empty_like(order)
    place[order] = np.arange(order.size, dtype=order.dtype)
    return place
