"""A Neumann series or BiCGSTAB, stopped on a bound of the error; a direct solver takes over where the budget ends."""

from dataclasses import dataclass
from math import frexp, isfinite, sqrt
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from scipy import sparse

from fastpg.chain import Chain
from fastpg.errors import SolveError
from fastpg.kernels import krylov as kernels
from fastpg.lazy import cached_property
from fastpg.solvers.columns import by_columns
from fastpg.solvers.lu import require_float_discount
from fastpg.solvers.rows import Rows
from fastpg.solvers.series import series
from fastpg.validation import FloatArray, frozen, positive_integer, real_between, require_solver

if TYPE_CHECKING:
    from fastpg.solvers import Factorisation, Solver

UNIT = 2.0**-53
# Bounds are sums of floats, computed with a relative error far below this.
UP = 1.001
# A solution of which no more than this is certain, relative to its size, is refused.
WORTHLESS = 1e-6
# Below this 1 - discount the time to the end is computed where the process can end.
SLOW = 1e-3
# Rounding of the recursive residual in one product, relative to the first: a slow chain let it fall by 1e-12 in 2600
# products and no further, and then it grew.
DRIFT = 1e-15
# An iteration is begun anew after so many products, and a third of those before, without a smaller residual.
PATIENCE = 200
# Products of an iteration of BiCGSTAB and of the check after it.
CYCLE = 3
# Chains of so few states are left to BiCGSTAB, which is exact after as many steps.
FEW_STATES = 1000
# So many restarts that do not halve the residual are the end of it.
UNLUCKY = 3


@dataclass(frozen=True)
class Krylov:
    """Iteration with products by P_pi: as fast as the chain mixes, whatever the number of states; stores no factors.

    An iterate x is a solution only when its own residual rho = b - (I - discount P_pi) x, computed anew, proves it:

        max |x - exact|  <= max |rho| / (1 - discount)           of (I - discount P_pi)   x = b
        sum |x - exact|  <= sum |rho| / (1 - discount)           of (I - discount P_pi)^T x = b

    is at most `tolerance` times the largest |x|, or the sum of |x|, or else as small as the rounding of rho lets it
    be. Where the process can end, at discount 1 or nearly, t = D 1 takes the place of 1 / (1 - discount), its image
    (I - discount P_pi) t > 0 being verified. After `products` of P_pi with a vector, or a quarter of them where that
    promises nothing, `fallback` takes over; without one it is a SolveError.

    Where more than 1000 states mix in a few steps, a Neumann series in float32 comes first: x is corrected by
    sum_k discount^k P_pi^k rho, without the constant that fades no sooner than the discount, until rho is as small as
    it should be. A series whose terms do not shrink fast is dropped.

    A `preconditioner` is a solver for a chain nearby, whose solutions are the directions to search: whatever it does,
    residuals remain what is stopped on.

    Well-mixing chains need 20 to 200 products. Moves within 1 to 20 cells in a plane or in space, S = 100,000, took 210
    to 3700 for each of V and d at discounts of 0.999 and 0.9999; with incomplete LU fewer, and longer.

    Source: van der Vorst (1992) for BiCGSTAB, here with a random shadow residual: the usual one, b, breaks down on
    the transposed system from a uniform start, where it spans an invariant subspace.
    """

    tolerance: float = 1e-12
    products: int = 10_000
    fallback: "Solver | None" = None
    preconditioner: "Solver | None" = None
    method: ClassVar[str] = "BiCGSTAB"

    def __post_init__(self) -> None:
        real_between("tolerance", self.tolerance, 0.0, 1.0)
        positive_integer("products", self.products)
        require_solver("fallback", self.fallback)
        require_solver("preconditioner", self.preconditioner)

    def factorise(self, chain: Chain) -> "KrylovFactorisation":
        """Nothing is factorised yet."""
        require_float_discount(chain)
        return KrylovFactorisation(chain, self)


class Majorant(NamedTuple):
    """t > 0 with (I - discount P_pi) t >= w > 0."""

    t: FloatArray
    w: FloatArray


