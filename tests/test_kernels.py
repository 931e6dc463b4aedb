"""Each kernel, compiled and interpreted, on small input; what it computes is tested through the library."""

import inspect

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from fastpg.kernels import evaluation, gth, horizon, policy
from fastpg.kernels.prefetch import prefetch
from fastpg.kernels.products import dot

RNG = np.random.default_rng(0)
S, A, T = 3, 4, 5
EPS = np.finfo(float).eps


def law(*shape):
    """Random laws with some zeros."""
    weight = RNG.random(shape) * (RNG.random(shape) > 0.3)
    weight[..., 0] += 0.5
    return weight / weight.sum(axis=-1, keepdims=True)


def frozen(x):
    """A read-only copy, as kernels get from the library; a number as it is."""
    if np.ndim(x) == 0:
        return float(x)
    x = np.array(x)
    x.flags.writeable = False
    return x


PI, Q, WEIGHT = law(S, A), RNG.standard_normal((S, A)), np.array([0.25, 0.0, 0.5])
AVAILABLE = (PI > 0) | (RNG.random((S, A)) > 0.5)
# The rows (0.5, 0, 0.25), (0, 0, 0), (0, 1, 0).
SPARSE = np.array([0.5, 0.25, 1.0]), np.array([0, 2, 1]), np.array([0, 2, 2, 3])
LOGITS = np.array([[0.0, -np.inf, 1.0, 700.0], [1.7e308, -1.7e308, 0.0, 1.0], [0.3, 0.2, 0.1, -745.0]])

# Kernel -> its arguments before `out`, and what `out` holds at first.
CASES = {
    evaluation.induced_transition: ((law(S, A, S), PI), np.zeros((S, S))),
    evaluation.policy_average: ((PI, Q), np.zeros(S)),
    evaluation.resolvent: ((law(S, S), np.float64(0.9)), np.zeros((S, S))),
    evaluation.action_value: ((Q, np.float64(0.9)), Q[::-1].copy()),
    evaluation.advantage: ((PI, Q, AVAILABLE), np.zeros((S, A))),
    evaluation.cancellation: ((WEIGHT, PI, Q, Q[::-1]), np.ones(2)),
    evaluation.logit_gradient: ((WEIGHT, PI, Q), np.zeros((S, A))),
    evaluation.fisher_blocks: ((WEIGHT, PI), np.zeros((S, A, A))),
    evaluation.finite_horizon_sweep: ((law(T, S), RNG.standard_normal((T, S, A))), np.ones((S, A))),
    evaluation.centred_on_support: ((PI, Q), np.zeros((S, A))),
    horizon.values_to_go: ((law(S, S), np.float64(0.9)), np.ones((T, S))),
    horizon.sparse_values_to_go: ((*SPARSE, np.float64(0.9)), np.ones((T, S))),
    horizon.laws: ((law(S, S), np.float64(0.9), np.array([False, True, False])), np.ones((T, S))),
    horizon.sparse_laws: ((*SPARSE, np.float64(0.9), np.array([False, True, False])), np.ones((T, S))),
    horizon.advantages: ((PI, RNG.standard_normal((T, S, A)), AVAILABLE), np.zeros((T, S, A))),
    policy.softmax: ((LOGITS,), np.zeros((S, A))),
    gth.eliminate: ((law(T, T), RNG.random(T)), np.ones((2, T, T))),
}


def kernels_of(module):
    """The compiled functions that a module defines."""
    return [x for x in vars(module).values() if hasattr(x, "py_func") and x.py_func.__module__ == module.__name__]


def name(kernel):
    """The name of a kernel, for test ids."""
    return kernel.py_func.__name__


def run(function, arguments, out):
    """What `function` leaves in a copy of `out`."""
    result = out.copy()
    with np.errstate(all="ignore"):  # interpreted arithmetic warns where compiled code does not
        finite = function(*(frozen(x) for x in arguments), result)
    assert finite is None or finite == np.isfinite(result).all()
    return result


@pytest.mark.parametrize("module", [evaluation, gth, horizon, policy])
def test_every_kernel_has_a_case_a_docstring_and_writes_out(module):
    for kernel in kernels_of(module):
        assert kernel in CASES
        assert "out[" in kernel.py_func.__doc__
        assert list(inspect.signature(kernel.py_func).parameters)[-1] == "out"


@pytest.mark.parametrize("kernel", CASES, ids=name)
def test_compiled_equals_interpreted(kernel):
    arguments, out = CASES[kernel]
    compiled, interpreted = run(kernel, arguments, out), run(kernel.py_func, arguments, out)
    np.testing.assert_allclose(compiled, interpreted, rtol=4 * EPS, atol=0)
    assert np.isfinite(compiled).all()


