"""The words that the sampler draws with, as it draws them: many streams beside one another, each a few words long.

Nine statistics of 2^24 words, each given ALPHA. What they find with probability .999: a bit that is 1 with probability
.5015, a correlation of .002, twice as many collisions as there ought to be. Mutants are rejected by the one meant.
"""

import numpy as np
import pytest
from scipy import stats

from fastpg.kernels import random as kernels

# The whole suite raises a false alarm with probability 1e-6 for each chance it is given here; seeds are fixed.
ALPHA = 1e-6

STREAMS, WORDS = 2**18, 64
KEY = np.array([0, 1], dtype=np.uint64)


def words(state):
    """(WORDS, STREAMS): what each stream gives from `state` (4, STREAMS)."""
    out = np.empty((WORDS, state.shape[1]), np.uint64)
    lanes = [row.copy() for row in state]
    for row in out:
        kernels.xoshiro_lanes(*lanes, row)
    return out


def keyed():
    """The states of consecutive streams, as the sampler keys them."""
    state = np.empty((4, STREAMS), np.uint64)
    kernels.streams(KEY, 10**6, *state)
    return state


def ones(words):
    """How often each of the 64 bits is 1."""
    low = [np.bincount((words >> np.uint64(8 * b)).ravel() & np.uint64(255), minlength=256) for b in range(8)]
    table = (np.arange(256)[:, None] >> np.arange(8)) & 1
    return np.concatenate([count @ table for count in low])


def bits(words):
    """Chi-square of the frequencies of 64 bits, each 1 with probability 1/2."""
    n = words.size
    return stats.chi2.sf((4.0 / n * (ones(words) - n / 2) ** 2).sum(), 64)


def correlation(x, y):
    """Of two sets of uniform numbers, both tails."""
    u, v = ((words >> np.uint64(11)) * 2.0**-53 - 0.5 for words in (x, y))
    return 2 * stats.norm.sf(abs(12 * (u * v).sum() / np.sqrt(u.size)))


def collisions(cells, space):
    """Of n balls in many more cells: the pairs in the same cell are nearly Poisson, both tails."""
    n = cells.size
    _, count = np.unique(cells, return_counts=True)
    pairs, mean = (count * (count - 1) // 2).sum(), n * (n - 1) / 2 / space
    return 2 * min(stats.poisson.sf(pairs - 1, mean), stats.poisson.cdf(pairs, mean), 0.5)


def gaps(words):
    """Chi-square of the waiting times of u < 1/16 along each stream, up to the first."""
    small = (words >> np.uint64(60)) == 0
    first = np.where(small.any(axis=0), small.argmax(axis=0), WORDS)
    law = np.append((15 / 16) ** np.arange(WORDS) / 16, (15 / 16) ** WORDS)
    return stats.chisquare(np.bincount(first, minlength=WORDS + 1), law * words.shape[1]).pvalue


def p_values(w):
    """Each statistic of words (WORDS, STREAMS)."""
    some, half = w[:4].ravel(), np.uint64(32)
    neighbours = (w[0, 1:] >> np.uint64(50)) << np.uint64(14) | w[0, :-1] >> np.uint64(50)
    return {
        "bits": bits(w),
        "bits that change from stream to stream": bits(w[:, 1:] ^ w[:, :-1]),
        "bits that change along a stream": bits(w[1:] ^ w[:-1]),
        "correlation of neighbouring streams": correlation(w[:, 1:], w[:, :-1]),
        "correlation along a stream": correlation(w[1:], w[:-1]),
        "collisions of high bits": collisions(some >> half, 2**32),
        "collisions of low bits": collisions(some & np.uint64(2**32 - 1), 2**32),
        "collisions of neighbours": collisions(neighbours, 2**28),
        "gaps": gaps(w),
    }


def test_streams_look_random_together():
    found = p_values(words(keyed()))
    assert min(found.values()) > ALPHA, found


def consecutive():
    """Streams that differ in one word of their state alone."""
    state = np.full((4, STREAMS), 0x9E3779B97F4A7C15, np.uint64)
    state[0] += np.arange(STREAMS, dtype=np.uint64)
    return words(state)


def repeated():
    """Streams that come twice, far apart."""
    state = keyed()
    state[:, STREAMS // 2 :] = state[:, : STREAMS // 2]
    return words(state)


def shifted():
    """Streams that are one word ahead of their neighbour."""
    long = words(keyed()[:, : STREAMS // WORDS + 1]).T.ravel()
    return np.lib.stride_tricks.sliding_window_view(long, WORDS)[:STREAMS].T.copy()


def rounded():
    """Words of 53 bits."""
    return words(keyed()) & ~np.uint64(2**11 - 1)


MUTANTS = [
    (consecutive, "correlation of neighbouring streams"),
    (repeated, "collisions of high bits"),
    (shifted, "collisions of low bits"),
    (rounded, "bits"),
]


@pytest.mark.parametrize(("mutant", "statistic"), MUTANTS)
def test_words_that_are_not_random_are_rejected(mutant, statistic):
    assert p_values(mutant())[statistic] < ALPHA


def test_lanes_give_the_words_of_one_stream():
    state = keyed()[:, :5]
    expected = np.empty((3, 5), np.uint64)
    for lane in range(5):
        one = state[:, lane]
        for t in range(3):
            expected[t, lane], *one = kernels.xoshiro(*map(np.uint64, one))
    assert np.array_equal(words(state)[:3], expected)
