"""(I - discount P_pi) x = b and its transpose: factorise once, solve for both.

A solver is a small object with `factorise(chain) -> Factorisation`; adding one changes no caller.
"""

from math import sqrt
from typing import Protocol

from fastpg.chain import Chain
from fastpg.validation import FloatArray

# Discounts nearer to 1 than this, and 1 itself, cost LU more than four of its digits.
NEAR_ONE = 1e-4
# Below this 1 - discount the values of a chain that never ends hide more than six digits of their differences. With
# gain and bias apart a Garnet of 2000 states kept all digits of d and 12 of the differences from 1e-6 to 1e-12.
HIDDEN = 1e-6
# Chains of so few states are solved to the last digits, which took a Garnet of 1000 18 ms on one core, by Krylov 1.2.
SMALL = 1000
# Chains whose communicating classes all hold at most a tenth of the states are solved class by class: ten classes of
# 10^4 states took 0.5 s, a hundred of 1000 0.5 s, 2000 of 50 0.2 s, by BiCGSTAB on the whole 2 s, 18 s and 2.4 s. To
# find that a Garnet of 10^5 states is not such a chain took 3 ms.
MANY = 10
# Well-mixing chains need 20 to 200 products by BiCGSTAB: Garnets with 20 successors 28 at discount 0.9 and 32 at 0.999,
# with 2 successors 171 at 0.99, a grid of 300 x 300 cells 114 at 0.9. That grid needs 2000 at 0.999, four times the
# time of sparse LU; a quarter of this budget tells.
FIRST_PRODUCTS = 250
# A product carries what a state is worth as far as a transition leads, and who wanders spends all but 1e-12 of its
# discounted time within some 20 / sqrt(1 - discount) steps of where it began: 63 at 0.9, where that grid took 57
# products for each of V and d, 632 at 0.999, where it took 1000.
WANDERED = 20.0
# Where so few transitions lead farther than 20 states, elimination of the others leads BiCGSTAB: rings of 10^5 states
# with moves within 20 and a share of long ones from 1e-4 to 0.1 then took 18 to 38 products at discounts of 0.999 and
# 0.9999, else 110 to 10,000, a product with it taking five times as long. Incomplete LU needed 20 to 110, and on moves
# within 20 in a plane, which need 220 without, a minute to be found.
FEW = 0.1
# Dense chains mix in a few steps or seldom: random laws over 2000 states took 8 and 10 products of 1 ms for V and d,
# dense LU 100 ms; over 400 states BiCGSTAB took 0.65 ms, LU 1.1 ms, over 300 as long as LU. A quarter of this budget
# tells a slow chain, at the price of 6% of LU at 2000 states and 30% at 500.
DENSE_PRODUCTS = 24
# Where it does not mix, LU in single precision leads BiCGSTAB to the same residual in 6 products: with ten blocks
# that are barely linked 118 ms at 2000 states, with LU 140, and 18.8 against 19.7 at 1000 (processor time).
# Dense chains of so few states are solved by LU, in 2 ms or less.
SMALL_DENSE = 500
# Dense chains with so many transitions from a state, or a share of all states, may be bands or grids. A ring of 2000
# states with 21 from each took 5 ms by banded LU of its few entries, dense LU 100 ms.
A_ROW, SHARE = 100, 1 / 16
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
    other dense chains                                Krylov, after 24 products LU, above 1000 states with SingleLU
    sparse, classes of up to 64 states                Substitution
    sparse, never ends, within 1e-6 of discount 1     GainBias, where there are more recurrent classes Components
    sparse, all moves within 20 states                Banded
    sparse, up to 1000 states                         Banded, SparseLU or LU, by structure (see `Direct`)
    sparse, classes of up to S/10 states              Components, each class by the solver for it
    sparse, a tenth of the transitions go farther     Krylov, preconditioned by Near
    sparse, far more than 250 steps across            the solver that `Direct` is
    other sparse chains                               Krylov, after 250 products the solver that `Direct` is
    ================================================  =====================================================

    All but Krylov eliminate with the diagonal that dominates as pivot: each entry of V for rewards >= 0, and of d,
    then has a relative error of at most a few S eps / (1 - discount), however small it is beside others (GTH: S eps).
    Krylov is right in norm; which signs of a gradient that leaves open, `Evaluation.error` says.

    GTH keeps its digits at any discount and is dense, so that larger sparse chains near 1 have other solvers and are
    checked (see `Evaluation`). Where the discount is 1.0 in floats and its complement is not 0, LU, SparseLU and Krylov
    do not read the complement: beside the chance to end it is one rounding, and where the process need not end they
    refuse.
    """
    small = chain.n_states <= SMALL
    if chain.discount_complement < NEAR_ONE and (small or not chain.is_sparse):
        return GTH()
    if not chain.is_sparse:
        return _choose_dense(chain)
    local = not chain.moves.far
    classes = communicating_classes(compressed(chain), CLASS if local else max(chain.n_states // MANY, CLASS))
    if classes is not None and classes.sizes.max() <= CLASS:
        return Substitution()
    if chain.discount_complement < HIDDEN and not small and (recurrent := recurrent_classes(chain)):
        return GainBias(fallback=Direct()) if recurrent == 1 and not chain.ended.any() else Components()
    if local:
        return Banded()
    if small:
        return Direct().choose(chain)
    if classes is not None:
        return Components()
    if chain.moves.far <= FEW:
        return Krylov(products=FIRST_PRODUCTS, fallback=Direct(), preconditioner=Near())
    wandered = WANDERED / sqrt(max(chain.discount_complement, NEAR_ONE))
    if min(chain.n_states / max(chain.moves.longest), wandered) > FIRST_PRODUCTS:
        return Direct().choose(chain)
    return Krylov(products=FIRST_PRODUCTS, fallback=Direct())


def _choose_dense(chain: Chain) -> Solver:
    S = chain.n_states
    if S <= SMALL_DENSE:
        return LU()
    if chain.has_few_transitions(int(S * min(A_ROW, S * SHARE))):
        direct = Direct().choose(chain)
        if isinstance(direct, Banded | SparseLU):
            return direct
    slow: Solver = LU()
    if S > SMALL:
        slow = Krylov(tolerance=LU_LIKE, products=DENSE_PRODUCTS, fallback=slow, preconditioner=SingleLU())
    return Krylov(tolerance=LU_LIKE, products=DENSE_PRODUCTS, fallback=slow)


from fastpg.solvers.banded import Banded, Near  # noqa: E402
from fastpg.solvers.bordered import Bordered  # noqa: E402
from fastpg.solvers.components import Components  # noqa: E402
from fastpg.solvers.differences import Estimate, KnowsDifferences, knows_differences  # noqa: E402
from fastpg.solvers.direct import Direct  # noqa: E402
from fastpg.solvers.gain_bias import GainBias  # noqa: E402
from fastpg.solvers.gth import GTH  # noqa: E402
from fastpg.solvers.krylov import Krylov  # noqa: E402
from fastpg.solvers.lu import LU  # noqa: E402
from fastpg.solvers.single import SingleLU  # noqa: E402
from fastpg.solvers.sparse_lu import SparseLU  # noqa: E402
from fastpg.solvers.substitution import CLASS, Substitution, communicating_classes, compressed, recurrent_classes  # noqa: E402
from fastpg.solvers.value_iteration import ValueIteration  # noqa: E402

__all__ = [
    "GTH",
    "LU",
    "Banded",
    "Bordered",
    "Components",
    "Direct",
    "Estimate",
    "Factorisation",
    "GainBias",
    "KnowsDifferences",
    "Krylov",
    "Near",
    "SingleLU",
    "Solver",
    "SparseLU",
    "Substitution",
    "ValueIteration",
    "choose",
    "knows_differences",
]
