"""Arrays of balls: midpoint and radius in arbitrary precision (Arb), each certain to hold its number."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from fastpg.errors import InvalidArgument
from fastpg.exact.backend import flint
from fastpg.exact.rationals import Objects, Rationals
from fastpg.lazy import cached_property
from fastpg.validation import BoolArray, FloatArray, frozen

# Exponents beyond this are not written out as fractions.
MAX_EXPONENT = 100_000


@dataclass(frozen=True, eq=False, repr=False)
class Balls:
    """An array of closed intervals, each of which holds the exact number; `balls` are python-flint's `arb`.

    An entry whose number does not exist is not finite: its midpoint is nan and it contains nothing.
    """

    balls: Objects

    exact: ClassVar[bool] = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.balls.shape

    @cached_property
    def midpoint(self) -> FloatArray:
        """The midpoints rounded to floats, 0 where they underflow; `radius` counts the rounding."""
        return frozen(self._mapped(lambda x: float(x.mid())).astype(np.float64))

    @cached_property
    def radius(self) -> FloatArray:
        """Floats r with |exact - midpoint| <= r for the rounded `midpoint`, rounded up."""
        arb = flint().arb
        pairs = zip(self.balls.ravel(), self.midpoint.ravel().tolist(), strict=True)
        rounded = [math.inf if math.isinf(middle) else _above(abs(x - arb(middle))) for x, middle in pairs]
        return frozen(np.array(rounded, dtype=np.float64).reshape(self.shape))

    @cached_property
    def lower(self) -> Objects:
        """The lower ends as `Fraction`; None where the number does not exist."""
        return frozen(self._mapped(lambda x: _fraction(x, -1)))

    @cached_property
    def upper(self) -> Objects:
        """The upper ends as `Fraction`; None where the number does not exist."""
        return frozen(self._mapped(lambda x: _fraction(x, 1)))

    def contains(self, numbers: object) -> BoolArray:
        """Which balls hold the given numbers: floats, ints, Fractions or other balls of the same shape."""
        given = numbers.balls if isinstance(numbers, Balls) else np.asarray(numbers, dtype=object)
        pairs = zip(self.balls.ravel(), np.broadcast_to(given, self.shape).ravel(), strict=True)
        held = [bool(x.is_finite()) and _holds(x, y) for x, y in pairs]
        return frozen(np.array(held, dtype=bool).reshape(self.shape))

    def __mul__(self, other: "Balls") -> "Balls":
        return Balls(self.balls * other.balls)

    def __add__(self, other: "Balls") -> "Balls":
        return Balls(self.balls + other.balls)

    def __sub__(self, other: "Balls") -> "Balls":
        return Balls(self.balls - other.balls)

    def __getitem__(self, key: Any) -> "Balls":
        return Balls(self.balls[key])

    def __matmul__(self, other: "Balls") -> "Balls":
        """The products with a vector along the last axis."""
        return (self * other).sum(-1)

    def sum(self, axis: int) -> "Balls":
        """The sum along one axis."""
        return Balls(self.balls.sum(axis=axis))

    def only(self, mask: BoolArray) -> "Balls":
        """The same numbers where `mask` holds and 0 elsewhere."""
        return Balls(np.where(mask, self.balls, flint().arb(0)))

    def _mapped(self, function: Any) -> Objects:
        out = np.empty(self.shape, dtype=object)
        out.ravel()[:] = [function(x) for x in self.balls.ravel()]
        return out

    def __repr__(self) -> str:
        return f"Balls(midpoint={self.midpoint!r}, radius={self.radius!r})"


def enclosed(x: Rationals) -> Balls:
    """Rational numbers rounded to balls of the present precision."""
    arb, fmpq = flint().arb, flint().fmpq
    out = np.empty(x.shape, dtype=object)
    own = np.broadcast_to(x.own, x.shape).ravel()
    out.ravel()[:] = [arb(fmpq(p, q)) for p, q in zip(x.numerator.ravel(), own, strict=True)]
    return Balls(out)


def exponential(x: Any) -> Any:
    """exp of a rational number as a ball of nearly full relative precision, however large or small it is.

    exp(x) = 2^n exp(x - n log 2) with n = floor(x / log 2); the subtraction is done with the bits that n takes more.
    """
    arb, context = flint().arb, flint().ctx
    size = max(0, (abs(x).ceil()).bit_length())
    with context.workprec(context.prec + size + 16):
        n = int((arb(x) / arb.const_log2()).mid().floor().unique_fmpz())
        rest = arb(x) - n * arb.const_log2()
    return rest.exp() * arb((1, n))


def _above(x: Any) -> float:
    """A float not below any number of the ball x."""
    if not x.is_finite():
        return math.nan
    arb, guess = flint().arb, float(x.upper())
    while not math.isinf(guess) and not arb(guess) >= x:
        guess = math.nextafter(guess, math.inf)
    return guess


def _fraction(x: Any, side: int) -> Fraction | None:
    """An end of a ball, exactly."""
    if not x.is_finite():
        return None
    total = Fraction(0)
    for part, sign in ((x.mid(), 1), (x.rad(), side)):
        mantissa, exponent = (int(i) for i in part.man_exp())
        if mantissa and abs(exponent) > MAX_EXPONENT:
            raise InvalidArgument(
                f"a number of magnitude 2^{exponent + mantissa.bit_length()} is too long for a Fraction; use contains "
                f"or the arb objects in balls"
            )
        total += sign * mantissa * Fraction(2) ** exponent
    return total


def _holds(x: Any, y: Any) -> bool:
    """Whether the ball x holds the ball or number y; a number is rounded ever less until the answer is clear."""
    arb, context = flint().arb, flint().ctx
    if isinstance(y, arb):
        return bool(x.contains(y))
    if isinstance(y, float) and not math.isfinite(y):
        return False
    number, bits = flint().fmpq(*y.as_integer_ratio()), 64
    while True:
        with context.workprec(bits):
            near = arb(number)
        if x.contains(near):
            return True
        if not x.overlaps(near):
            return False
        bits *= 2
