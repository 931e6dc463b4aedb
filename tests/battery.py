"""Statistics of random words, each a function of words (n,) in the order in which they are drawn, to a p-value.

In the spirit of Dieharder (Brown 2006) and TestU01 (L'Ecuyer & Simard 2007), after Knuth (1997, section 3.3.2) where
nothing else is said. Laws are exact, or limits whose error is far below what n words can show. Both tails count: words
can also be too even. Most look at the high bits alone; `reversed_bits` shows them the low ones.
"""

from math import comb, factorial

import numpy as np
from scipy import stats

ONE = np.uint64(1)


def high(words, bits):
    """The upper bits of each word."""
    return (words >> np.uint64(64 - bits)).astype(np.int64)


def uniform(words):
    """Numbers in (0, 1)."""
    return (high(words, 53) + 0.5) * 2.0**-53


def rows(x, length):
    """As many rows of `length` as there are, one after the other."""
    return x[: x.size // length * length].reshape(-1, length)


def reversed_bits(words):
    """The lowest bit first."""
    table = np.array([int(f"{b:08b}"[::-1], 2) for b in range(256)], np.uint8)
    return table[words.view(np.uint8)].reshape(-1, 8)[:, ::-1].copy().view(np.uint64).ravel()


def both_tails(law, x):
    """How probable a value so far out on either side is."""
    return float(min(1.0, 2 * min(law.sf(x), law.cdf(x))))


def chi_square(count, law):
    """Of counts against probabilities; all below 10 expected are put together, and more until they are as many."""
    count, expected = np.asarray(count, float).ravel(), np.asarray(law, float).ravel() * np.sum(count)
    order = np.argsort(expected)
    count, expected = count[order], expected[order]
    few = max(np.searchsorted(expected, 10.0), np.searchsorted(np.cumsum(expected), 10.0) + 1)
    count, expected = (np.append(x[:few].sum(), x[few:]) for x in (count, expected))
    return both_tails(stats.chi2(count.size - 1), ((count - expected) ** 2 / expected).sum())


def even(cells, number):
    """Whether all of a number of cells are equally likely, many of them or with many words in each."""
    expected = cells.size / number
    return both_tails(stats.chi2(number - 1), ((np.bincount(cells, minlength=number) - expected) ** 2).sum() / expected)


def normal(z):
    """Both tails of a standard normal."""
    return float(2 * stats.norm.sf(abs(z)))


def ones(words):
    """How often each of the 64 bits is 1."""
    low = [np.bincount((words >> np.uint64(8 * b)).astype(np.uint8), minlength=256) for b in range(8)]
    table = (np.arange(256)[:, None] >> np.arange(8)) & 1
    return np.concatenate([count @ table for count in low])


def bits(words):
    """Each of the 64 bits is 1 half of the time."""
    n = words.size
    return both_tails(stats.chi2(64), (4 / n * (ones(words) - n / 2) ** 2).sum())


def monobit(words):
    """Half of all bits are 1."""
    return normal((ones(words).sum() - 32 * words.size) / np.sqrt(16 * words.size))


def changes(words, lag):
    """Of words so far apart each bit differs half of the time: such differences are independent as well."""
    return bits(words[lag:] ^ words[:-lag])


def correlation(words, lag):
    """Of numbers so far apart, which are uncorrelated."""
    u = uniform(words) - 0.5
    products = u[lag:] * u[:-lag]
    return normal(12 * products.sum() / np.sqrt(products.size))


def serial(words, length, size):
    """Tuples of successive words by their upper bits."""
    cells = 0
    for column in rows(high(words, size), length).T:
        cells = cells << size | column
    return even(cells, 2 ** (length * size))


def gap(words, share=16):
    """How many words lie between two with u < 1 / share, up to a number of gaps that are there for certain."""
    hits = np.flatnonzero(high(words, 32) * share < 2**32)
    gaps, longest = np.diff(hits)[: words.size // (2 * share)] - 1, 12 * share
    law = stats.geom(1 / share, loc=-1)
    count = np.bincount(np.minimum(gaps, longest), minlength=longest + 1)
    return chi_square(count, np.append(law.pmf(np.arange(longest)), law.sf(longest - 1)))


def poker(words, hand=5, size=4):
    """How many different values a hand has."""
    hands, d = np.sort(rows(high(words, size), hand), axis=1), 2**size
    different = 1 + (np.diff(hands, axis=1) != 0).sum(axis=1)
    ways = [sum((-1) ** (r - j) * comb(r, j) * j**hand for j in range(r + 1)) * comb(d, r) for r in range(1, hand + 1)]
    return chi_square(np.bincount(different, minlength=hand + 1)[1:], np.array(ways) / d**hand)


def coupons(words, size=3, length=64):
    """How many words of a row are needed until all values have been seen."""
    drawn, d = rows(high(words, size), length), 2**size
    first = [np.where((drawn == c).any(axis=1), (drawn == c).argmax(axis=1) + 1, length + 1) for c in range(d)]
    found = [sum((-1) ** j * comb(d, j) * (1 - j / d) ** t for j in range(d + 1)) for t in range(length + 1)]
    law = np.diff(np.append(found, 1.0))
    return chi_square(np.bincount(np.max(first, axis=0), minlength=length + 2)[d:], law[d - 1 :])


def largest(words, length=8, cells=256):
    """The largest of some numbers, to the power of their number, is uniform."""
    return even((rows(uniform(words), length).max(axis=1) ** length * cells).astype(np.int64), cells)


def birthdays(words, number=2**14, size=38):
    """Spacings of birthdays that come twice (Marsaglia 1985), nearly Poisson of mean number^3 / 4 days."""
    spacings = np.sort(np.diff(np.sort(rows(high(words, size), number), axis=1), axis=1), axis=1)
    return both_poisson(np.count_nonzero(np.diff(spacings, axis=1) == 0), len(spacings) * number**3 / 2 ** (size + 2))


def both_poisson(count, mean):
    """Both tails."""
    return float(2 * min(stats.poisson.sf(count - 1, mean), stats.poisson.cdf(count, mean), 0.5))


def collisions(words, size):
    """Words with the same upper bits are nearly Poisson many."""
    values = np.sort(high(words, size))
    ends = np.flatnonzero(np.diff(values, append=-1))
    same = np.diff(ends, prepend=-1)
    n = words.size
    return both_poisson((same * (same - 1) // 2).sum(), n * (n - 1) / 2 / 2**size)


def rank(words, size):
    """Ranks of random binary matrices of 32 rows, or of a multiple of 64, each filled word by word.

    A generator that is linear over bits with less state than `size` has no matrix of full rank.
    """
    packed = rows(words, size * -(-size // 64)).reshape(-1, size, -(-size // 64)).copy()
    if size < 64:
        packed >>= np.uint64(64 - size)
    count, index = np.zeros(len(packed), np.int64), np.arange(len(packed))
    for column in range(size):
        part, bit = divmod(column, 64)
        has = (packed[:, :, part] >> np.uint64(bit)) & ONE != 0
        has &= np.arange(size) >= count[:, None]
        some = has.any(axis=1)
        matrix, pivot, place = index[some], has.argmax(axis=1)[some], count[some]
        row = packed[matrix, pivot]
        packed[matrix, pivot] = packed[matrix, place]
        packed[matrix, place] = row
        # The row that was swapped away has no such bit, and the pivot is not to lose its own.
        has[matrix, pivot] = has[matrix, place]
        has[matrix, place] = False
        packed[matrix] ^= np.where(has[some][:, :, None], row[:, None], np.uint64(0))
        count += some
    k = np.arange(4)
    full = np.prod(1 - 0.5 ** np.arange(1, size + 1))
    missing = [np.prod((1 - 0.5 ** np.arange(size, size - j, -1)) / (1 - 0.5 ** np.arange(1, j + 1)) ** 2) for j in k]
    law = full * 0.5 ** (k**2) * np.array(missing)
    lacking = np.minimum(size - count, 4)
    return chi_square(np.bincount(lacking, minlength=5), np.append(law, 1 - law.sum()))


def run_up(words, length=12):
    """How long the first increasing run of a row is."""
    rising = np.diff(rows(uniform(words), length), axis=1) > 0
    run = np.where(rising.all(axis=1), length, rising.argmin(axis=1) + 1)
    at_least = np.array([1 / factorial(r) for r in range(1, length + 1)] + [0.0])
    return chi_square(np.bincount(run, minlength=length + 1)[1:], -np.diff(at_least))


def weights(words):
    """The number of 1s in each word."""
    return chi_square(np.bincount(np.bitwise_count(words), minlength=65), stats.binom(64, 0.5).pmf(np.arange(65)))


def weight_pairs(words):
    """Of successive words the numbers of 1s, in nine classes each, are independent."""
    edges = np.array([26, 28, 30, 31, 32, 33, 35, 37])
    first, second = np.searchsorted(edges, rows(np.bitwise_count(words), 2).T, side="right")
    law = np.diff(np.concatenate(([0.0], stats.binom(64, 0.5).cdf(edges - 1), [1.0])))
    return chi_square(np.bincount(9 * first + second, minlength=81), np.outer(law, law))


def walk(words):
    """The largest sum of the first bits of a word, each 1 or -1: P(max >= r) = 2 P(S > r) + P(S = r) by reflection."""
    S, top = np.zeros(words.size, np.int8), np.zeros(words.size, np.int8)
    for bit in range(64):
        S += ((words >> np.uint64(bit)) & ONE).astype(np.int8) * np.int8(2) - np.int8(1)
        np.maximum(top, S, out=top)
    r = np.arange(66)
    ups = stats.binom(64, 0.5)
    equal = np.where(r % 2 == 0, ups.pmf((64 + r) // 2), 0.0)
    at_least = 2 * ups.sf((64 + r) // 2) + equal
    return chi_square(np.bincount(top, minlength=65), -np.diff(at_least))


def orderings(words, length=5):
    """All orderings of a tuple are equally likely."""
    u, code = rows(uniform(words), length), 0
    for j in range(1, length):
        code = code * (j + 1) + (u[:, :j] > u[:, j : j + 1]).sum(axis=1)
    return even(code, factorial(length))


def spectrum(words, length=512):
    """Powers of frequencies in blocks: the mean of m of them is nearly normal, with a variance of 1 / m."""
    powers = np.abs(np.fft.rfft(rows(uniform(words) - 0.5, length), axis=1)[:, 1 : length // 2]) ** 2 * 12 / length
    z = (powers.mean(axis=0) - 1) * np.sqrt(len(powers))
    return both_tails(stats.chi2(z.size), (z**2).sum())


def cells(words, number):
    """What an outcome is drawn by: its cell floor(x number / 2^64) and the part of the cell, in eighths."""
    n, half = np.uint64(number), np.uint64(32)
    cell = ((words >> half) * n + ((words & np.uint64(2**32 - 1)) * n >> half)) >> half
    return even(cell.astype(np.int64) * 8 + high(words * n, 3), 8 * number)


def cell_pairs(words, number):
    """Cells of successive words."""
    drawn = rows((uniform(words) * number).astype(np.int64), 2)
    return even(number * drawn[:, 0] + drawn[:, 1], number**2)


BATTERY = {
    "monobit": monobit,
    "bits": bits,
    "weights": weights,
    "pairs of weights": weight_pairs,
    "pairs": lambda w: serial(w, 2, 8),
    "triples": lambda w: serial(w, 3, 5),
    "eights": lambda w: serial(w, 8, 2),
    "gaps": gap,
    "poker": poker,
    "coupons": coupons,
    "largest of 8": largest,
    "birthdays": birthdays,
    "collisions": lambda w: collisions(w, 34),
    # The slow ones look at some of the words.
    "rank 32": lambda w: rank(w[: 2**18], 32),
    "rank 512": lambda w: rank(w[: 2**18], 512),
    "runs up": run_up,
    "orderings": orderings,
    "walk": walk,
    "spectrum": spectrum,
    "cells of 3": lambda w: cells(w, 3),
    "cells of 7": lambda w: cells(w, 7),
    "cells of 400": lambda w: cells(w, 400),
    "pairs of cells of 6": lambda w: cell_pairs(w, 6),
    "pairs of cells of 100": lambda w: cell_pairs(w, 100),
}
# Neighbours, what is near and far in powers of 2, and one lane further of the sampler.
LAGS = (1, 2, 3, 4, 8, 16, 31, 32, 64, 144)
BATTERY |= {f"changes at lag {k}": lambda w, k=k: changes(w, k) for k in LAGS}
BATTERY |= {f"correlation at lag {k}": lambda w, k=k: correlation(w, k) for k in LAGS}


def p_values(words):
    """Every statistic of some words, about 2^20 of them or more."""
    return {name: statistic(words) for name, statistic in BATTERY.items()}
