"""Integer systems by p-adic lifting, against elimination over the rationals, and the bound that proves a solution."""

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

flint = pytest.importorskip("flint")

from test_certificate import all_uncontained, generated  # noqa: E402

from fastpg import evaluate  # noqa: E402
from fastpg.exact.lifting import Lifting, centred, inverse, small_fraction  # noqa: E402
from fastpg.exact.rationals import exact  # noqa: E402

WIDE = st.one_of(st.integers(-9, 9), st.integers(-(2**200), 2**200))


@st.composite
def systems(draw):
    """A regular integer matrix, a right-hand side, and a number that may have to do with neither."""
    n = draw(st.integers(1, 5))
    A = flint.fmpz_mat(n, n, draw(st.lists(WIDE, min_size=n * n, max_size=n * n)))
    assume(A.det() != 0)
    b = flint.fmpz_mat(n, 1, draw(st.lists(WIDE, min_size=n, max_size=n)))
    return A, b, flint.fmpz(draw(st.one_of(st.just(1), st.integers(2, 2**90))))


# Here the first numerators found modulo the power have to be taken anew when the denominator grows.
GROWS = (
    flint.fmpz_mat([[1, -1, -5], [0, 1, -3], [0, 0, 8]]),
    flint.fmpz_mat([[0], [780055967], [64829427447233735]]),
    flint.fmpz(361188244260009341),
)


@given(systems())
@example(GROWS)
def test_solves_as_elimination_over_the_rationals(system):
    A, b, known = system
    for given_inverse in (inverse(A), inverse(A.transpose()).transpose()):
        N, D = Lifting(given_inverse, b).solution(known)
        expected = flint.fmpq_mat(A).solve(flint.fmpq_mat(b), algorithm="fflu")
        assert D > 0
        assert D % known == 0
        assert [flint.fmpq(n, D) for n in N] == expected.entries()


@given(systems(), st.integers(0, 700))
def test_the_expansion_and_its_residual_are_the_system(system, bits):
    A, b, _ = system
    lifting = Lifting(inverse(A), b)
    lifting.extend(bits)
    lifting.extend(bits + 200)
    assert A * lifting.x + lifting.power * lifting.residual == b
    assert lifting.power.bit_length() >= (bits + 200) * 62 // 64


@given(systems())
@example(GROWS)
def test_an_expansion_too_short_for_a_proof_gives_nothing(system):
    A, b, known = system
    lifting = Lifting(inverse(A), b)
    while (found := lifting.attempt(known)) is None:
        lifting.extend(int(lifting.power.bit_length()) + 1)
    N, D = found
    assert A * flint.fmpz_mat(len(N), 1, N) == D * b


@pytest.mark.parametrize("states", [20, 40])
def test_long_solutions_take_higher_powers(states):
    """Rows of so many bits that Newton's step is taken: the matrix is inverted modulo p^2 and p^4."""
    entries = [(states << 700) * (i == j) + (3 * i + 7 * j) ** 70 for i in range(states) for j in range(states)]
    A = flint.fmpz_mat(states, states, entries)
    found = inverse(A)
    assert found.q.bit_length() > 200
    product = (A * found.modulo).entries()
    assert all((x - (i % (states + 1) == 0)) % found.q == 0 for i, x in enumerate(product))


def test_a_matrix_that_is_singular_modulo_the_first_prime():
    p = 2**63 + 29
    N, D = Lifting(inverse(flint.fmpz_mat([[p, 0], [0, 1]])), flint.fmpz_mat([[1], [2]])).solution(flint.fmpz(1))
    assert [flint.fmpq(n, D) for n in N] == [flint.fmpq(1, p), flint.fmpq(2)]


def test_a_fraction_is_found_only_where_no_other_is_as_small():
    m = flint.fmpz(10) ** 60
    assert small_fraction(centred(-22 * pow(7, -1, m), m), flint.fmpz(1), m) == (-22, 7)
    assert small_fraction(flint.fmpz(3) ** 100 % m, flint.fmpz(1), m) is None


@given(st.lists(WIDE, min_size=1, max_size=6), st.lists(WIDE, min_size=1, max_size=6), st.integers(1, 2**70))
def test_what_products_share_with_a_factor_is_known_from_their_parts(x, y, factor):
    factor = flint.fmpz(factor)
    table = exact(np.array(x, dtype=object))[:, None] * exact(np.array(y, dtype=object))[None, :]
    shared = table.shared(factor)
    assert factor % shared == 0
    assert all(shared % n.gcd(factor) == 0 for n in table.numerator.ravel() if n)


@pytest.mark.parametrize("seed", [5183, 8216])
def test_systems_that_no_power_seems_to_prove_are_eliminated(seed):
    """Their search for a common denominator finds larger and larger ones."""
    mdp, policy, solver = generated(seed)
    assert all_uncontained(evaluate(mdp, policy, solver=solver)) == {}
