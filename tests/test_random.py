"""The generators against published vectors, NumPy's Philox, and arithmetic on Python integers."""

import numpy as np
import pytest
from numba import njit

from fastpg.errors import InvalidArgument
from fastpg.kernels import random as kernels
from fastpg.kernels.wide import wide_product
from fastpg.rng import generator, philox_key

ONES = 2**64 - 1

# Random123 1.09, kat_vectors, rows "philox4x64 10": counter, key, words.
PHILOX = [
    ("0 0 0 0", "0 0", "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
    (f"{ONES:x} " * 4, f"{ONES:x} " * 2, "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0"),
    (
        "243f6a8885a308d3 13198a2e03707344 a4093822299f31d0 082efa98ec4e6c89",
        "452821e638d01377 be5466cf34e90c6c",
        "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
    ),
]


def words(text):
    return [np.uint64(int(word, 16)) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), PHILOX)
def test_philox_gives_the_published_words(counter, key, expected):
    state = [np.array([word]) for word in words(counter)]
    kernels.philox(*state, *words(key))
    assert np.concatenate(state).tolist() == words(expected)


def test_streams_are_numpys_philox_at_their_counters():
    key, state = np.array([2**63 + 5, 77], dtype=np.uint64), np.empty((4, 20), np.uint64)
    for first in (1, 12345, 2**40):
        kernels.streams(key, first, *state)
        for j in range(20):
            # NumPy counts up before it draws.
            assert np.array_equal(state[:, j], np.random.Philox(counter=first + j - 1, key=key).random_raw(4))


def test_xoshiro_gives_the_published_words():
    state = words("1 2 3 4")
    found = []
    for _ in range(10):
        word, *state = map(np.uint64, kernels.xoshiro(*state))
        found.append(int(word))
    # The vector with which rand_xoshiro tests Xoshiro256PlusPlus, made with the authors' C program.
    assert found == [
        41943041,
        58720359,
        3588806011781223,
        3591011842654386,
        9228616714210784205,
        9973669472204895162,
        14011001112246962877,
        12406186145184390807,
        15849039046786891736,
        10450023813501588000,
    ]


@njit  # not cached, so that its code can be looked at
def product_of(x, y):
    """x y in two words"""
    return wide_product(x, y)


def test_wide_products_are_whole():
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 2**64, size=(1000, 2), dtype=np.uint64)
    pairs[:3] = np.array([[0, ONES], [ONES, ONES], [1, ONES]], np.uint64)
    for x, y in pairs:
        for multiply in (product_of, product_of.py_func):
            high, low = multiply(x, y)
            assert int(high) * 2**64 + int(low) == int(x) * int(y)
    assert all("mul i128" in code or "mul nuw i128" in code for code in product_of.inspect_llvm().values())


def test_generators_agree_compiled_and_interpreted():
    key, compiled, interpreted = np.array([3, 4], dtype=np.uint64), *np.zeros((2, 5, 7), np.uint64)
    for state, philox, lanes in (
        (compiled, kernels.philox, kernels.xoshiro_lanes),
        (interpreted, kernels.philox.py_func, kernels.xoshiro_lanes.py_func),
    ):
        state[0] = range(7)
        with np.errstate(over="ignore"):
            philox(*state[:4], *key)
            lanes(*state)
    assert np.array_equal(compiled, interpreted)


def test_a_seed_gives_one_key_and_a_generator_is_advanced():
    assert np.array_equal(philox_key(5), philox_key(np.random.default_rng(5)))
    advancing = np.random.default_rng(5)
    assert not np.array_equal(philox_key(advancing), philox_key(advancing))
    assert generator(advancing) is advancing


@pytest.mark.parametrize("bad", [-1, 1.5, None, True, "seed"])
def test_other_seeds_are_refused(bad):
    with pytest.raises(
        InvalidArgument, match=r"rng must be a non-negative int seed or a numpy\.random\.Generator but is"
    ):
        philox_key(bad)