class Bound(NamedTuple):
    """Bounds on the error of a solution: what its residual says, what the rounding of the residual adds, its size."""

    residual: float
    rounding: float
    size: float

    @property
    def total(self) -> float:
        """On the largest error of x, or for the transposed system on the sum of all errors."""
        return UP * (self.residual + self.rounding)

    @property
    def relative(self) -> float:
        """The same as a share of the largest entry, or of the sum of all."""
        return self.total / self.size if self.size else np.inf


@dataclass(frozen=True, eq=False, repr=False)
class KrylovFactorisation:
    """A chain, and a direct factorisation once the iteration was too slow."""

    chain: Chain
    solver: Krylov

    @cached_property
    def direct(self) -> "Factorisation":
        """What the fallback makes of the chain."""
        assert self.solver.fallback is not None
        return self.solver.fallback.factorise(self.chain)

    @cached_property
    def nearby(self) -> "Factorisation | None":
        """What the preconditioner makes of the chain."""
        nearby = self.solver.preconditioner
        return None if nearby is None else nearby.factorise(self.chain)

    @property
    def fell_back(self) -> bool:
        """Whether the budget was not enough for some right side."""
        return "direct" in self.__dict__

    def solve(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi) x = b."""
        return by_columns(lambda b: self._solve(b, transposed=False), b)

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi)^T x = b."""
        return by_columns(lambda b: self._solve(b, transposed=True), b)

    def _solve(self, b: FloatArray, *, transposed: bool) -> FloatArray:
        if self.fell_back:
            return self.direct.solve_transposed(b) if transposed else self.direct.solve(b)
        largest = float(np.abs(b).max())
        if largest == 0 or not isfinite(largest):
            return b * 1.0
        unit = 2.0 ** (frexp(largest)[1] - 1)  # squares of very large numbers overflow
        x, bound, products = b, Bound(lost := self._least_rounding(transposed), lost, 1.0), 0
        if lost <= WORTHLESS:
            x, bound, products = self._iterate(b / unit, transposed)
        if bound.relative <= max(WORTHLESS, self.solver.tolerance) and self._enough(bound):
            return x * unit
        if self.solver.fallback is None:
            method = self.solver.method
            where = f"at 1 - discount = {self.chain.discount_complement:g} with {self.chain.n_states} states"
            if bound.residual == np.inf and self._can_end:
                raise SolveError(
                    f"{method} found no bound on the time to the end {where}, and without one none on its error; use a "
                    "direct solver, or a smaller discount"
                )
            more = f"give solvers.{type(self.solver).__name__} more products, or use a direct solver"
            if products < self.solver.products - CYCLE:
                more = "the last ones did not make it smaller; use a direct solver"
            if bound.residual <= bound.rounding:
                more = "the rest is lost to rounding; use solvers.GTH() where the chain is small enough"
            raise SolveError(
                f"{method} has an error of up to {bound.relative:.2g} of the solution's size after {products} products "
                f"{where}; {more}, or a smaller discount"
            )
        return self.direct.solve_transposed(b) if transposed else self.direct.solve(b)

    def _least_rounding(self, transposed: bool) -> float:
        """What the rounding of any residual adds at least, relative to the solution."""
        (t, w), roundings = self._majorant, self._roundings(transposed)
        least = float(w.min())
        return 2.0 * roundings * float(t.min() if transposed else t.max()) / least if least > 0 else 0.0

    def _enough(self, bound: Bound) -> bool:
        return bound.residual <= max(self.solver.tolerance * bound.size, bound.rounding)

    def _aim(self, bound: Bound, transposed: bool) -> float:
        """What the residual should say: the tolerance, or what rounding usually is, which grows like a root."""
        roundings = self._roundings(transposed) / UNIT
        return max(self.solver.tolerance * bound.size, bound.rounding * (8.0 + sqrt(roundings)) / (8.0 + roundings))

    def product(self, x: FloatArray, *, transposed: bool = False) -> FloatArray:
        """(I - discount P_pi) x or its transpose."""
        chain, P = self.chain, self.chain.transition
        if sparse.issparse(P):
            if transposed:
                return self._rows.resolvent_product_transposed(chain.discount, x)
            return self._rows.resolvent_product(chain.discount, x)
        return x - chain.discount * ((P.T if transposed else P) @ x)

    @cached_property
    def _rows(self) -> Rows:
        return Rows.of(self.chain.transition)

    @cached_property
    def _image(self) -> FloatArray:
        """(I - discount P_pi) 1: the chance to end, discounting included."""
        return frozen(self.product(np.ones(self.chain.n_states)))

    def _roundings(self, transposed: bool) -> float:
        """How many roundings the residual of a state can have; a discount that rounds to 1 is two more."""
        terms = self.chain.n_states
        if self.chain.is_sparse:
            terms = self._rows.longest_column if transposed else self._rows.longest
        return (terms + 8) * UNIT

    @cached_property
    def _majorant(self) -> Majorant:
        """1, whose image is at least 1 - discount, or the expected time to the end where that is far shorter."""
        image, ones = self._image, np.ones(self.chain.n_states)
        if image.min() < SLOW and image.max() > 0.5:
            t = np.zeros(image.size)
            for _ in range(UNLUCKY):
                w = ones - self.product(t)
                if np.abs(w).max() < 0.5:
                    break
                self._improve(t, w, 0.2 / float(np.abs(w).max()), False, self.solver.products)
            w = self.product(t) - self._roundings(False) * (1.0 + 2.0 * np.abs(t).max())
            if (t > 0).all() and (w > 0).all():
                return Majorant(frozen(t), frozen(w))
        return Majorant(frozen(ones), frozen(image - self._roundings(False)))

    def certificate(self, b: FloatArray, x: FloatArray, *, transposed: bool = False) -> Bound:
        """Bounds on the error of x, whatever it comes from, as a solution for b, both (S,)."""
        return self._bound(b, x, b - self.product(x, transposed=transposed), transposed)

    def _bound(self, b: FloatArray, x: FloatArray, rho: FloatArray, transposed: bool, shift: float = 0.0) -> Bound:
        """Bounds on the error of x from its residual rho: t max(|rho| / w), or for the transpose t |rho| / min(w).

        `shift` was added to x, and its image taken from rho, after the product.
        """
        t, w = self._majorant
        roundings = self._roundings(transposed)
        least = float(w.min())
        if least <= 0:
            return Bound(np.inf, np.inf, 1.0)
        magnitude = np.abs(x)
        if transposed:
            rounding = roundings * (dot(np.abs(b), t) + 2.0 * dot(magnitude, t)) / least
            return Bound(dot(np.abs(rho), t) / least, float(rounding), float(magnitude.sum()))
        size, longest = float(magnitude.max()), float(t.max())
        rounding = roundings * (float(np.abs(b).max()) + 2.0 * size + 8.0 * abs(shift)) * longest / least
        return Bound(float((np.abs(rho) / w).max()) * longest, rounding, size)

    def _constant(self, rho: FloatArray) -> float:
        """The multiple of 1 whose image is the mean of the residual rho, which is taken from it.

        It is 0 where the process can end: what fades slowly is no constant then. One terminal state of 4000 had all
        others wait for what was fitted to its own equation, for thousands of products in the place of 48.
        """
        if self._can_end:
            return 0.0
        mean = float(rho.mean())
        rho -= mean
        return mean / float(self._image[0]) if self._image[0] else 0.0

    @cached_property
    def _can_end(self) -> bool:
        """Whether the image of 1 is anything but 1 - discount up to rounding."""
        return bool(np.ptp(self._image) > 2.0 * self._roundings(False))

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def _iterate(self, b: FloatArray, transposed: bool) -> tuple[FloatArray, Bound, int]:
        """The best x with its bound and the products it took: BiCGSTAB from the last true residual until it holds."""
        x, rho = self._first_guess(b, transposed)
        left, unlucky = self.solver.products - 1, 0
        mixes = self.chain.is_sparse and self.solver.preconditioner is None and b.size > FEW_STATES
        best: tuple[FloatArray, Bound] | None = None
        while True:
            shift = 0.0 if transposed else self._constant(rho)
            x += shift
            bound = self._bound(b, x, rho, transposed, shift)
            stuck = best is not None and not bound.residual < 0.5 * best[1].residual
            unlucky += stuck and not mixes
            mixes = mixes and not stuck
            if best is None or bound.residual < best[1].residual:
                best = x.copy(), bound
            aim = self._aim(bound, transposed)
            if bound.residual <= aim or left < CYCLE or unlucky == UNLUCKY:
                return *best, self.solver.products - left
            # The recursive residual drifts from the true one: aim a little lower than needed.
            need = 0.3 * aim / bound.residual
            if mixes:
                given = self._rows, self.chain.discount, rho, need, transposed, not self._can_end
                correction, products, mixes = series(*given, left - 1)
                left -= products
            if mixes:
                x += correction
            else:
                left = self._improve(x, rho, need, transposed, left)
            left -= 1
            rho = b - self.product(x, transposed=transposed)

    def _first_guess(self, b: FloatArray, transposed: bool) -> tuple[FloatArray, FloatArray]:
        """x and its residual: 0, or for the transpose b / (1 - discount) where the process cannot end.

        That has the mass of the solution, so that from then on residuals sum to 0.
        """
        if not transposed or self._can_end:
            return np.zeros(b.size), b.copy()
        x = b / self._image[0]
        return x, b - self.product(x, transposed=True)

    def _hopeless(self, reduction: float, goal: float, begun: int, left: int) -> bool:
        """Whether a fallback waits and a quarter of the budget, in one go, brought below an eighth of the digits."""
        budget = self.solver.products
        quarter = budget - budget // 4
        due = begun > quarter and budget // 4 <= begun - left < budget // 4 + 2
        return self.solver.fallback is not None and due and reduction > goal**0.125

    def _deflated_product(self, y: FloatArray, transposed: bool) -> FloatArray:
        """The image of y, of values without what a constant may take from it."""
        y = self.product(y, transposed=transposed)
        if not transposed:
            self._constant(y)
        return y

    def _direction(self, r: FloatArray, transposed: bool) -> FloatArray:
        """Where to search for what leaves the residual r."""
        if self.nearby is None:
            return r
        return self.nearby.solve_transposed(r) if transposed else self.nearby.solve(r)

    @staticmethod
    def _norm(r: FloatArray, transposed: bool) -> float:
        """What bounds of the error are in proportion to."""
        return float(np.abs(r).sum() if transposed else np.abs(r).max())

    @np.errstate(divide="ignore", over="ignore", invalid="ignore")  # a breakdown is looked for
    def _improve(self, x: FloatArray, r: FloatArray, goal: float, transposed: bool, left: int) -> int:
        """Improve x, of residual r, in place until the norm of r is `goal` times what it was; the products left.

        Returns 0 where there is no hope for the rest of them.
        Where no process ends the constant is deflated from the untransposed system: I - discount P_pi maps it to
        `_image`, and the caller finds it from the residual. For the transpose the first guess does that.
        """
        begun, first, least, waited = left, self._norm(r, transposed), np.inf, 0
        shadow = np.random.default_rng(left).random(r.size) - 0.5
        p, v = np.zeros(r.size), np.zeros(r.size)
        rho, alpha, omega = 1.0, 1.0, 1.0
        while left >= CYCLE:
            last, rho = rho, dot(shadow, r)
            kernels.search_direction(r, rho / last * alpha / omega, omega, v, p)
            along = self._direction(p, transposed)
            v = self._deflated_product(along, transposed)
            left -= 2
            alpha = rho / dot(shadow, v)
            if not isfinite(alpha):
                break
            kernels.half_step(alpha, v, r)
            q = self._direction(r, transposed)
            t = self._deflated_product(q, transposed)
            square = dot(t, t)
            omega = dot(t, r) / square if square else 0.0
            if not isfinite(omega):
                omega = 0.0
            kernels.full_step(alpha, along, omega, q, t, x, r)
            size, waited = self._norm(r, transposed) / first, waited + 2
            if size <= max(goal, DRIFT * (begun - left)) or omega == 0.0:
                break
            if size < least:
                least, waited = size, 0
            elif waited > PATIENCE + (begun - left) // 3:
                break
            if self._hopeless(size, goal, begun, left):
                return 0
        return left


def dot(x: FloatArray, y: FloatArray) -> float:
    """x . y on one thread: BLAS starts more, and where the cores are busy they took 20 times as long as they saved."""
    return np.einsum("s,s->", x, y)[()]