@pytest.mark.parametrize("kernel", CASES, ids=name)
def test_arguments_are_only_read(kernel):
    arguments, out = CASES[kernel]
    copies = [x.copy() for x in arguments]
    run(kernel, arguments, out)
    for before, after in zip(copies, arguments, strict=True):
        np.testing.assert_array_equal(before, after)


# These read the probability of the first action only to compare it; elimination ignores a diagonal and mixes rows, and
# so does a sum over all states; sweeps hand a nan on to all later steps.
OTHERWISE = {(evaluation.advantage, 0), (evaluation.centred_on_support, 0), (gth.eliminate, 0), (gth.eliminate, 1)}
OTHERWISE |= {(kernel, i) for kernel in kernels_of(horizon) for i in range(5)}
OTHERWISE |= {(evaluation.cancellation, i) for i in range(4)}
OTHERWISE |= {(evaluation.resolvent, 1), (evaluation.action_value, 1)}
NUMBERS = [(kernel, i) for kernel, (arguments, _) in CASES.items() for i, x in enumerate(arguments) if x.dtype == float]


@pytest.mark.parametrize(
    ("kernel", "position"),
    [case for case in NUMBERS if case not in OTHERWISE],
    ids=lambda x: x if isinstance(x, int) else name(x),
)
def test_nan_is_passed_on(kernel, position):
    arguments, out = CASES[kernel]
    spoiled = [x.copy() for x in arguments]
    spoiled[position].flat[0] = np.nan  # a place of positive probability and weight
    for function in (kernel, kernel.py_func):
        result = run(function, spoiled, out)
        assert np.isnan(result[0]).any()
        assert not np.isnan(result[1:]).any()


def test_nan_of_what_never_happens_is_not_passed_on():
    """Actions of probability 0 may lead where no value exists."""
    pi, q = np.array([[0.5, 0.5, 0.0]]), np.array([[1.0, 3.0, np.nan]])
    adv = run(evaluation.advantage, (pi, q, np.ones((1, 3), bool)), np.zeros((1, 3)))
    np.testing.assert_array_equal(adv, [[-1.0, 1.0, np.nan]])
    gradient = run(evaluation.logit_gradient, (np.array([2.0]), pi, adv), np.zeros((1, 3)))
    np.testing.assert_array_equal(gradient, [[-1.0, 1.0, 0.0]])
    np.testing.assert_array_equal(run(evaluation.centred_on_support, (pi, adv), np.zeros((1, 3))), [[-1.0, 1.0, 0.0]])


@njit  # not cached, so that its code can be looked at
def double_of(x, i):
    """2 x[i], asked for before it is read"""
    prefetch(x, i)
    return x[i] + x[i]


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 2)])
@pytest.mark.parametrize("order", "CF")
def test_asking_for_memory_changes_nothing(shape, order):
    x = np.asarray(RNG.standard_normal(shape), order=order)
    for i in (0, np.uint64(2)):
        for array in (x, frozen(x)):
            assert np.array_equal(double_of(array, i), 2 * x[i])
            assert np.array_equal(double_of.py_func(array, i), 2 * x[i])
    assert all("@llvm.prefetch" in code for code in double_of.inspect_llvm().values())


@njit
def product_of(x, y):
    """x . y"""
    return dot(x, y)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 31, 32, 33, 39, 40, 64, 71, 200])
def test_a_product_is_the_sum_of_all_products(n):
    """Of whole numbers every sum is exact, in any order; each power of two shows whether its place was counted once."""
    x, y = RNG.integers(-1000, 1000, (2, n)).astype(float)
    assert product_of(x, y) == product_of(frozen(x), frozen(y)) == product_of.py_func(x, y) == sum(x * y)
    for first in range(0, n, 40):
        bits = np.zeros(n)
        bits[first : first + 40] = 2.0 ** np.arange(min(40, n - first))
        assert product_of(bits, np.ones(n)) == product_of(np.ones(n), bits) == bits.sum()


def test_a_product_passes_on_what_is_not_finite():
    for place in (0, 33, 44):
        x = np.ones(45)
        x[place] = np.nan
        assert np.isnan(product_of(x, np.ones(45)))
    assert product_of(np.full(9, 1e308), np.full(9, 10.0)) == np.inf


def test_products_of_every_second_number_are_refused():
    with pytest.raises(TypingError):
        product_of(np.ones(8)[::2], np.ones(4))
