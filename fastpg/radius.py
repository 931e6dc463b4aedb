"""Rigorous bounds on the spectral radius of a non-negative matrix."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastpg.chain import reached
from fastpg.errors import InvalidArgument
from fastpg.validation import BoolArray, FloatArray, float_array, frozen

EPS = float(np.finfo(np.float64).eps)
# The bounds are as close as this, relative to the radius, unless 1 is found outside them before.
TOLERANCE = 1e-12
# Numbers multiplied before the bounds are returned as they are.
BUDGET = 2e9
# The largest class that an inverse iteration is done for, with a dense factorisation.
DIRECT = 2000
# Sweeps between two inverse iterations, which most classes do not need.
SWEEPS = 16
TINY = float(np.finfo(np.float64).tiny)
# More than what 2^20 products that underflow can lose of a ratio.
UNDERFLOW = 2.0**-1000

IntArray = npt.NDArray[np.intp]


class Radius(NamedTuple):
    """`lower` <= spectral radius <= `upper`, and the states of the class with the largest lower bound, ascending.

    That class attains the radius, unless the bounds of another one overlap with its own.
    """

    lower: float
    upper: float
    states: IntArray


def spectral_radius(K: npt.ArrayLike | sparse.sparray, start: npt.ArrayLike | None = None) -> Radius:
    """Bounds on the spectral radius of a non-negative (S, S) matrix, dense or sparse, that hold in spite of rounding.

        min_i (K x)_i / x_i  <=  rho(K)  <=  max_i (K x)_i / x_i      for an irreducible K >= 0 and any x > 0

    The radius is the largest of those of the strongly connected classes; with `start` (S,), only of the states that
    its support leads to. A state without a loop that is a class of its own has radius 0; bounds of triangular matrices
    are equal and exact. x comes from power iteration on K + upper I, which no period disturbs, and for classes of up
    to 2000 states from Noda's inverse iteration; its exponents are kept apart, so that it cannot overflow or underflow.
    It stops where `upper` < 1 or `lower` > 1, which settles whether I + K + K^2 + ... is finite, where the bounds agree
    to 12 digits, or after a budget of about 2e9 products, which leaves bounds that are true and further apart.

    Raises InvalidArgument where K is not square, finite and non-negative.

    >>> spectral_radius([[0.5, 9.0], [0.0, 0.75]])
    Radius(lower=0.75, upper=0.75, states=array([1]))

    Source: Collatz (1942); Wielandt (1950); Noda (1971), Numer. Math. 17, 382-386.
    """
    edges = _edges(K)
    inside = np.arange(edges.shape[0])
    if start is not None:
        inside = np.flatnonzero(reached(edges, _support(start, edges.shape[0])))
        edges = edges[inside][:, inside]
    count, label = sparse.csgraph.connected_components(edges, directed=True, connection="strong")
    order = np.argsort(label, kind="stable")
    size = np.bincount(label, minlength=count)
    lower, upper = np.zeros(count), np.full(count, np.inf)
    alone = size == 1
    loops = np.zeros(count)
    loops[label] = edges.diagonal()
    lower[alone] = upper[alone] = loops[alone]
    if not alone.all():
        members = order[~alone[label[order]]]
        blocks = _Blocks(edges[members][:, members], size[~alone])
        floor = float(lower[alone].max(initial=0.0))
        lower[~alone], upper[~alone] = blocks.bounds(floor)
    best = np.lexsort((upper, lower))[-1]
    return Radius(float(lower.max()), float(upper.max()), frozen(inside[label == best]))


def _edges(K: npt.ArrayLike | sparse.sparray) -> sparse.csr_array:
    """K as CSR without stored zeros, checked."""
    square = sparse.csr_array(
        K if sparse.issparse(K) else np.atleast_2d(float_array("K", K, InvalidArgument)), dtype=float
    )
    if square.ndim != 2 or square.shape[0] != square.shape[1] or square.shape[0] == 0:
        raise InvalidArgument(f"K must have shape (S, S) with S >= 1 but has shape {np.shape(K)}")
    square.sum_duplicates()
    square.eliminate_zeros()
    bad = np.flatnonzero(~(np.isfinite(square.data) & (square.data > 0)))
    if bad.size:
        row = int(np.searchsorted(square.indptr, bad[0], side="right")) - 1
        place, value = f"K[{row}, {square.indices[bad[0]]}]", square.data[bad[0]].item()
        raise InvalidArgument(f"{place} must be finite and not be negative but is {value!r}")
    return square


def _support(start: npt.ArrayLike, n: int) -> BoolArray:
    law = float_array("start", start, InvalidArgument)
    if law.shape != (n,):
        raise InvalidArgument(f"start must have shape {(n,)} but has shape {law.shape}")
    if not (law > 0).any():
        raise InvalidArgument("start must be positive in at least one state but is so in none")
    return law > 0


class _Blocks:
    """The strongly connected classes of more than one state, one after the other on the diagonal.

    Held as 2^-scale D^-1 K D with D = diag(2^exponent) and one `scale` a class, which changes no radius but by the
    scale, so that the vectors x of all classes stay near 1.
    """

    def __init__(self, K: sparse.csr_array, size: IntArray) -> None:
        self.size = size
        self.first = np.concatenate(([0], np.cumsum(size)[:-1]))
        self.of = np.repeat(np.arange(size.size), size)
        inside = self.of[np.repeat(np.arange(K.shape[0]), np.diff(K.indptr))] == self.of[K.indices]
        K.data[~inside] = 0.0
        K.eliminate_zeros()
        self.products = np.diff(K.indptr)
        self.row = np.repeat(np.arange(K.shape[0]), self.products)
        self.entries, self.power = np.frexp(K.data)
        self.exponent = np.zeros(K.shape[0], np.int64)
        self.K = K
        self.slack = (self.products + 4) * EPS
        self.recentre(np.ones(K.shape[0]))

    def recentre(self, x: FloatArray) -> None:
        """Take x > 0 up to powers of 2 into D, and the largest entry of each class into its scale."""
        self.x, exponent = np.frexp(x)
        self.exponent += exponent
        power = self.power + self.exponent[self.K.indices] - self.exponent[self.row]
        self.scale = np.maximum.reduceat(np.maximum.reduceat(power, self.K.indptr[:-1]), self.first)
        self.K.data = np.ldexp(self.entries, power - self.scale[self.of[self.row]])

    def bounds(self, floor: float) -> tuple[FloatArray, FloatArray]:
        """Bounds of each class; `floor` is a lower bound on the radius of the whole matrix."""
        low, high = np.zeros(self.size.size), np.full(self.size.size, np.inf)
        tolerance = max(TOLERANCE, 4 * float(self.slack.max()))
        for sweep in range(max(SWEEPS, min(50_000, int(BUDGET / self.entries.size)))):
            ratio, lower, upper = self._quotients()
            low, high = np.maximum(low, self._in_units(lower, -np.inf)), np.minimum(high, self._in_units(upper, np.inf))
            top, most = max(floor, float(low.max())), float(high.max())
            if top > 1 or most < 1 or most - top <= tolerance * most:
                break
            self.x += self.x * ratio / upper[self.of]
            if sweep % SWEEPS == SWEEPS - 1:
                self.recentre(self.x)
                self._invert(np.flatnonzero((high > top) & (self.size <= DIRECT)))
        return low, high

    def _quotients(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(K x)_i / x_i, and bounds on the radius of each class, all in units of 2^scale."""
        ratio = self.K @ self.x / self.x
        lower = np.minimum.reduceat(ratio * (1 - self.slack) - UNDERFLOW, self.first)
        upper = np.maximum.reduceat(ratio * (1 + self.slack) + UNDERFLOW, self.first)
        return ratio, np.maximum(lower, 0.0), upper

    def _invert(self, classes: IntArray) -> None:
        """Noda's step x <- (upper I - K)^-1 x for some classes."""
        if not classes.size:
            return
        upper, x = self._quotients()[2], self.x.copy()
        for c in classes:
            part = slice(self.first[c], self.first[c] + self.size[c])
            try:
                z = np.linalg.solve(upper[c] * np.eye(self.size[c]) - self.K[part, part].toarray(), x[part])
            except np.linalg.LinAlgError:
                continue
            z = np.abs(z / np.abs(z).max())
            if np.isfinite(z).all() and z.all():
                x[part] = z
        self.recentre(x)

    def _in_units(self, bound: FloatArray, outwards: float) -> FloatArray:
        """2^scale times a bound, rounded outwards where that is not a normal number."""
        with np.errstate(over="ignore", under="ignore"):
            found = np.ldexp(bound, self.scale)
        return np.where((found < TINY) | (found == np.inf), np.nextafter(found, outwards), found)
