"""Relative value iteration with Anderson acceleration."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fastpg.chain import Chain
from fastpg.kernels import anderson as kernels
from fastpg.solvers.krylov import DRIFT, PATIENCE, Krylov, KrylovFactorisation
from fastpg.solvers.lu import require_float_discount
from fastpg.validation import FloatArray, frozen, positive_integer

# Steps whose products are smaller than this, relative to the largest, are left out of a mixture: all but rounding.
SINGULAR = 1e-13


@dataclass(frozen=True)
class ValueIteration(Krylov):
    """Value iteration, of values or of visitations, accelerated by the last `memory` of its steps.

    With the residual rho = b - (I - discount P_pi) x and the steps y_j that were taken, whose images are z_j:

        x <- x + rho' + sum_j c_j y_j     rho' = rho - sum_j c_j z_j,     c that makes the sum of squares of rho' least

    and without a memory x <- b + discount P_pi x, or for the transpose x <- b + discount P_pi^T x. From values the
    constant is taken out at each step, from visitations the mass once. Every second step is a plain one; another that
    does not lower the residual is not taken, but remembered. It stops on the bounds of `Krylov`, by which solutions are
    accepted, with its `tolerance`, budget of `products`, `fallback` and `preconditioner`.

    >>> from fastpg import evaluate, problems, uniform
    >>> mdp = problems.two_state()
    >>> evaluate(mdp, uniform(mdp), solver=ValueIteration()).solved_by
    'ValueIteration'

    Source: Anderson (1965); Walker & Ni (2011) for the form, and that on linear systems it is as GMRES; Pratapa,
    Suryanarayana & Pask (2016) for the plain steps between, which cost less; White (1963) for relative values.
    """

    memory: int = 10
    method: ClassVar[str] = "value iteration"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_integer("memory", self.memory)

    def factorise(self, chain: Chain) -> "ValueIterationFactorisation":
        """Nothing is factorised."""
        require_float_discount(chain)
        return ValueIterationFactorisation(chain, self)


@dataclass(frozen=True, eq=False, repr=False)
class ValueIterationFactorisation(KrylovFactorisation):
    """A chain, and what the fallback makes of it once the iteration was too slow."""

    solver: ValueIteration

    @np.errstate(over="ignore", invalid="ignore")
    def _improve(self, x: FloatArray, r: FloatArray, goal: float, transposed: bool, left: int) -> int:
        begun, waited, seen, plain = left, 0, 0, True
        steps, images = np.empty((2, min(self.solver.memory, left), r.size))
        gram = np.zeros((len(steps), len(steps)))
        first = least = size = self._norm(r, transposed)
        while left > 1 and waited <= PATIENCE + (begun - left) // 3:
            if size <= max(goal, DRIFT * (begun - left)) * first:
                break
            known = 0 if plain else min(seen, len(steps))
            step = r.copy()
            if known:
                weight = _least_squares(gram[:known, :known], _products(images, known, r))
                kernels.take_away(weight, images, known, step)
            step = self._direction(step, transposed)
            if known:
                kernels.take_away(-weight, steps, known, step)
            image = self._deflated_product(step, transposed)
            left -= 1
            place = seen % len(steps)
            steps[place], images[place], seen = step, image, seen + 1
            known = min(seen, len(steps))
            gram[place, :known] = gram[:known, place] = _products(images, known, image)
            after = self._norm(r - image, transposed)
            if plain or after < size:
                x += step
                r -= image
                size = after
            plain = not plain
            waited = 0 if size < least else waited + 1
            least = min(size, least)
            if self._hopeless(size / first, goal, begun, left):
                return 0
        return left


def _products(rows: FloatArray, count: int, x: FloatArray) -> FloatArray:
    out = np.empty(count)
    kernels.products(rows, count, frozen(x[:]), out)
    return out


def _least_squares(gram: FloatArray, b: FloatArray) -> FloatArray:
    """c that makes |r - sum_j c_j z_j| least, b_j = z_j . r, of the smallest size where `gram` is singular."""
    scale = np.sqrt(np.maximum(gram.diagonal(), np.finfo(float).tiny))
    return frozen(np.linalg.lstsq(gram / np.outer(scale, scale), b / scale, rcond=SINGULAR)[0] / scale)
