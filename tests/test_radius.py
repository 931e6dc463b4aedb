"""Bounds on spectral radii, against closed forms, rationals and the eigenvalues of NumPy."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from fastpg.errors import InvalidArgument
from fastpg.radius import spectral_radius


def cycle(weights):
    """The matrix of a single cycle; its radius is the geometric mean of the weights."""
    n = len(weights)
    K = np.zeros((n, n))
    K[np.arange(n), (np.arange(n) + 1) % n] = weights
    return K


def walk(n):
    """Steps of probability 1/2 to either side, out at both ends; its radius is cos(pi / (n + 1))."""
    return np.diag(np.full(n - 1, 0.5), 1) + np.diag(np.full(n - 1, 0.5), -1)


def encloses(found, radius, width=None):
    """Whether the bounds hold, and are closer than `width` relative to the radius."""
    close = width is None or found.upper - found.lower <= width * radius
    return found.lower <= radius <= found.upper and close


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array, sparse.coo_array, sparse.csc_matrix])
def test_triangular_matrices_are_exact_and_the_class_is_named(form):
    K = np.triu(np.full((4, 4), 1e9), 1) + np.diag([0.25, 0.75, 0.0, 0.5])
    lower, upper, states = spectral_radius(form(K))
    assert (lower, upper, states.tolist()) == (0.75, 0.75, [1])
    assert not states.flags.writeable


@pytest.mark.parametrize("value", [0.0, 5e-324, 0.5, 1.0, 2.0, 1e308])
def test_one_state(value):
    assert spectral_radius([[value]]) == (value, value, [0])


def test_without_a_cycle_the_radius_is_0():
    assert spectral_radius(np.zeros((3, 3)))[:2] == (0, 0)
    assert spectral_radius(np.triu(np.full((5, 5), 1e300), 1))[:2] == (0, 0)
    assert spectral_radius(sparse.csr_array((7, 7)))[:2] == (0, 0)


@pytest.mark.parametrize(
    "weights",
    [(2, 0.5), (0.5, 2, 1), (4, 4, 4, 1 / 64), (1e300, 1e-300), (2.0**-1010, 2.0**1010), (2.0**-1070, 2.0**1010)],
)
def test_periodic_classes(weights):
    radius = np.exp2(np.log2(weights).mean())
    assert encloses(spectral_radius(cycle(weights)), radius, 1e-11 if radius == 1 else None)


@given(st.lists(st.floats(1e-100, 1e100), min_size=2, max_size=6), st.integers(0, 40))
def test_a_cycle_is_its_geometric_mean_in_any_unit(weights, shift):
    found = spectral_radius(cycle(weights) * 2.0**shift)
    product = Fraction(1)
    for weight in weights:
        product *= Fraction(weight) * 2**shift
    n = len(weights)
    assert Fraction(found.lower) ** n <= product <= Fraction(found.upper) ** n
    assert found.upper < 1 or found.lower > 1 or found.upper - found.lower <= 2e-12 * found.upper
    assert found.states.tolist() == list(range(n))


@given(st.lists(st.floats(2.0**-30, 2.0), min_size=4, max_size=4))
def test_two_states_are_on_the_right_side_of_1_in_rationals(entries):
    a, b, c, d = map(Fraction, entries)
    below = (1 - a) * (1 - d) > b * c and a < 1  # I - K is an M-matrix
    critical = (1 - a) * (1 - d) == b * c and a <= 1
    found = spectral_radius(np.reshape(entries, (2, 2)))
    if found.upper < 1:
        assert below
    elif found.lower > 1:
        assert not below
        assert not critical
    else:
        assert found.upper - found.lower <= 2e-12


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9, 1e-11, -1e-3, -1e-6, -1e-9, -1e-11])
@pytest.mark.parametrize("n", [2, 3, 50, 700])
def test_either_side_of_1_is_told(gap, n):
    K = walk(n) / np.cos(np.pi / (n + 1)) * (1 + gap)
    found = spectral_radius(K)
    assert (found.lower > 1) == (gap > 0)
    assert (found.upper < 1) == (gap < 0)
    assert encloses(found, 1 + gap)


def test_a_radius_of_1_stays_open_but_close():
    found = spectral_radius(np.full((6, 6), 1 / 6))
    assert found.lower < 1 < found.upper
    assert encloses(found, 1, 1e-12)


def test_reducible_matrices_take_the_largest_of_their_classes():
    K = np.zeros((7, 7))
    K[np.ix_([0, 2], [0, 2])] = cycle([0.5, 0.5])
    K[np.ix_([1, 3, 5], [1, 3, 5])] = cycle([0.75, 0.75, 0.75])
    K[4, 4], K[0, 1], K[5, 6] = 0.125, 1e6, 1e6
    found = spectral_radius(K)
    assert encloses(found, 0.75)
    assert found.states.tolist() == [1, 3, 5]
    K[4, 4] = 0.875
    assert spectral_radius(K).states.tolist() == [4]


def test_what_start_cannot_reach_does_not_count():
    K = np.zeros((5, 5))
    K[np.ix_([1, 3], [1, 3])] = cycle([3.0, 3.0])
    K[1, 0] = K[0, 2] = 1.0
    K[2, 2] = 0.5
    assert encloses(spectral_radius(K), 3)
    for start in ([1, 0, 0, 0, 0], [0.5, 0, 0, 0, 0.5]):
        lower, upper, states = spectral_radius(K, start)
        assert (lower, upper, states.tolist()) == (0.5, 0.5, [2])
    assert spectral_radius(K, [0, 0, 0, 0, 1])[:2] == (0, 0)
    assert spectral_radius(K, np.eye(5)[3]).states.tolist() == [1, 3]


@given(st.data())
def test_random_matrices_agree_with_eigenvalues(data):
    n = data.draw(st.integers(1, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    K = np.where(rng.random((n, n)) < data.draw(st.floats(0, 1)), rng.random((n, n)), 0.0)
    leads = np.linalg.matrix_power((K > 0) + np.eye(n), n) > 0
    classes = {tuple(np.flatnonzero(leads[i] & leads[:, i])) for i in range(n)}
    radius = {c: np.abs(np.linalg.eigvals(K[np.ix_(c, c)])).max() for c in classes}
    largest = max(radius.values())
    for found in (spectral_radius(K), spectral_radius(sparse.csr_array(K))):
        assert found.lower - 1e-10 <= largest <= found.upper + 1e-10
        assert found.upper < 1 or found.lower > 1 or found.upper - found.lower <= 1e-11
        if found.upper - found.lower <= 1e-11:
            assert radius[tuple(found.states)] == pytest.approx(largest, abs=1e-9)


def test_a_long_tail_and_many_classes():
    """A tail of 800 states in which x falls to 0.3^800, below every float64."""
    n = 800
    K = np.diag(np.full(n - 1, 0.3), 1)
    K[0, 0], K[n - 1, 0] = 1 + 1e-9, 0.5
    found = spectral_radius(K)
    assert found.lower > 1
    assert encloses(found, 1 + 1e-9)
    many = sparse.block_diag([cycle([0.5, 0.5])] * 3000 + [cycle([1 + 1e-9, 1 + 1e-9])], format="csr")
    found = spectral_radius(many)
    assert found.lower > 1
    assert found.states.tolist() == [6000, 6001]


@pytest.mark.parametrize(
    ("K", "message"),
    [
        ([[1.0, -0.5], [0.0, 1.0]], r"K\[0, 1\] must be finite and not be negative but is -0.5"),
        ([[1.0, 0.5], [np.nan, 1.0]], r"K\[1, 0\] must be finite and not be negative but is nan"),
        (sparse.csr_array([[0.0, 0.0], [0.0, np.inf]]), r"K\[1, 1\] must be finite"),
        (np.ones((2, 3)), r"K must have shape \(S, S\) with S >= 1 but has shape \(2, 3\)"),
        (np.ones(4), "K must have shape"),
        (np.ones((0, 0)), "K must have shape"),
    ],
)
def test_what_is_not_a_non_negative_square_matrix_is_refused(K, message):
    with pytest.raises(InvalidArgument, match=message):
        spectral_radius(K)


def test_start_must_fit_and_have_a_support():
    with pytest.raises(InvalidArgument, match="start must have shape"):
        spectral_radius(np.eye(2), [1.0])
    with pytest.raises(InvalidArgument, match="start must be positive in at least one state"):
        spectral_radius(np.eye(2), [0.0, 0.0])
