"""The Neumann series in single precision: what corrects a solution where a chain mixes in a few steps."""

from typing import NamedTuple

import numpy as np

from fastpg.kernels import krylov as kernels
from fastpg.kernels.sparse import BLOCK
from fastpg.parallel import spread
from fastpg.solvers.rows import Piece, Rows, Singles
from fastpg.validation import FloatArray, frozen

# What float32 leaves of a residual.
SINGLE = 4e-7
# A series whose terms shrink by less than this in a step is given up, once it has so many of them. With 20,000 states
# on one core, Garnets with 6 to 2 successors, whose terms shrink by 0.56 to 0.81, took 0.8 to 1.0 of the time of
# BiCGSTAB, walks on random graphs of degree 20, 12 and 8, by 0.44, 0.55 and 0.66, 1.3, 1.5 and 1.5 of it.
SHRINKS = 0.6
TERMS = 4


class Series(NamedTuple):
    """A correction of x, the products that it took, and whether its terms shrink fast."""

    correction: FloatArray
    products: int
    converges: bool


class Terms:
    """(discount P)^k rho or (discount P^T)^k rho for k = 0, 1, ... and the sum of those before, in float32.

    Where it is `centred` each term is less its mean. It is for P_pi that 1 is an eigenvector, if no process ends: what
    a mean adds is known, and as slow as the discount to fade.
    """

    def __init__(self, rows: Rows, discount: float, rho: Singles, transposed: bool, centred: bool) -> None:
        self.rows, self.discount, self.transposed, self.centred = rows, discount, transposed, centred
        S = rho.size
        self.last, self.after, self.total, self.mean = rho, np.empty(S, np.float32), np.zeros(S, np.float32), 0.0
        self.sums = np.empty((-(-S // BLOCK), 2))
        self.flows = np.empty((len(rows.pieces) if transposed else 0, S), np.float32)

    def advance(self) -> float:
        """Add the last term to the sum and compute the one after; the sum of absolute values of that."""
        (_, indices, first), pieces, given = self.rows.arrays, self.rows.pieces, frozen(self.last[:])
        P = self.rows.single, indices, first, self.discount

        def gather(piece: Piece) -> None:
            kernels.next_term(*P, self.mean, given, *piece, self.after, self.total, self.sums)

        def scatter(piece: Piece) -> None:
            kernels.flows(*P, given, *piece, self.flows[pieces.index(piece)])

        def collect(piece: Piece) -> None:
            kernels.next_term_transposed(self.flows, given, *piece, self.after, self.total, self.sums)

        for work in (scatter, collect) if self.transposed else (gather,):
            spread(work, pieces, given.size if work is collect else self.rows.data.size)
        self.last, self.after = self.after, self.last
        of_all, size = self.sums.sum(axis=0).tolist()
        self.mean = of_all / self.last.size if self.centred else 0.0
        return float(size)


def series(
    rows: Rows, discount: float, rho: FloatArray, goal: float, transposed: bool, endless: bool, most: int
) -> Series:
    """What to add to x, whose residual is rho, until `goal` times that is left or `most` products are used.

    Where the process is `endless` rho is known to be without its slow part: of mean 0, or for the transpose of sum 0.
    The true residual is another's to compute, in float64.
    """
    unit = float(np.abs(rho).max())
    if not 0 < unit < np.inf:
        return Series(np.zeros(rho.size), 0, False)
    terms = Terms(rows, discount, (rho / unit).astype(np.float32), transposed, endless and not transposed)
    sizes = [float(np.abs(terms.last).sum(dtype=np.float64))]
    shrinks, converges = 1.0, True
    # The last term is added without a product, so that one is left out.
    while converges and sizes[-1] * shrinks > max(goal, SINGLE) * sizes[0] and len(sizes) <= most:
        sizes.append(terms.advance())
        shrinks = sizes[-1] / sizes[-2] if sizes[-2] else 0.0
        converges = len(sizes) <= TERMS or sizes[-1] <= SHRINKS**2 * sizes[-3]
    correction = (terms.total.astype(np.float64) + terms.last - terms.mean) * unit
    if endless and transposed:
        correction -= correction.mean()
    return Series(correction, len(sizes) - 1, converges)
