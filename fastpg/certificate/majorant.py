"""Upper bounds on D b and D^T b for b >= 0, where D = (I - discount P_pi)^{-1} has no negative entry."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from fastpg.certificate.equations import UP, Equations
from fastpg.chain import Chain
from fastpg.lazy import cached_property
from fastpg.solvers import GTH, Factorisation, knows_differences
from fastpg.solvers.gth import TILE, GTHFactorisation
from fastpg.solvers.lu import LARGEST_SPARSE
from fastpg.validation import BoolArray, FloatArray, frozen

# Up to so many states the entrywise bound is used; GTH takes about 0.4 s there.
LARGEST = 2000
UNIT = 2.0**-53
# No product of two numbers of at least this size underflows.
SMALLEST = 2.0**-480
# What the products of one row lose where they underflow is nothing to this.
FLOOR = 2.0**-1016


class ArrivalBound(NamedTuple):
    """Bounds on D^T b: on each entry, and on their sum."""

    entries: FloatArray
    total: float


class ValueBound(NamedTuple):
    """Bounds on x = D rho for |rho| <= b: |x(s)|, |x(s) - x(g)| for one state g, and (1 - discount) |x(g)|."""

    entries: FloatArray
    differences: FloatArray
    drift: float


class Correction(NamedTuple):
    """x = D rho, nearly, each entry with its digits; and x = level + h, its differences with theirs."""

    x: FloatArray
    level: float
    h: FloatArray


class Majorant(Protocol):
    """Bounds on the solutions of the two systems for right sides of at most b >= 0, shape (S,), and a good solver.

    `relative` bounds the relative error of each entry of its solutions for right sides b >= 0, their rounding included.
    """

    @property
    def relative(self) -> float: ...

    def values(self, b: FloatArray) -> ValueBound:
        """At least D b."""

    def arrivals(self, b: FloatArray, mass: float = np.inf) -> ArrivalBound:
        """At least |D^T rho| for |rho| <= b with |sum of rho| <= mass."""

    def correction(self, rho: FloatArray) -> Correction:
        """D rho with as many digits in its differences as there are."""

    def arrivals_from(self, b: FloatArray) -> FloatArray:
        """D^T b for b >= 0."""

    def arrival_correction(self, rho: FloatArray, mass: float) -> FloatArray:
        """D^T rho, nearly, for a rho whose sum is known to be `mass`."""


@dataclass(frozen=True, eq=False)
class Entrywise:
    """Elimination without subtraction gives each entry of D b with a small relative error, so a little more bounds it.

    Let the off-diagonal entries of I - discount P_pi and its row sums change by at most a factor 1 +- e each. Every
    minor of it is a sum of positive products of at most S of them (the matrix-tree theorem), so each entry of D
    changes by at most a factor ((1 + e) / (1 - e))^S (Alfa, Xue & Ye 2002). An elimination step with rounding is an
    exact step followed by such a change of what is left: of at most (S + 4) u when states are eliminated one by one,
    and of at most (2 B^3 + 4 B + 2 S) u in tiles of B, whose triangles are inverted by sums of positive products. S
    steps, or S / B, and the rounding of P_pi and of the two substitutions add up to less than 16 (S min(S, B) + 2 S)^2
    u, provided nothing underflows, which `smallest` tells, and whether a product pi(a|s) P(k|s,a) may be lost.
    """

    factors: GTHFactorisation
    relative: float
    complement: float
    ended: BoolArray

    @np.errstate(over="ignore", invalid="ignore")
    def values(self, b: FloatArray) -> ValueBound:
        """(1 + e) GTH(b), and (1 + e) GTH(b + slack |x(g)|) for the system without g"""
        (entries, _), (_, differences) = self.factors.solve_up_to_a_constant(np.where(self.ended, b, _lifted(b)))
        entries, differences = (1.0 + self.relative) * entries, (1.0 + self.relative) ** 2 * differences
        return ValueBound(entries, differences, UP * self.complement * float(entries[self.factors.order[-1]]))

    @cached_property
    def _visits(self) -> FloatArray:
        """D^T 1_g for the state g that is eliminated last."""
        last = np.zeros(self.factors.order.size)
        last[self.factors.order[-1]] = 1.0
        return self.factors.solve_transposed(_lifted(last))

    @np.errstate(over="ignore", invalid="ignore")
    def arrivals(self, b: FloatArray, mass: float = np.inf) -> ArrivalBound:
        """(1 + e) GTH^T(b), or what D^T rho = x + (sum of rho - slack . x) D^T 1_g says, x solving without g."""
        up, b = 1.0 + self.relative, _lifted(b)
        entries = up * self.factors.solve_transposed(b)
        if np.isfinite(mass):
            x = up * self.factors.solve_transposed_without_last(b)
            lost = mass + float(self.factors.slack @ x)
            entries = np.fmin(entries, UP * (x + up * lost * self._visits))
        return ArrivalBound(entries, UP * float(entries.sum()))

    def correction(self, rho: FloatArray) -> Correction:
        """GTH, its differences from the state that is eliminated last."""
        (x, _), (differences, _) = self.factors.solve_up_to_a_constant(rho)
        return Correction(x, float(x[self.factors.order[-1]]), differences)

    def arrivals_from(self, b: FloatArray) -> FloatArray:
        """GTH^T"""
        return self.factors.solve_transposed(b)

    @np.errstate(over="ignore", invalid="ignore")  # a step that is not finite is not taken
    def arrival_correction(self, rho: FloatArray, mass: float) -> FloatArray:
        """GTH^T: x + (mass - slack . x) D^T 1_g"""
        x = self.factors.solve_transposed_without_last(rho)
        return x + (mass - float(self.factors.slack @ x)) * self._visits


@dataclass(frozen=True, eq=False)
class Normwise:
    """For t > 0 with w <= (I - discount P_pi) t and w > 0, D b <= t max(b / w), and D 1 <= t / min(w)."""

    t: FloatArray
    w: FloatArray
    factors: Factorisation
    relative: float = np.inf

    @np.errstate(over="ignore")  # a bound may be infinite
    def values(self, b: FloatArray) -> ValueBound:
        """t max(b / w)"""
        entries = UP * self.t * float((b / self.w).max())
        return ValueBound(entries, np.full(b.shape, np.inf), np.inf)

    @np.errstate(over="ignore")
    def arrivals(self, b: FloatArray, mass: float = np.inf) -> ArrivalBound:  # noqa: ARG002
        """sum (D^T b) = b . D 1 <= b . t / min(w)"""
        total = UP * float(b @ self.t / self.w.min())
        return ArrivalBound(np.full(b.shape, total), total)

    def correction(self, rho: FloatArray) -> Correction:
        """What the solver says, its level apart where it knows that."""
        if knows_differences(self.factors):
            (x, _), (h, _), *_ = self.factors.solve_up_to_a_constant(rho)
            return Correction(x, float(x[0] - h[0]), h)
        x = self.factors.solve(rho)
        return Correction(x, 0.0, x)

    def arrivals_from(self, b: FloatArray) -> FloatArray:
        """What the solver says."""
        return self.factors.solve_transposed(b)

    def arrival_correction(self, rho: FloatArray, mass: float) -> FloatArray:  # noqa: ARG002
        """What the solver says."""
        return self.factors.solve_transposed(rho)


def majorant(equations: Equations, chain: Chain, factors: Factorisation) -> Majorant:
    """The entrywise bound where a dense elimination is affordable, else one by norms, which may be infinite."""
    dense = not chain.is_sparse or chain.n_states <= min(LARGEST, LARGEST_SPARSE)
    if isinstance(factors, GTHFactorisation) or (dense and chain.n_states <= LARGEST):
        elimination = factors if isinstance(factors, GTHFactorisation) else GTH().factorise(chain)
        if elimination.smallest >= SMALLEST and not _may_lose_transitions(equations):
            S = chain.n_states
            of_reward = (2.0 * equations.mdp.n_actions + 8.0) * UNIT
            relative = 16.0 * UNIT * (S * (min(S, TILE) + 2.0)) ** 2 + of_reward
            return Entrywise(elimination, relative, chain.discount_complement, equations.ended)
    return normwise(equations, chain, factors)


def _may_lose_transitions(equations: Equations) -> bool:
    """Whether a transition that is possible has probability 0 in floats, by underflow."""
    P = equations.rows[0]
    pi = equations.policy.probabilities
    return bool(pi.min(initial=np.inf, where=pi > 0) * P.min(initial=np.inf, where=P > 0) == 0)


def normwise(equations: Equations, chain: Chain, factors: Factorisation) -> Normwise:
    """Bounds from t = D 1, verified, or from t = 1 / (1 - discount)."""
    ones = np.ones(chain.n_states)
    t = np.asarray(factors.solve(ones))
    if np.isfinite(t).all() and (t > 0).all():
        image = equations.residual(equations.gains(equations.no_reward, np.stack([t, np.zeros(t.size)])))
        w = np.where(equations.ended, t, -image.x[0] - UP * image.bound - 4.0 * UNIT * np.abs(image.x[0]))
        if (w > 0).all():
            return Normwise(frozen(t), frozen(w), factors)
    if chain.discount_complement > 0:
        slack = np.where(equations.ended, 1.0, chain.discount_complement * (1.0 - 4.0 * UNIT))
        return Normwise(frozen(ones), frozen(slack), factors)
    return Normwise(frozen(np.full(t.shape, np.inf)), frozen(ones), factors)


def _lifted(b: FloatArray) -> FloatArray:
    """At least b, and what underflows in two substitutions is nothing to it: inverses of tiles have a diagonal >= 1."""
    return np.maximum(b, FLOOR)
