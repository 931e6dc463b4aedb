"""Arrays of rational numbers that are reduced to lowest terms once, when they are handed out.

The solution of a linear system of S equations with float coefficients has a common denominator of thousands of bits.
Reducing after each operation would spend nearly all time on greatest common divisors, so that denominator is carried
along unmultiplied, and all entries of a result are reduced against it together.
"""

import numbers
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from fastpg.exact.backend import flint
from fastpg.validation import BoolArray, frozen

Objects: TypeAlias = npt.NDArray[np.object_]

# FLINT ships no types; these are arrays of its integers.
_lcm = np.frompyfunc(lambda x, y: x.lcm(y), 2, 1)
_reduce_lcm: Any = _lcm.reduce
_reduce_gcd: Any = np.frompyfunc(lambda x, y: x.gcd(y), 2, 1).reduce


@dataclass(frozen=True, eq=False)
class Rationals:
    """The array numerator / (own * prod(common)).

    `own` are small positive integers, broadcast against `numerator` and of as many axes; `common` are large ones.
    """

    numerator: Objects
    own: Objects
    common: tuple[Any, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.numerator.shape

    def __mul__(self, other: "Rationals") -> "Rationals":
        return Rationals(self.numerator * other.numerator, self.own * other.own, self.common + other.common)

    def __add__(self, other: "Rationals") -> "Rationals":
        x, y, common = self._beside(other)
        own = _lcm(self.own, other.own)
        return Rationals(x * (own // self.own) + y * (own // other.own), own, common)

    def __sub__(self, other: "Rationals") -> "Rationals":
        return self + Rationals(-other.numerator, other.own, other.common)

    def __getitem__(self, key: Any) -> "Rationals":
        return Rationals(self.numerator[key], np.broadcast_to(self.own, self.shape)[key], self.common)

    def sum(self, axis: int) -> "Rationals":
        """The sum along one axis."""
        if self.own.shape[axis] == 1:
            return Rationals(self.numerator.sum(axis=axis), self.own.squeeze(axis), self.common)
        own = _reduce_lcm(self.own, axis=axis, keepdims=True)
        return Rationals((self.numerator * (own // self.own)).sum(axis=axis), own.squeeze(axis), self.common)

    def only(self, mask: BoolArray) -> "Rationals":
        """The same numbers where `mask` holds and 0 elsewhere."""
        kept = np.where(mask, self.numerator, flint().fmpz(0))
        return Rationals(kept, np.broadcast_to(self.own, kept.shape), self.common)

    def _beside(self, other: Self) -> tuple[Objects, Objects, tuple[Any, ...]]:
        """Numerators of both over the same common denominators, and those."""
        x, y, common = self.numerator, other.numerator, self.common
        spare = list(self.common)
        for factor in other.common:
            if factor in spare:
                spare.remove(factor)
            else:
                x, common = x * factor, (*common, factor)
        for factor in spare:
            y = y * factor
        return x, y, common

    def fractions(self) -> Objects:
        """The numbers in lowest terms, a read-only array of `fractions.Fraction`.

        What any numerator shares with a common denominator divides what their product shares with it, which is nearly
        always small; so one large common divisor serves all of them.
        """
        fmpz = flint().fmpz
        n, below = self.numerator.ravel().tolist(), np.broadcast_to(self.own, self.shape).ravel().tolist()
        modulus, product = fmpz(1), fmpz(1)
        for factor in self.common:
            modulus = modulus.lcm(factor)
        for x in n:
            product = product * x % modulus if x else product
        common = [(factor, product.gcd(factor)) for factor in self.common]
        out = np.empty(len(n), dtype=object)
        for i, x in enumerate(n):
            out[i] = _lowest_terms(x, below[i], common) if x else Fraction(0)
        return frozen(out.reshape(self.shape))


@numbers.Rational.register
class _LowestTerms(NamedTuple):
    """What `Fraction` takes as it is; its own way to lowest terms is slow for thousands of digits."""

    numerator: int
    denominator: int


def _lowest_terms(x: Any, below: Any, common: list[tuple[Any, Any]]) -> Fraction:
    """x / (below * prod(factors)), each factor with a divisor that holds whatever x shares with it."""
    divisor = x.gcd(below)
    x, below = x // divisor, below // divisor
    for factor, shared in common:
        divisor = x.gcd(shared)
        x, below = x // divisor, below * (factor // divisor)
    return Fraction(_LowestTerms(int(x), int(below)))  # type: ignore[call-overload]


def exact(values: Objects | npt.NDArray[np.float64]) -> Rationals:
    """Floats, ints and Fractions as the rational numbers they are, one denominator for each row."""
    fmpz = flint().fmpz
    shape = values.shape
    rows = values.reshape(-1, shape[-1]).tolist()
    n, own = np.empty(shape, dtype=object), np.empty((*shape[:-1], 1), dtype=object)
    for i, row in enumerate(rows):
        ratios = [x.as_integer_ratio() for x in row]
        denominator = fmpz(1)
        for q in {q for _, q in ratios}:
            denominator = denominator.lcm(q)
        n.reshape(-1, shape[-1])[i] = [denominator // q * p for p, q in ratios]
        own.reshape(-1)[i] = denominator
    return Rationals(n, own)


def exact_law(values: Objects | npt.NDArray[np.float64]) -> Rationals:
    """Rows of non-negative numbers divided by their exact sums; rows of zeros stay."""
    one, n = flint().fmpz(1), exact(values).numerator
    divisor = _reduce_gcd(n, axis=-1, keepdims=True)
    n = n // np.where(divisor == 0, one, divisor)
    total = n.sum(axis=-1, keepdims=True)
    return Rationals(n, np.where(total == 0, one, total))
