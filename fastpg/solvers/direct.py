"""The direct solver that the structure of a sparse chain suggests."""

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

from fastpg.chain import Chain
from fastpg.solvers.banded import Banded, narrowest
from fastpg.solvers.krylov import Krylov
from fastpg.solvers.lu import LU
from fastpg.solvers.sparse_lu import SparseLU
from fastpg.solvers.value_iteration import ValueIteration

if TYPE_CHECKING:
    from fastpg.solvers import Factorisation, Solver

# Bands up to this width: at 10^5 states with 20 successors within w, LAPACK's banded LU took 0.24 s at w = 30 and
# 0.37 s at w = 50, sparse LU 0.83 s and 1.1 s; from w = 100 on the two are close, and sparse LU needs less memory.
NARROW = 50
# Planar graphs of S states have bands of about sqrt(S) and little fill-in: a grid of 1000 x 1000 cells took 12 s and
# 2 GB by sparse LU. Random graphs have bands of nearly S and fill in: 3000 states with 20 successors took 1.1 s, 10^4
# take minutes.
PLANAR = 4.0
# What is left to BiCGSTAB: 10^5 states that move within 1, 3 or 20 cells in a plane, or 1 or 3 in space, took 210 to
# 3700 products for each of V and d, 0.3 to 3.3 s, at discounts of 0.999 and 0.9999; with incomplete LU 90 to 1040
# products and in each case longer.
# Dense LU of 3000 states took 0.2 s and 72 MB.
LARGEST_DENSE = 3000
# BiCGSTAB gives up after a quarter of these where they promise nothing, or earlier where restarts do not help: of 8000
# states in ten blocks that are left with a chance of 1e-6, at 1 - discount = 1e-6, it found V and d of five such chains
# but one V in 0.03 to 0.25 s, value iteration all in 0.02 to 0.04 s (processor time). On grids in space value iteration
# took as many products and two to three times as long: it comes last.
PRODUCTS = 40_000


@dataclass(frozen=True)
class Direct:
    """Banded LU, sparse LU or dense LU where its cost is small or the chain is; else BiCGSTAB without a small budget,
    and where that fails value iteration, which remembers the directions in which a chain is slow.

    All by the width w of the band that reverse Cuthill-McKee leaves (0.2 s for a grid of 1000 x 1000 states, 2.3 s for
    a random graph of 10^6).
    """

    def factorise(self, chain: Chain) -> "Factorisation":
        """Factorise by the solver that is chosen."""
        return self.choose(chain).factorise(chain)

    def choose(self, chain: Chain) -> "Solver":
        """By width of the band and number of states."""
        _, kl, ku = narrowest(chain)
        w = max(kl, ku)
        if w <= NARROW:
            return Banded()
        if w <= PLANAR * sqrt(chain.n_states):
            return SparseLU()
        if chain.n_states <= LARGEST_DENSE:
            return LU()
        return Krylov(products=PRODUCTS, fallback=ValueIteration())
