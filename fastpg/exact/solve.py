"""The linear systems of an evaluation in rational numbers."""

from fractions import Fraction
from typing import Any

import numpy as np

from fastpg.exact.backend import flint
from fastpg.exact.lifting import Inverse, Lifting, inverse, small_fraction
from fastpg.exact.quantities import Model
from fastpg.exact.rationals import Objects, Rationals
from fastpg.lazy import cached_property
from fastpg.validation import frozen


class ExactSolutions:
    """V and the arrivals of one model, from one integer matrix scale(s) (I - discount P_pi)."""

    def __init__(self, model: Model[Rationals]) -> None:
        self.model = model

    def value(self) -> Rationals:
        """V (S,), 0 where it does not exist."""
        numerator, _, denominator = self._solutions
        return Rationals(_array(numerator), self._paid[1], (denominator,))

    def arrivals(self) -> Rationals:
        """D^T start (S,): occupancy where the process goes on, the chance to end there elsewhere."""
        _, numerator, denominator = self._solutions
        return Rationals(_array(numerator) * self._scale, self.model.start.own, (denominator,))

    @cached_property
    def _solutions(self) -> tuple[list[Any], list[Any], Any]:
        """Integers N, M and D with A N = D b and A^T M = D start."""
        value, first = self._lifted_value.solution(self._denominator)
        arrivals, both = self._lifted_arrivals.solution(first)
        return [x * (both // first) for x in value], arrivals, both

    @cached_property
    def _denominator(self) -> Any:
        """The denominator of start V, which that of V and of the arrivals nearly always are.

            start A^{-1} b = start x + q^k y r    modulo q^2k,
            where x and y solve A x = b and A^T y = start modulo q^k, and A x + q^k r = b;

        so the two expansions have to reach only half as far as the one that would be needed. 1 where it is not found.
        """
        V, d = self._lifted_value, self._lifted_arrivals
        bits = V.sufficient()
        for part in (2, 1):
            V.extend(bits // part)
            d.extend(bits // part)
            long = (self._start.transpose() * V.x + V.power * (d.x.transpose() * V.residual))[0, 0]
            found = small_fraction(long, flint().fmpz(1), V.power**2)
            if found is not None:
                return found[1]
        return flint().fmpz(1)

    @cached_property
    def _lifted_value(self) -> Lifting:
        return Lifting(self._inverse, self._paid[0])

    @cached_property
    def _lifted_arrivals(self) -> Lifting:
        return Lifting(self._inverse.transpose(), self._start)

    @cached_property
    def _start(self) -> Any:
        """start (S, 1), its numerators."""
        return _column(self.model.start.numerator)

    @cached_property
    def _paid(self) -> tuple[Any, Objects]:
        """scale(s) r_pi(s) as integers (S, 1), and what they are to be divided by (1,)."""
        r, one = self.model.state_reward.only(~self.model.problem.undefined), flint().fmpz(1)
        own = np.broadcast_to(r.own, r.shape)
        scaled = r.numerator * self._scale
        divisor = np.array([x.gcd(y) for x, y in zip(scaled, own, strict=True)], dtype=object)
        below = own // divisor
        common = one
        for x in below:
            common = common.lcm(x)
        return _column(scaled // divisor * (common // below)), np.array([common], dtype=object)

    @cached_property
    def _inverse(self) -> Inverse:
        return inverse(self._matrix)

    @cached_property
    def _scale(self) -> Objects:
        """scale(s), an integer."""
        return self._system[0]

    @cached_property
    def _matrix(self) -> Any:
        """scale(s) (I - discount P_pi)(s,k), integers without a common divisor in a row."""
        return self._system[1]

    @cached_property
    def _system(self) -> tuple[Objects, Any]:
        P, undefined = self.model.state_transition, self.model.problem.undefined
        gamma = self.model.problem.discount
        rows, scales = [], []
        for s, law in enumerate(P.numerator.tolist()):
            scale = P.own[s, 0] * gamma.denominator
            row = [-gamma.numerator * p for p in law] if not undefined[s] else [flint().fmpz(0)] * len(law)
            divisor = scale
            for x in row:
                divisor = divisor.gcd(x)
            row[s] += scale
            rows.append([x // divisor for x in row] if divisor != 1 else row)
            scales.append(scale // divisor)
        return np.array(scales, dtype=object), flint().fmpz_mat(rows)


def _column(x: Objects) -> Any:
    return flint().fmpz_mat(x.size, 1, x.tolist())


def _array(x: list[Any]) -> Objects:
    return np.array(x, dtype=object)


def least_norm(matrix: Objects, right: Objects) -> Objects:
    """The x of least norm with matrix x = right, for a symmetric matrix whose range holds `right`.

    x = matrix z for any z with matrix matrix z = right.
    """
    fmpq, fmpq_mat = flint().fmpq, flint().fmpq_mat
    n = right.shape[0]
    M = fmpq_mat([[fmpq(*x.as_integer_ratio()) for x in row] for row in matrix])
    square = M * M
    g = [fmpq(*x.as_integer_ratio()) for x in right]
    reduced, rank = fmpq_mat([[*(square[i, j] for j in range(n)), g[i]] for i in range(n)]).rref()
    z = fmpq_mat(n, 1)
    for i in range(rank):
        pivot = next(j for j in range(n) if reduced[i, j])
        z[pivot, 0] = reduced[i, n]
    return frozen(np.array([Fraction(int(x.p), int(x.q)) for x in (M * z).entries()], dtype=object))
