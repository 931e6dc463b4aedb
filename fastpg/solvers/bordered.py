"""Dense LU of a bordered system: the differences of the values and their level apart, at any discount."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import dgecon, dgetrf, dgetrs

from fastpg.chain import Chain
from fastpg.errors import SolveError
from fastpg.lazy import cached_property
from fastpg.solvers.differences import Estimate
from fastpg.solvers.lu import require_affordable, singular
from fastpg.validation import FloatArray

EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Bordered:
    """Dense LU for V = h + V(g), with h(g) = 0 for one state g in place of a column of its own.

        (I - discount P_pi) h + V(g) slack = r,    slack = (I - discount P_pi) 1

    `slack` is 1 - discount where the process goes on and 1 where it has ended. Scaled to a largest entry of 1 it is the
    border that replaces column g, the unknown being V(g) times that scale: the system of the relative values as the
    discount tends to 1, whose condition number does not grow with 1 / (1 - discount) where all states lead to one
    recurrent class. It grows as such chains come near to falling apart; see `BorderedFactorisation.condition`.

    Normwise backward stable; time O(S^3), that of LU, and memory 8 S^2 bytes. Sparse chains are made dense up to 5000
    states and refused beyond. Where chains may nearly fall apart, GTH keeps all digits.

    Source: Puterman (1994), section 8.2.1, for V = h + gain / (1 - discount); Meyer (1980) for the condition.
    """

    def factorise(self, chain: Chain) -> "BorderedFactorisation":
        """Factorise the bordered matrix, P_pi being the stored rows divided by their sums."""
        require_affordable(self, chain)
        system = chain.transition.toarray() if chain.is_sparse else np.array(chain.transition)
        total = system.sum(axis=1)
        slack = np.where(total > 0, chain.discount_complement, 1.0)
        g = int(system.sum(axis=0, where=(total > 0)[:, None]).argmax())
        system *= -(chain.discount / np.where(total > 0, total, 1.0))[:, None]
        # The diagonal is what leaves a state: 1 - discount P(s|s) without a subtraction.
        diagonal = np.einsum("ii->i", system)
        diagonal[:] = 0.0
        diagonal[:] = slack - system.sum(axis=1)
        scale = float(slack.max())
        system[:, g] = slack / scale
        norm = float(np.abs(system).sum(axis=1).max())
        # LAPACK reads columns first, so it is handed the transpose, without a copy.
        factors, pivots, info = dgetrf(system.T, overwrite_a=True)
        if info > 0:
            raise singular(chain)
        factorisation = BorderedFactorisation(factors, pivots, g, scale, norm)
        if factorisation.condition > 1 / EPS:
            raise SolveError(
                f"the bordered system has the condition number {factorisation.condition:.2g}, beyond float64: the "
                "chain nearly falls apart, or all but never ends; use solvers.GTH()"
            )
        return factorisation


@dataclass(frozen=True, eq=False, repr=False)
class BorderedFactorisation:
    """LU factors of the transposed bordered matrix, whose border replaces column `ground`."""

    factors: FloatArray
    pivots: npt.NDArray[np.int32]
    ground: int
    scale: float
    norm: float

    @cached_property
    def condition(self) -> float:
        """An estimate, from below, of the condition number of the bordered matrix in the maximum norm."""
        reciprocal = float(dgecon(self.factors, self.norm, norm="1")[0])
        return 1 / reciprocal if reciprocal > 0 else np.inf

    def solve(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi) x = b."""
        level, h = self._level_and_differences(b)
        return level + h

    @np.errstate(over="ignore", invalid="ignore")  # who asks looks for what is not finite
    def solve_transposed(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi)^T x = b."""
        right = np.array(b, dtype=np.float64)
        right[self.ground] = right.sum(axis=0) / self.scale
        return dgetrs(self.factors, self.pivots, right)[0]

    def solve_up_to_a_constant(self, b: FloatArray) -> tuple[Estimate, Estimate]:
        """x with (I - discount P_pi) x = b, and x - x(g), with errors in proportion to `condition`."""
        level, h = self._level_and_differences(b)
        size = np.full(h.shape, self.condition * max(np.abs(h).max(), abs(level) * self.scale))
        return Estimate(level + h, np.abs(level + h) + size / self.scale), Estimate(h, size)

    @np.errstate(over="ignore", invalid="ignore")
    def _level_and_differences(self, b: FloatArray) -> tuple[FloatArray, FloatArray]:
        x = dgetrs(self.factors, self.pivots, b, trans=1)[0]
        level = x[self.ground] / self.scale
        x[self.ground] = 0.0
        return level, x
