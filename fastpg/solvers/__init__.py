"""(I - discount P_pi) x = b and its transpose: factorise once, solve for both.

A solver is a small object with `factorise(chain) -> Factorisation`; adding one changes no caller.
"""

from typing import Protocol

from fastpg.chain import Chain
from fastpg.validation import FloatArray


class Factorisation(Protocol):
    """What a solver makes of one chain."""

    def solve(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi) x = b; `b` is (S,) or (S, m)."""

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi)^T x = b; `b` is (S,) or (S, m)."""


class Solver(Protocol):
    """How to solve the linear systems of a chain."""

    def factorise(self, chain: Chain) -> Factorisation:
        """Factorise I - discount P_pi; SolveError where it is singular."""


def choose(chain: Chain) -> Solver:
    """The solver for a chain: sparse LU where the model is sparse, dense LU otherwise.

    Where the discount is 1.0 in floats and its complement is not 0, GTH: the others read the discount alone.
    """
    if chain.rounds_to_undiscounted:
        return GTH()
    return SparseLU() if chain.is_sparse else LU()


from fastpg.solvers.differences import Estimate, KnowsDifferences  # noqa: E402
from fastpg.solvers.gth import GTH  # noqa: E402
from fastpg.solvers.lu import LU  # noqa: E402
from fastpg.solvers.sparse_lu import SparseLU  # noqa: E402

__all__ = ["GTH", "LU", "Estimate", "Factorisation", "KnowsDifferences", "Solver", "SparseLU", "choose"]
