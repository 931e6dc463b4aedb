"""(I - discount P_pi) x = b and its transpose: factorise once, solve for both.

A solver is a small object with `factorise(chain) -> Factorisation`; adding one changes no caller.
"""

from typing import Protocol

from fastpg.chain import Chain
from fastpg.validation import FloatArray

# Discounts nearer to 1 than this, and 1 itself, cost LU more than four of its digits.
NEAR_ONE = 1e-4
# Chains of so few states are solved to the last digits, which takes 10 ms or less.
SMALL = 1000
# A band of so many diagonals to either side is factorised at once: for w = 20 and 10^5 states banded LU took 0.2 s, as
# 200 products do, and no chain that moves so little mixes soon.
LOCAL = 20
# Well-mixing chains need 20 to 200 products: Garnets with 20 successors 28 at discount 0.9 and 32 at 0.999, with 2
# successors 171 at 0.99, a grid of 300 x 300 cells 114 at 0.9. That grid needs 2000 at 0.999, four times the time of
# sparse LU; a quarter of this budget tells.
FIRST_PRODUCTS = 250
# Dense chains mix in a few steps or seldom: random laws over 2000 states took 8 and 10 products of 1 ms for V and d,
# dense LU 100 ms; over 400 states BiCGSTAB took 0.65 ms, LU 1.1 ms, over 300 as long as LU. A quarter of this budget
# tells a slow chain, at the price of 6% of LU at 2000 states and 30% at 500.
DENSE_PRODUCTS = 24
# Dense chains of so few states are solved by LU, in 2 ms or less.
SMALL_DENSE = 500
# Dense chains with so many transitions from a state, or a share of all states, may be bands or grids. A ring of 2000
# states with 21 from each took 5 ms by banded LU of its few entries, dense LU 100 ms.
FEW, SHARE = 100, 1 / 16
# What LU would be right to on such a chain.
LU_LIKE = 1e-14


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
    """The solver for a chain, by storage, discount, size and structure.

    ================================================  =====================================================
    dense, or sparse with up to 1000 states           GTH within 1e-4 of discount 1
    dense, up to 500 states                           LU
    dense, few transitions in a narrow band or grid   Banded or SparseLU (see `Direct`)
    other dense chains                                Krylov, after 24 products LU
    sparse, without cycles                            Substitution
    sparse, up to 1000 states                         Banded, SparseLU or LU, by structure (see `Direct`)
    sparse, all moves within 20 states                Banded
    other sparse chains                               Krylov, after 250 products the solver that `Direct` is
    ================================================  =====================================================

    All but Krylov eliminate with the diagonal that dominates as pivot: each entry of V for rewards >= 0, and of d,
    then has a relative error of at most a few S eps / (1 - discount), however small it is beside others (GTH: S eps).
    Krylov is right in norm; which signs of a gradient that leaves open, `Evaluation.error` says.

    The relative error of LU grows like eps / (1 - discount): 6e-11 was seen at 1e-6, 2e-3 at 1e-14. GTH has none of
    it and is dense, so that larger sparse chains have other solvers and are checked (see `Evaluation`). Where the
    discount is 1.0 in floats and its complement is not 0, only GTH and Substitution read the complement.
    """
    small = chain.n_states <= SMALL
    if chain.discount_complement < NEAR_ONE and (small or not chain.is_sparse):
        return GTH()
    if not chain.is_sparse:
        return _choose_dense(chain)
    if acyclic_order(compressed(chain)).size == chain.n_states:
        return Substitution()
    if chain.rounds_to_undiscounted:
        return GTH()
    if small:
        return Direct().choose(chain)
    band = own_band(chain.transition)
    return Banded() if max(band.lower, band.upper) <= LOCAL else Krylov(products=FIRST_PRODUCTS, fallback=Direct())


def _choose_dense(chain: Chain) -> Solver:
    S = chain.n_states
    if S <= SMALL_DENSE:
        return LU()
    if chain.has_few_transitions(int(S * min(FEW, S * SHARE))):
        direct = Direct().choose(chain)
        if isinstance(direct, Banded | SparseLU):
            return direct
    return Krylov(tolerance=LU_LIKE, products=DENSE_PRODUCTS, fallback=LU())


from fastpg.solvers.banded import Banded, own_band  # noqa: E402
from fastpg.solvers.bordered import Bordered  # noqa: E402
from fastpg.solvers.differences import Estimate, KnowsDifferences, knows_differences  # noqa: E402
from fastpg.solvers.direct import Direct  # noqa: E402
from fastpg.solvers.gth import GTH  # noqa: E402
from fastpg.solvers.krylov import Krylov  # noqa: E402
from fastpg.solvers.lu import LU  # noqa: E402
from fastpg.solvers.sparse_lu import SparseLU  # noqa: E402
from fastpg.solvers.substitution import Substitution, acyclic_order, compressed  # noqa: E402

__all__ = [
    "GTH",
    "LU",
    "Banded",
    "Bordered",
    "Direct",
    "Estimate",
    "Factorisation",
    "KnowsDifferences",
    "Krylov",
    "Solver",
    "SparseLU",
    "Substitution",
    "choose",
    "knows_differences",
]
