"""Integer linear systems by p-adic lifting, each solution proven by its size.

    b = A (x_0 + x_1 q + ... + x_{k-1} q^{k-1}) + q^k r,    x_i = A^{-1} r_i mod q,    r_{i+1} = (r_i - A x_i) / q

Source: Dixon (1982), Exact solution of linear equations using p-adic expansions, Numerische Mathematik 40.
"""

from itertools import count
from typing import Any, NamedTuple

from fastpg.exact.backend import flint

# A fraction found with so many bits to spare is not a coincidence; that it is right is proven otherwise.
SPARE_BITS = 64


class Inverse(NamedTuple):
    """A matrix (S, S) of integers, its inverse modulo q, and bits that bound its determinant."""

    matrix: Any
    modulo: Any
    q: Any
    bits: int

    def transpose(self) -> "Inverse":
        """The same of the transposed matrix."""
        return Inverse(self.matrix.transpose(), self.modulo.transpose(), self.q, self.bits)


def inverse(matrix: Any) -> Inverse:
    """The inverse of a regular matrix modulo a power of a prime p of 64 bits, the higher the longer its solutions are.

    By Newton's step, B (I + q R) with R = (I - A B) / q is the inverse modulo q^2 where B is that modulo q.
    """
    fmpz_mat, n = flint().fmpz_mat, matrix.nrows()
    primes = (flint().fmpz(x) for x in count(2**63 + 29, 2) if flint().fmpz(x).is_prime())
    q = next(p for p in primes if flint().nmod_mat(matrix, p).det() != 0)
    B = fmpz_mat(n, n, list(map(int, flint().nmod_mat(matrix, q).inv().entries())))
    # The determinant is at most the product of the sums of the rows.
    bits = sum(norm.bit_length() for norm in _norms(matrix))
    # A step of Newton's costs about as much as n steps of lifting.
    while 2 * n * q.bit_length() < bits:
        # Rounding down drops the identity of A B, which leaves -R.
        R = fmpz_mat(n, n, [x // q % q for x in (matrix * B).entries()])
        B -= q * fmpz_mat(n, n, [x % q for x in (B * R).entries()])
        q *= q
    return Inverse(matrix, B, q, bits)


def _norms(matrix: Any) -> list[Any]:
    return [sum(map(abs, row)) for row in matrix.tolist()]


class Lifting:
    """The solution of A x = b modulo growing powers of q: A x + power residual = b."""

    def __init__(self, inverse: Inverse, b: Any) -> None:
        self._inverse = inverse
        self._norm = max(_norms(inverse.matrix))
        self._size = max(map(abs, b.entries()))
        self.power = flint().fmpz(1)
        self.x = 0 * b
        self.residual = self._b = b

    def sufficient(self) -> int:
        """Bits of a power of q that nearly always prove a solution whose denominator is known."""
        return self._inverse.bits + int(self._norm.bit_length() + self._size.bit_length()) + SPARE_BITS

    def extend(self, bits: int) -> None:
        """Lift until the power of q has so many bits, but for less than one for each digit."""
        A, B, q, _ = self._inverse
        fmpz_mat, n, r = flint().fmpz_mat, A.nrows(), self.residual
        digits = []
        for _ in range(-(-(bits - self.power.bit_length()) // q.bit_length())):
            digits.append(fmpz_mat(n, 1, [x % q for x in (B * r).entries()]))
            r = fmpz_mat(n, 1, [x // q for x in (r - A * digits[-1]).entries()])
        if digits:
            self.x += _joined(digits, q) * self.power
            self.power *= q ** len(digits)
            self.residual = r

    def solution(self, known: Any) -> tuple[list[Any], Any]:
        """Integers N and D with A N = D b, D a multiple of `known`.

        They agree modulo the power of q by construction, and hence at all, being small against it:
        |A| max|N| + D max|b| < power. Lifts as far as that takes, and where it takes more than twice the digits that
        Hadamard's bound gives to N and D, eliminates.
        """
        A = self._inverse[0]
        most = 4 * (A.nrows() + 1) * int(self._norm.bit_length() + self._size.bit_length() + A.nrows().bit_length())
        while self.power.bit_length() <= most:
            found = self.attempt(known)
            if found is not None:
                return found
            self.extend(2 * self.power.bit_length())
        exact = A.solve(self._b).entries()
        D = known
        for x in exact:
            D *= x.q // x.q.gcd(D)
        return [x.p * (D // x.q) for x in exact], D

    def attempt(self, D: Any) -> tuple[list[Any], Any] | None:
        """N and D where the power of q suffices to find and to prove them."""
        m = self.power
        N: list[Any] = []
        for x in self.x.entries():
            n = centred(D * x, m)
            if not self._proven(n, D):
                fraction = small_fraction(n, D, m)
                if fraction is None:
                    return None
                n, multiple = fraction
                N = [centred(y * (multiple // D), m) for y in N]
                D = multiple
            N.append(n)
        return (N, D) if self._proven(max(abs(n) for n in N), D) else None

    def _proven(self, n: Any, D: Any) -> bool:
        return bool(self._norm * abs(n) + D * self._size < self.power)


def centred(x: Any, m: Any) -> Any:
    """x modulo m, at most m / 2 in size."""
    x %= m
    return x - m if 2 * x > m else x


def small_fraction(x: Any, known: Any, m: Any) -> tuple[Any, Any] | None:
    """The smallest (n, D) with n = x D / known modulo m, D > 0 a multiple of `known`; None where many are as small.

    These pairs are a lattice of the determinant m known, and its shortest vector is found by reduction.
    """
    n, D = flint().fmpz_mat([[m, 0], [x, known]]).lll().entries()[:2]
    if D < 0:
        n, D = -n, -D
    return (n, D) if D and abs(n) * D << SPARE_BITS < m * known else None


def _joined(digits: list[Any], q: Any) -> Any:
    """sum_i digits_i q^i, in halves, whose products are fast."""
    while len(digits) > 1:
        pairs = zip(digits[::2], digits[1::2], strict=False)
        digits = [low + high * q for low, high in pairs] + digits[len(digits) // 2 * 2 :]
        q *= q
    return digits[0]
