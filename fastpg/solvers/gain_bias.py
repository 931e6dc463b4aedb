"""Values as gain and bias: large chains that never end, at discounts so near to 1 that values hide differences."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fastpg.chain import Chain
from fastpg.errors import InvalidArgument, SolveError
from fastpg.solvers.columns import by_columns
from fastpg.solvers.differences import Estimate
from fastpg.solvers.krylov import Krylov, dot
from fastpg.validation import FloatArray, frozen, require_solver

if TYPE_CHECKING:
    from fastpg.solvers import Factorisation, Solver

Step: TypeAlias = Callable[[FloatArray], FloatArray]

COARSE = 1e-4
# A step that leaves more of the residual than this is the last.
GAIN = 0.1
TINY = float(np.finfo(np.float64).tiny)
# What rounding leaves of a residual, as a share of the numbers in it, is less than this.
ROUNDING = 1e3 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class GainBias:
    """V = gain / (1 - discount) + bias and d = total law / (1 - discount) + rest, for chains of one recurrent class.

        gain  = law . b     (I - discount P_pi)   bias = b - gain           law = P_pi^T law, sum law = 1
        total = sum b       (I - discount P_pi)^T rest = b - total law

    What is large is a quotient, and what is solved for is as small as the chain mixes fast: by repeated corrections
    from what `choose` takes for the same chain at a 1 - discount of 1e-4, or else 1e-6, or `Direct` at 1e-8. Each
    leaves a share of the residual of about that number times the time to mix; of a chain that mixes too slowly
    `fallback` factorises I - discount P_pi itself, or else it is a SolveError. No digit of 1 - discount is lost however
    small it is: at 1e-9 and 1e-12 the bounds of a Garnet of 2000 states were below 1e-15 of the largest |V|, |A| and
    |dJ/dlogits| and of the sum of d, those of a grid of 300 x 300 cells below 1e-11.

    Source: Puterman (1994), section 8.2 and corollary 8.2.4, for gain and bias.
    """

    fallback: "Solver | None" = None

    def __post_init__(self) -> None:
        require_solver("fallback", self.fallback)

    def factorise(self, chain: Chain) -> "Factorisation":
        """Find the stationary law."""
        if chain.ended.any():
            raise InvalidArgument("GainBias takes chains that never end but this one has states where it has ended")
        uniform = np.full(chain.n_states, 1 / chain.n_states)
        for nearby in _nearby(chain):
            with suppress(SolveError):
                law = _corrected(nearby.solve_transposed, partial(_flow, chain), uniform, 1.0)
                law = np.maximum(law, 0.0)
                factors = GainBiasFactorisation(chain, nearby, frozen(law / law.sum()))
                factors.solve(chain.reward)  # fails where there are several laws, or nearly
                return factors
        if self.fallback is None:
            raise _slow(chain)
        return self.fallback.factorise(chain)


@dataclass(frozen=True, eq=False, repr=False)
class GainBiasFactorisation:
    """A chain, a solver's factorisation at a discount nearby, and the stationary law (S,)."""

    chain: Chain
    nearby: "Factorisation"
    law: FloatArray

    def solve(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi) x = b."""
        return by_columns(lambda b: np.add(*self._level_and_bias(b)), b)

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        """x with (I - discount P_pi)^T x = b."""
        return by_columns(self._solve_transposed, b)

    def solve_up_to_a_constant(self, b: FloatArray) -> tuple[Estimate, Estimate]:
        """x with (I - discount P_pi) x = b, and its bias, with errors in proportion to how much larger than b it is."""
        level, bias = self._level_and_bias(b)
        largest = float(np.abs(bias).max())
        size = np.full(b.shape, largest * max(1.0, largest / max(float(np.ptp(b)), TINY)))
        return Estimate(level + bias, np.abs(level + bias) + size), Estimate(bias, size)

    @np.errstate(over="ignore", invalid="ignore")  # who asks looks for what is not finite
    def _level_and_bias(self, b: FloatArray) -> tuple[np.float64, FloatArray]:
        chain = self.chain

        def residual(x: FloatArray) -> FloatArray:
            ahead = chain.transition @ x
            return b - (x - ahead) - chain.discount_complement * ahead

        def without_gain(x: FloatArray) -> FloatArray:
            rho = residual(x)
            return rho - dot(self.law, rho)

        bias = self._solved(self.nearby.solve, without_gain, b)
        return dot(self.law, residual(bias)) / np.float64(chain.discount_complement), bias

    @np.errstate(over="ignore", invalid="ignore")
    def _solve_transposed(self, b: FloatArray) -> FloatArray:
        chain = self.chain

        def residual(x: FloatArray) -> FloatArray:
            rho = b + _flow(chain, x) - chain.discount_complement * (chain.transition.T @ x)
            return rho - rho.sum() * self.law

        rest = self._solved(self.nearby.solve_transposed, residual, b)
        # All columns of I - discount P_pi sum to 1 - discount, and so do those of the law to the rest of the mass.
        return rest + (b.sum() / np.float64(chain.discount_complement) - rest.sum()) * self.law

    def _solved(self, solve: Step, residual: Step, b: FloatArray) -> FloatArray:
        try:
            return _corrected(solve, residual, np.zeros(b.shape), float(np.abs(b).sum()))
        except SolveError:
            raise _slow(self.chain) from None


def _nearby(chain: Chain) -> "Iterator[Factorisation]":
    """Factorisations at discounts nearby, the quicker first."""
    for complement, take in NEARBY:
        complement = max(complement, chain.discount_complement)
        other = replace(chain, discount=1.0 - complement, discount_complement=complement)
        solver = take(other)
        if isinstance(solver, Krylov):
            if solver.fallback is None or isinstance(solver.fallback, Krylov):
                continue  # iterations are what failed before
            # A residual that proves this much is far smaller, and corrections are repeated anyway.
            solver = replace(solver, tolerance=COARSE)
        yield solver.factorise(other)


def _flow(chain: Chain, x: FloatArray) -> FloatArray:
    """P_pi^T x - x"""
    return chain.transition.T @ x - x


def _corrected(solve: Step, residual: Step, x: FloatArray, size: float) -> FloatArray:
    """x made better by x += solve(residual(x)) as long as that helps; SolveError unless only rounding is left."""
    best, least = x, np.inf
    rho = residual(x)
    while (left := float(np.abs(rho).sum())) < GAIN * least:
        best, least = x, left
        x = x + solve(rho)
        rho = residual(x)
    if not least <= ROUNDING * (size + float(np.abs(best).sum())):
        raise SolveError("the corrections stopped to help")
    return best


def _slow(chain: Chain) -> SolveError:
    if chain.discount_complement > NEARBY[0][0]:
        return SolveError(
            f"GainBias is for discounts near 1: at 1 - discount = {chain.discount_complement:g} gain and bias cannot "
            "be told apart; use another solver, or none and fastpg chooses one"
        )
    return SolveError(
        f"at 1 - discount = {chain.discount_complement:g} the chain of {chain.n_states} states mixes too slowly, or "
        "falls into several recurrent classes: gain and bias cannot be told apart; use a smaller discount, or "
        "solvers.GTH() where the chain is small enough"
    )


from fastpg.solvers import choose  # noqa: E402
from fastpg.solvers.direct import Direct  # noqa: E402

# 1 - discount of the nearby chains that are tried in turn, and how their solver is chosen.
NEARBY = ((1e-4, choose), (1e-6, choose), (1e-8, Direct().choose))
