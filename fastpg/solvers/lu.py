"""Dense LU with partial pivoting (LAPACK getrf, getrs)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import dgetrf, dgetrs

from fastpg.chain import Chain
from fastpg.errors import InvalidArgument, SolveError
from fastpg.kernels.evaluation import resolvent
from fastpg.validation import FloatArray

# Sparse chains with more states than this are refused: 200 MB for a matrix.
LARGEST_SPARSE = 5_000


@dataclass(frozen=True)
class LU:
    """Dense LU. Normwise backward stable; time O(S^3), memory 8 S^2 bytes.

    The relative error grows like eps / (1 - discount): 6e-11 was seen at 1e-6, 2e-3 at 1e-14. Sparse chains are made
    dense up to 5000 states and refused beyond.
    """

    def factorise(self, chain: Chain) -> "LUFactorisation":
        """Factorise I - discount P_pi."""
        # LAPACK reads columns first, so it is handed the transpose, without a copy.
        factors, pivots, info = dgetrf(dense_system(self, chain).T, overwrite_a=True)
        if info > 0:
            raise singular(chain)
        return LUFactorisation(factors, pivots)


@dataclass(frozen=True, eq=False, repr=False)
class LUFactorisation:
    """LU factors of (I - discount P_pi)^T."""

    factors: FloatArray
    pivots: npt.NDArray[np.int32]

    def solve(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi) x = b."""
        return dgetrs(self.factors, self.pivots, b, 1)[0]

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi)^T x = b."""
        return dgetrs(self.factors, self.pivots, b)[0]


def dense_system(solver: object, chain: Chain) -> FloatArray:
    """I - discount P_pi (S, S) of a chain that a dense `solver` takes."""
    require_affordable(solver, chain)
    require_float_discount(chain)
    P = chain.transition.toarray() if chain.is_sparse else chain.transition
    system = np.empty(P.shape)
    resolvent(P, chain.discount, system)
    return system


def require_affordable(solver: object, chain: Chain) -> None:
    """Raise where a dense solver would make too large a sparse chain dense."""
    if chain.is_sparse and chain.n_states > LARGEST_SPARSE:
        raise InvalidArgument(
            f"{type(solver).__name__} is a dense solver and takes sparse chains of up to {LARGEST_SPARSE} states but "
            f"this one has {chain.n_states}; use SparseLU or Krylov, or store the transitions densely where memory "
            "allows"
        )


def require_float_discount(chain: Chain) -> None:
    """Raise where I - discount P_pi is singular because the discount is 1.0 in floats only."""
    if chain.needs_complement:
        raise SolveError(
            f"I - discount P_pi loses a discount_complement of {chain.discount_complement!r} in float64, where the "
            "discount is 1.0, and the process need not end; use solvers.GTH() where the chain is small enough, or a "
            "smaller discount"
        )


def singular(chain: Chain) -> SolveError:
    """The error for a system that has no inverse in float64."""
    return SolveError(
        f"I - discount P_pi is singular to float64 at discount {chain.discount!r} with {chain.n_states} states: "
        "the chance of ending is too small to represent"
    )
