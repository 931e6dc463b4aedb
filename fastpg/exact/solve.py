"""Linear systems in rational numbers: p-adic lifting (Dixon), through FLINT."""

from fractions import Fraction
from typing import Any

import numpy as np

from fastpg.exact.backend import flint
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
        r, one = self.model.state_reward.only(~self.model.problem.undefined), flint().fmpz(1)
        own = np.broadcast_to(r.own, r.shape)
        scaled = r.numerator * self._scale
        divisor = np.array([x.gcd(y) for x, y in zip(scaled, own, strict=True)], dtype=object)
        below = own // divisor
        common = one
        for x in below:
            common = common.lcm(x)
        b = scaled // divisor * (common // below)
        numerator, denominator = _solved(self._matrix, b)
        return Rationals(numerator, np.array([one], dtype=object), (denominator * common,))

    def arrivals(self) -> Rationals:
        """D^T start (S,): occupancy where the process goes on, the chance to end there elsewhere."""
        start = self.model.start
        numerator, denominator = _solved(self._matrix.transpose(), start.numerator)
        return Rationals(numerator * self._scale, start.own, (denominator,))

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
            rows.append([x // divisor for x in row])
            scales.append(scale // divisor)
        return np.array(scales, dtype=object), flint().fmpz_mat(rows)


def _solved(matrix: Any, b: Objects) -> tuple[Objects, Any]:
    """x with matrix x = b, as integers over a common denominator."""
    x, denominator = matrix.solve(flint().fmpz_mat([[entry] for entry in b])).numer_denom()
    return np.array(x.entries(), dtype=object), denominator


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
