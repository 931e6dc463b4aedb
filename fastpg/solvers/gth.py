"""Elimination without subtraction (Grassmann, Taksar & Heyman): full precision however close to 1 the discount is."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastpg.chain import Chain
from fastpg.kernels.gth import eliminate
from fastpg.lazy import cached_property
from fastpg.solvers.differences import Estimate
from fastpg.solvers.lu import require_affordable, singular
from fastpg.validation import FloatArray, frozen

# States in a tile: products of tiles stay in the processor's cache and are too small for BLAS to start threads.
TILE = 72


@dataclass(frozen=True)
class GTH:
    """Dense elimination that only adds, multiplies and divides numbers that are not negative.

    Rows of P_pi sum to 1, so the diagonal of I - discount P_pi is a row sum of flows: the transitions to other states
    and 1 - discount. Pivots are computed as such sums, never by a subtraction, and P_pi(s,s) is not read. For b >= 0
    each entry of the solution then has a small relative error, whatever the condition number; a signed b is split.

    Time O(S^3), on one thread about 1.5 to 2 times that of LU, and memory 8 S^2 bytes as LU. Sparse chains are made
    dense up to 5000 states and refused beyond.

    For rewards >= 0 each entry of V, and always each entry of d, was right to 12 ulp in every chain that was measured:
    S up to 1000, 1 - discount from 0.1 to 1e-300. At 1e-9 the gradients of a random model, and of one whose two halves
    meet once in 1e9 steps, were right to 5e-16, and to 8e-8 with LU.

    Source: Grassmann, Taksar & Heyman (1985); O'Cinneide (1993) and Alfa, Xue & Ye (2002) for the entrywise error.
    """

    def factorise(self, chain: Chain) -> "GTHFactorisation":
        """Factorise I - discount P_pi by tiles, P_pi being the stored rows divided by their sums."""
        require_affordable(self, chain)
        S = chain.n_states
        order, tiles, slack = _tiled(chain)
        m, _, B, _ = tiles.shape
        leaving = np.ones((m, B, 1))
        leaving.reshape(-1)[-S:] = slack[order]
        inverses = np.empty((m, 2, B, B))
        for p in range(m):
            for k in range(p):
                tiles[p, p:] += tiles[p, k] @ tiles[k, p:]
                tiles[p + 1 :, p] += tiles[p + 1 :, k] @ tiles[k, p]
                leaving[p] += tiles[p, k] @ leaving[k]
            out_of_tile = leaving[p, :, 0] + tiles[p, p + 1 :].sum(axis=(0, 2))
            eliminate(frozen(tiles[p, p]), frozen(out_of_tile), inverses[p])
            if not np.isfinite(inverses[p]).all():
                raise singular(chain)
            lower, upper = inverses[p]
            tiles[p, p + 1 :] = lower @ tiles[p, p + 1 :]
            tiles[p + 1 :, p] = tiles[p + 1 :, p] @ upper
            leaving[p] = lower @ leaving[p]
        return GTHFactorisation(order, tiles, inverses[:, 0], inverses[:, 1], slack, leaving)


class Parts(NamedTuple):
    """x = positive - negative, both entrywise accurate and not negative: positive + negative is what cancels."""

    positive: FloatArray
    negative: FloatArray


@dataclass(frozen=True, eq=False, repr=False)
class GTHFactorisation:
    """L U = I - discount P_pi in m x m tiles of B x B, the states taken in `order`.

    `tiles` (m, m, B, B) holds -L below and -U above the diagonal; `lower` and `upper` (m, B, B) are the inverses of
    the diagonal tiles; `slack` (S,) holds the row sums of I - discount P_pi and `leaving` (m, B, 1) those of U. None of
    these has a negative entry.
    """

    order: npt.NDArray[np.intp]
    tiles: FloatArray
    lower: FloatArray
    upper: FloatArray
    slack: FloatArray
    leaving: FloatArray

    @cached_property
    def smallest(self) -> float:
        """The smallest number that is not 0 in the factors: far above the smallest float, nothing has underflowed.

        Slack that each state has of its own is left out: what underflows beside it is nothing to it.
        """
        parts = [self.tiles, self.lower, self.upper]
        if self.slack.min() < 2.0**-1000:
            parts.append(self.leaving)
        return min(float(np.min(x, where=x > 0, initial=np.inf)) for x in parts)

    def solve(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi) x = b; for b >= 0 each entry is right to a few S ulp of itself."""
        return self._difference(b, transposed=False)

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi)^T x = b; for b >= 0 each entry is right to a few S ulp of itself."""
        return self._difference(b, transposed=True)

    @np.errstate(over="ignore", invalid="ignore")
    def _difference(self, b: FloatArray, *, transposed: bool) -> FloatArray:
        positive, negative = self.solve_parts(b, transposed=transposed)
        return positive - negative

    @np.errstate(over="ignore", invalid="ignore")  # who asks looks for what is not finite
    def solve_parts(self, b: FloatArray, *, transposed: bool = False) -> Parts:
        """The solutions for max(b, 0) and max(-b, 0), whose difference solves for b.

        A relative error e of both is an error of at most e (positive + negative) of the difference.
        """
        sides = np.stack([np.maximum(b, 0.0), np.maximum(-b, 0.0)], axis=-1).reshape(len(b), -1)
        x = self._solve(sides, transposed=transposed).reshape(*b.shape, 2)
        return Parts(x[..., 0], x[..., 1])

    @np.errstate(over="ignore", invalid="ignore")
    def solve_up_to_a_constant(self, b: FloatArray) -> tuple[Estimate, Estimate]:
        """x with (I - discount P_pi) x = b, and x - x(g) for the state g that is eliminated last; b is (S,).

        Near discount 1, x may be nearly constant and far larger than its differences. With h = x - x(g),

            ((I - discount P_pi) h)(s) = b(s) - x(g) slack(s) for s != g,    h(g) = 0,

        the system of the chain that ends in g, well conditioned at any discount where g is reached soon. Which of the
        two has the smaller error in a state is read from `size`.
        """
        positive, negative = self.solve_parts(b)
        x, size, g = positive - negative, positive + negative, self.order[-1]
        right = b - x[g] * self.slack
        sides = np.stack([np.maximum(right, 0.0), np.maximum(-right, 0.0), np.abs(b) + size[g] * self.slack], axis=1)
        rise, fall, relative_size = self._solve(sides, grounded=True).T
        return Estimate(x, size), Estimate(rise - fall, relative_size)

    @np.errstate(over="ignore", invalid="ignore")
    def solve_transposed_without_last(self, b: FloatArray) -> FloatArray:
        """x (S,) with ((I - discount P_pi)^T x)(s) = b(s) for s != g, and x(g) = 0 where g is eliminated last."""
        sides = np.stack([np.maximum(b, 0.0), np.maximum(-b, 0.0)], axis=1)
        positive, negative = self._solve(sides, transposed=True, grounded=True).T
        return positive - negative

    def _solve(self, b: FloatArray, *, transposed: bool = False, grounded: bool = False) -> FloatArray:
        """The solution for b >= 0, shape (S, n), by forward and back substitution over tiles.

        `grounded` holds the solution at 0 in the last state, whose equation is left out.
        """
        tiles, first, second = self.tiles, self.lower, self.upper
        if transposed:
            tiles, first, second = tiles.transpose(1, 0, 3, 2), _transposed(second), _transposed(first)
        m, B, _ = first.shape
        x = np.zeros((m, B, b.shape[1]))
        x.reshape(m * B, -1)[-len(b) :] = b[self.order]
        for p in range(m):
            x[p] = first[p] @ (x[p] + (tiles[p, :p] @ x[:p]).sum(axis=0))
        if grounded:
            x[-1, -1] = 0.0
        for p in reversed(range(m)):
            x[p] = second[p] @ (x[p] + (tiles[p, p + 1 :] @ x[p + 1 :]).sum(axis=0))
        solution = np.empty(b.shape)
        solution[self.order] = x.reshape(m * B, -1)[-len(b) :]
        return solution


def _tiled(chain: Chain) -> tuple[npt.NDArray[np.intp], FloatArray, FloatArray]:
    """The order of the states, discount P_pi in tiles (m, m, B, B), and the row sums of I - discount P_pi (S,).

    States where the process has ended come first, so that elimination turns the flow to them into slack of the
    others: at discount 1 it is all that keeps their pivots above 0. The first tile is filled up with rows of zeros.
    """
    P = chain.transition.toarray() if sparse.issparse(chain.transition) else chain.transition
    S = chain.n_states
    total = P.sum(axis=1)
    going_on = total > 0
    order = np.argsort(going_on, kind="stable")
    if not going_on.all():
        P = P[np.ix_(order, order)]
    scale = (chain.discount / np.where(going_on, total, 1.0))[order, None]
    m = -(-S // TILE)
    B = -(-S // m)
    extra = m * B - S  # fewer than B
    tiles = np.empty((m, m, B, B))
    for p in range(m):
        rows = slice(max(p * B - extra, 0), (p + 1) * B - extra)
        strip = np.zeros((B, m * B))
        np.multiply(P[rows], scale[rows], out=strip[rows.start - rows.stop :, extra:])
        tiles[p] = strip.reshape(B, m, B).swapaxes(0, 1)
    return order, tiles, np.where(going_on, chain.discount_complement, 1.0)


def _transposed(tiles: FloatArray) -> FloatArray:
    return tiles.transpose(0, 2, 1)
