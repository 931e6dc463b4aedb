"""(I - discount P_pi) x = b and its transpose: factorise once, solve for both.

A solver is a small object with `factorise(chain) -> Factorisation`; adding one changes no caller.
"""

from typing import Protocol

from fastpg.chain import Chain
from fastpg.validation import FloatArray

# Discounts nearer to 1 than this, and 1 itself, cost LU more than four of its digits.
NEAR_ONE = 1e-4
# Sparse chains of so few states are solved densely where that is more accurate.
DENSE_ANYWAY = 1000


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
    """The solver for a chain: sparse LU where the model is sparse, dense LU otherwise, GTH near discount 1.

    The relative error of LU grows like eps / (1 - discount): 6e-11 was seen at 1e-6, 2e-3 at 1e-14. GTH has none of
    it and is dense, so that larger sparse chains stay with sparse LU and are checked (see `Evaluation`). Where the
    discount is 1.0 in floats and its complement is not 0, GTH is the only one to read the complement.
    """
    dense = not chain.is_sparse or chain.n_states <= DENSE_ANYWAY
    if chain.rounds_to_undiscounted or (dense and chain.discount_complement < NEAR_ONE):
        return GTH()
    if not chain.is_sparse:
        return LU()
    if acyclic_order(compressed(chain)).size == chain.n_states:
        return Substitution()
    return SparseLU() if chain.n_states <= DENSE_ANYWAY else Krylov()


from fastpg.solvers.banded import Banded  # noqa: E402
from fastpg.solvers.differences import Estimate, KnowsDifferences  # noqa: E402
from fastpg.solvers.gth import GTH  # noqa: E402
from fastpg.solvers.krylov import Krylov  # noqa: E402
from fastpg.solvers.lu import LU  # noqa: E402
from fastpg.solvers.sparse_lu import SparseLU  # noqa: E402
from fastpg.solvers.substitution import Substitution, acyclic_order, compressed  # noqa: E402

__all__ = [
    "GTH",
    "LU",
    "Banded",
    "Estimate",
    "Factorisation",
    "KnowsDifferences",
    "Krylov",
    "Solver",
    "SparseLU",
    "Substitution",
    "choose",
]
