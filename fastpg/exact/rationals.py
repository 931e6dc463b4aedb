"""Arrays of rational numbers that are reduced to lowest terms once, when they are handed out.

The solution of a linear system of S equations with float coefficients has a common denominator of thousands of bits.
Reducing after each operation would spend nearly all time on greatest common divisors, so that denominator is carried
along unmultiplied, and all entries of a result are reduced against it together.
"""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from fastpg.exact.backend import flint
from fastpg.validation import BoolArray, frozen

Objects: TypeAlias = npt.NDArray[np.object_]

# FLINT ships no types; these are arrays of its integers.
_lcm = np.frompyfunc(lambda x, y: x.lcm(y), 2, 1)
_reduce_lcm: Any = _lcm.reduce


@dataclass(frozen=True, eq=False)
class Rationals:
    """The array numerator / (own * prod(common)).

    `own` are small positive integers, broadcast against `numerator` and of as many axes; `common` are large ones.
    Each numerator is a product of numerators of `parts`, where there are any.
    """

    numerator: Objects
    own: Objects
    common: tuple[Any, ...] = ()
    parts: tuple["Rationals", ...] = ()
    _shared: dict[Any, Any] = field(default_factory=dict)

    exact: ClassVar[bool] = True

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.numerator.shape

    def __mul__(self, other: "Rationals") -> "Rationals":
        common = self.common + other.common
        return Rationals(self.numerator * other.numerator, self.own * other.own, common, (self, other))

    def __add__(self, other: "Rationals") -> "Rationals":
        x, y, common = self._beside(other)
        own = _lcm(self.own, other.own)
        return Rationals(x * (own // self.own) + y * (own // other.own), own, common)

    def __sub__(self, other: "Rationals") -> "Rationals":
        return self + Rationals(-other.numerator, other.own, other.common)

    def __getitem__(self, key: Any) -> "Rationals":
        return Rationals(self.numerator[key], np.broadcast_to(self.own, self.shape)[key], self.common, (self,))

    def __matmul__(self, other: "Rationals") -> "Rationals":
        """The products with a vector along the last axis."""
        if self.own.shape[-1] > 1 or other.own.size > 1:
            return (self * other).sum(-1)
        matrix, n = flint().fmpz_mat, other.numerator.size
        rows = matrix(self.numerator.size // n, n, self.numerator.ravel().tolist())
        product = np.empty(self.shape[:-1], dtype=object)
        product.reshape(-1)[:] = (rows * matrix(n, 1, other.numerator.tolist())).entries()
        return Rationals(product, self.own[..., 0] * other.own, self.common + other.common)

    def sum(self, axis: int) -> "Rationals":
        """The sum along one axis."""
        if self.own.shape[axis] == 1:
            return Rationals(self.numerator.sum(axis=axis), self.own.squeeze(axis), self.common)
        own = _reduce_lcm(self.own, axis=axis, keepdims=True)
        return Rationals((self.numerator * (own // self.own)).sum(axis=axis), own.squeeze(axis), self.common)

    def only(self, mask: BoolArray) -> "Rationals":
        """The same numbers where `mask` holds and 0 elsewhere."""
        kept = np.where(mask, self.numerator, flint().fmpz(0))
        return Rationals(kept, np.broadcast_to(self.own, kept.shape), self.common, (self,))

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
        """The numbers in lowest terms, a read-only array of `fractions.Fraction`."""
        n, below = self.numerator.ravel().tolist(), np.broadcast_to(self.own, self.shape).ravel().tolist()
        shared = [self.shared(factor) for factor in self.common]
        rest: dict[tuple[Any, ...], Any] = {}
        out = np.empty(len(n), dtype=object)
        for i, x in enumerate(n):
            out[i] = self._lowest_terms(x, below[i], shared, rest) if x else Fraction(0)
        return frozen(out.reshape(self.shape))

    def _lowest_terms(self, x: Any, below: Any, shared: list[Any], rest: dict[tuple[Any, ...], Any]) -> Fraction:
        """x / (below * prod(common)), where `rest` keeps what common factors leave of it."""
        divisors = []
        for most in (below, *shared):
            divisors.append(x.gcd(most) if most != 1 else most)
            if divisors[-1] != 1:
                x = x // divisors[-1]
        below, key = below // divisors[0], tuple(divisors[1:])
        if key not in rest:
            pairs = zip(self.common, key, strict=True)
            rest[key] = math.prod((factor // divisor for factor, divisor in pairs), start=flint().fmpz(1))
        return Fraction(_LowestTerms(int(x), int(below * rest[key])))  # type: ignore[call-overload]

    def shared(self, factor: Any) -> Any:
        """A divisor of `factor` that is a multiple of all that any numerator shares with it.

        That of the product of all numerators, or of the divisors that the `parts` have; nearly always it is small.
        """
        if factor not in self._shared:
            if self.parts:
                product = math.prod((part.shared(factor) for part in self.parts), start=flint().fmpz(1))
            else:
                ring = flint().fmpz_mod_ctx(factor)
                product = int(math.prod(filter(None, self.numerator.ravel().tolist()), start=ring(1)))
            self._shared[factor] = factor.gcd(product)
        return self._shared[factor]


@numbers.Rational.register
class _LowestTerms(NamedTuple):
    """What `Fraction` takes as it is; its own way to lowest terms is slow for thousands of digits."""

    numerator: int
    denominator: int


def exact(values: Objects | npt.NDArray[np.float64]) -> Rationals:
    """Floats, ints and Fractions as the rational numbers they are, one denominator for each row."""
    return _by_rows(values, _integers)


def exact_law(values: Objects | npt.NDArray[np.float64]) -> Rationals:
    """Rows of non-negative numbers divided by their exact sums; rows of zeros stay."""

    def law(row: list[Any]) -> tuple[list[int], int]:
        n, _ = _integers(row)
        divisor = math.gcd(*n) or 1
        return [x // divisor for x in n], sum(n) // divisor or 1

    return _by_rows(values, law)


def _integers(row: list[Any]) -> tuple[list[int], int]:
    """Integers and the denominator that they have in common."""
    ratios = [x.as_integer_ratio() for x in row]
    denominator = math.lcm(*{q for _, q in ratios})
    return [p * (denominator // q) for p, q in ratios], denominator


def _by_rows(values: Any, function: Callable[[list[Any]], tuple[list[int], int]]) -> Rationals:
    """Numerators and a denominator for each row."""
    fmpz, shape = flint().fmpz, values.shape
    rows = [function(row) for row in values.reshape(-1, shape[-1]).tolist()]
    n, own = np.empty(shape, dtype=object), np.empty((*shape[:-1], 1), dtype=object)
    n.reshape(-1)[:] = [fmpz(x) for row, _ in rows for x in row]
    own.reshape(-1)[:] = [fmpz(x) for _, x in rows]
    return Rationals(n, own)
