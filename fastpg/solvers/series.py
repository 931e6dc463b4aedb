"""The Neumann series in single precision: what corrects a solution where a chain mixes in a few steps."""

from typing import NamedTuple

import numpy as np

from fastpg.kernels import krylov as kernels
from fastpg.kernels.sparse import BLOCK
from fastpg.solvers.rows import Each, Rows
from fastpg.validation import FloatArray, frozen

# What float32 leaves of a residual.
SINGLE = 1e-6
# A series whose terms shrink by less than this in a step is given up, once it has so many terms: BiCGSTAB then needs
# fewer products, if twice as long ones. The first terms tell little.
SHRINKS = 0.7
TERMS = 5


class Series(NamedTuple):
    """A correction of x, the products that it took, and whether its terms shrink fast."""

    correction: FloatArray
    products: int
    converges: bool


def series(rows: Rows, discount: float, rho: FloatArray, goal: float, centred: bool, most: int, each: Each) -> Series:
    """sum_k (discount M)^k rho, M being the matrix of `rows`, until what is left of the residual is `goal` times rho.

    Where it is `centred` the mean of each term is left out: of P_pi, if no process ends, it is as slow as the discount
    and known without an iteration. Residuals of a solution that is corrected are another's to compute, in float64.
    """
    unit, S = float(np.abs(rho).max()), rho.size
    correction = np.zeros(S)
    if not 0 < unit < np.inf:
        return Series(correction, 0, False)
    term, after, total = (rho / unit).astype(np.float32), np.empty(S, np.float32), np.zeros(S, np.float32)
    sums, sizes, mean = np.empty((-(-S // BLOCK), 2)), [float(np.abs(term).sum(dtype=np.float64))], 0.0
    shrinks, converges = 1.0, True
    # The last term is added without a product, so that one is left out.
    while sizes[-1] * shrinks > max(goal, SINGLE) * sizes[0] and len(sizes) <= most and converges:
        given = rows.single, rows.indices, rows.first, discount, mean, frozen(term[:])
        each(lambda piece, given=given, after=after: kernels.next_term(*given, *piece, after, total, sums), rows.pieces)
        term, after = after, term
        of_all, size = sums.sum(axis=0).tolist()
        mean = of_all / S if centred else 0.0
        sizes.append(size)
        shrinks = size / sizes[-2] if sizes[-2] else 0.0
        converges = len(sizes) <= TERMS or size <= SHRINKS**2 * sizes[-3]
    correction += total
    correction += term
    correction -= mean
    correction *= unit
    return Series(correction, len(sizes) - 1, converges)
