"""Elimination without subtraction within a band, in two parts, each from its end of the chain.

A part is `f` (n, width): row r belongs to its r-th state, counted from the end, and begins at column r - lower; the
last `PAD` entries are 0. Of I - discount P_pi only flows are stored, transitions to other states times the discount,
and `leaving`, row sums. Pivots start..stop-1 are taken; later rows hold what was added to states that both parts reach.
"""

import numpy as np

from fastpg.kernels import kernel
from fastpg.kernels.prefetch import prefetch

# Pivots that are added to a row at once. So many zeros, but one, between rows are read as columns outside of the band.
PIVOTS = 4
PAD = PIVOTS - 1
# Rows that are filled and eliminated while they are in the processor's cache.
ROWS = 64
# Rows after which one is asked for before it is needed, and numbers that come at once: rows of 44 that were no longer
# in a cache took 10 ns instead of 15.
AHEAD, LINE = np.uint64(32), np.uint64(8)
# Numba tests a signed index for being negative, which tripled the time of the elimination.
ONE, TWO, THREE, FOUR = (np.uint64(n) for n in (1, 2, 3, 4))


@kernel
def fill_band(data, indices, first, begin, step, gamma, complement, own, lower, f, leaving, start, stop):
    """f = gamma P(s,k) / sum_k P(s,k) and leaving = 1 - gamma, or 1 where the row is empty, in rows start..stop-1

    Row r is state s = begin + step r. What leads out of the band is added to `leaving`. Of states from `own` on,
    which belong to the other part, only what leads to states before `own` is stored.
    """
    n, width = f.shape
    f = f.reshape(-1)
    band = np.uint64(width - PAD)
    for r in range(start, stop):
        row, s = np.uint64(r * width), begin + step * r
        for c in range(row, row + np.uint64(width)):
            f[c] = 0.0
        limit = np.uint64(max((n if r < own else own) - r + lower, 0))
        total, outside = 0.0, 0.0
        for j in range(np.uint64(first[s]), np.uint64(first[s + 1])):
            # Columns before the band are large without a sign.
            column = np.uint64(step * (np.int64(indices[j]) - s) + lower)
            total += data[j]
            if column >= band:
                outside += data[j]
            elif column < limit:
                f[row + column] += data[j]
        scale = gamma / total if total > 0.0 else 0.0
        for c in range(row, row + band):
            f[c] *= scale
        left = complement if total > 0.0 else 1.0
        leaving[r] = left + scale * outside if r < own else 0.0


@kernel
def take_pivot(f, k, last, lower, upper, width, leaving):
    """One pivot of `eliminate_band`, of which 1 / pivot is stored, added to rows k+1..last; returns the pivot."""
    here = np.uint64(k * width + lower)
    end = here + upper + ONE
    whole = end - upper % FOUR
    a, b, c, d = leaving[k], 0.0, 0.0, 0.0
    for j in range(here + ONE, whole, FOUR):
        a += f[j]
        b += f[j + ONE]
        c += f[j + TWO]
        d += f[j + THREE]
    for j in range(whole, end):
        a += f[j]
    pivot = (a + b) + (c + d)
    scale = 1.0 / pivot
    f[here] = scale
    leaving[k] *= scale
    for j in range(here + ONE, end):
        f[j] *= scale
    there = here
    for i in range(k + 1, last + 1):
        there += np.uint64(width - 1)
        flow = f[there]
        if flow != 0.0:
            leaving[i] += flow * leaving[k]
            for j in range(ONE, upper + ONE):
                f[there + j] += flow * f[here + j]
    return pivot


@kernel
def add_pivots(f, k, rows, lower, upper, width, leaving):
    """The four pivots k..k+3 of `eliminate_band` added to so many rows after them."""
    # Where columns k, ..., k+3 of their rows are.
    down = width - ONE
    a = k * width + lower
    b, c, d = a + down, a + TWO * down, a + THREE * down
    ab, ac, ad = f[a + ONE], f[a + TWO], f[a + THREE]
    bc, bd, cd = f[b + TWO], f[b + THREE], f[c + THREE]
    la, lb, lc, ld = leaving[k], leaving[k + ONE], leaving[k + TWO], leaving[k + THREE]
    there = d + down
    for i in range(k + FOUR, k + FOUR + rows):
        x = f[there]
        y = f[there + ONE] + x * ab
        z = f[there + TWO] + (x * ac + y * bc)
        w = f[there + THREE] + ((x * ad + y * bd) + z * cd)
        f[there + ONE], f[there + TWO], f[there + THREE] = y, z, w
        leaving[i] += (x * la + y * lb) + (z * lc + w * ld)
        for j in range(FOUR, upper + FOUR):
            f[there + j] += (x * f[a + j] + y * f[b + j]) + (z * f[c + j] + w * f[d + j])
        there += down


@kernel
def eliminate_band(f, lower, leaving, start, stop):
    """L U = I - gamma P_pi in place: -L left of the pivots, whose inverses take the diagonal's place, and I - U right

        pivot_k = leaving_k + sum_{j>k} f_kj;  f_kj /= pivot_k;  leaving_k /= pivot_k;
        f_ij += f_ik f_kj and leaving_i += f_ik leaving_k for i, j > k

    (Grassmann, Taksar & Heyman 1985), four pivots at a time in rows that come after them. Returns the smallest pivot.
    """
    n, width = f.shape
    f, least = f.reshape(-1), 1.0
    upper = np.uint64(width - PAD - lower - 1)
    # Narrower bands have less to add than to look for.
    whole = stop - (stop - start) % PIVOTS if lower > PAD and upper > PAD else start
    for k in range(start, whole, PIVOTS):
        for i in range(k, k + PIVOTS):
            least = min(least, take_pivot(f, i, k + PAD, lower, upper, width, leaving))
        rows = np.uint64(min(lower, n - k - PIVOTS))
        add_pivots(f, np.uint64(k), rows, np.uint64(lower), upper, np.uint64(width), leaving)
    for k in range(whole, stop):
        least = min(least, take_pivot(f, k, min(k + lower, n - 1), lower, upper, width, leaving))
    return least


@kernel
def eliminate_part(data, indices, first, begin, step, gamma, complement, own, stop, lower, f, leaving):
    """`fill_band` and then `eliminate_band` for pivots 0..stop-1, a few rows at a time; returns the smallest pivot."""
    n = f.shape[0]
    filled, least = 0, 1.0
    for k in range(0, max(stop, 1), ROWS):
        end = min(k + ROWS, stop)
        reach = min(end + lower, n) if end < stop else n
        fill_band(data, indices, first, begin, step, gamma, complement, own, lower, f, leaving, filled, reach)
        filled = reach
        least = min(least, eliminate_band(f, lower, leaving, k, end))
    return least


@kernel
def meet(f, lower, leaving, g, left, first):
    """The last rows of the other part `g`, counted from the other end, added to rows `first` and further of `f`."""
    n, width = f.shape
    upper = width - PAD - lower - 1
    last = g.shape[0] - 1
    for i in range(first, n):
        leaving[i] += left[last - (i - first)]
        for j in range(max(i - lower, first), min(i + upper + 1, n)):
            f[i, lower + j - i] += g[last - (i - first), upper - (j - i)]


@kernel
def apply_lower(f, lower, x, start, stop):
    """L x = x in place for pivots start..stop-1; to later rows what these add is added"""
    n, width = f.shape
    f = f.reshape(-1)
    for i in range(start, min(stop + lower, n)):
        at, end = np.uint64(i * (width - 1) + lower), np.uint64(min(i, stop))
        k = np.uint64(max(i - lower, start))
        whole = end - (end - k) % FOUR
        a, b, c, d = 0.0, 0.0, 0.0, 0.0
        # The last ones were found last.
        while k < whole:
            a += f[at + k] * x[k]
            b += f[at + k + ONE] * x[k + ONE]
            c += f[at + k + TWO] * x[k + TWO]
            d += f[at + k + THREE] * x[k + THREE]
            k += FOUR
        while k < end:
            a += f[at + k] * x[k]
            k += ONE
        x[i] += (a + b) + (c + d)
        if i < stop:
            x[i] *= f[at + np.uint64(i)]


@kernel
def apply_upper(f, lower, x, start, stop):
    """U x = x in place for pivots start..stop-1, later ones being found"""
    n, width = f.shape
    f = f.reshape(-1)
    upper = width - PAD - lower - 1
    for i in range(stop - 1, start - 1, -1):
        at, end = np.uint64(i * (width - 1) + lower), np.uint64(i + 1)
        k = np.uint64(min(i + 1 + upper, n))
        whole = end + (k - end) % FOUR
        a, b, c, d = 0.0, 0.0, 0.0, 0.0
        while k > whole:
            k -= FOUR
            a += f[at + k] * x[k]
            b += f[at + k + ONE] * x[k + ONE]
            c += f[at + k + TWO] * x[k + TWO]
            d += f[at + k + THREE] * x[k + THREE]
        while k > end:
            k -= ONE
            a += f[at + k] * x[k]
        x[i] += (a + b) + (c + d)


@kernel
def apply_upper_transposed(f, lower, x, start, stop):
    """U^T x = x in place for pivots start..stop-1, four at a time; to later rows what these add is added"""
    n, width = f.shape
    f, down, row = f.reshape(-1), np.uint64(width - 1), np.uint64(width)
    upper = width - PAD - lower - 1
    whole = stop - (stop - start) % PIVOTS
    for first in range(start, whole, PIVOTS):
        i = np.uint64(first)
        # Where column 0 of their rows would be.
        p = i * down + np.uint64(lower)
        q, r, s = p + down, p + TWO * down, p + THREE * down
        for later in range(p + i + AHEAD * row, p + i + (AHEAD + FOUR) * row, row):
            for j in range(later, later + np.uint64(upper), LINE):
                prefetch(f, j)
        a = x[i]
        b = x[i + ONE] + f[p + i + ONE] * a
        c = x[i + TWO] + (f[p + i + TWO] * a + f[q + i + TWO] * b)
        d = x[i + THREE] + ((f[p + i + THREE] * a + f[q + i + THREE] * b) + f[r + i + THREE] * c)
        x[i + ONE], x[i + TWO], x[i + THREE] = b, c, d
        for k in range(i + FOUR, np.uint64(min(first + PIVOTS + upper, n))):
            x[k] += (f[p + k] * a + f[q + k] * b) + (f[r + k] * c + f[s + k] * d)
    for i in range(whole, stop):
        at = np.uint64(i) * down + np.uint64(lower)
        for k in range(np.uint64(i + 1), np.uint64(min(i + 1 + upper, n))):
            x[k] += f[at + k] * x[i]


@kernel
def apply_lower_transposed(f, lower, x, start, stop):
    """L^T x = x in place for pivots start..stop-1, four at a time, later ones being found"""
    n, width = f.shape
    f, down = f.reshape(-1), np.uint64(width - 1)
    for i in range(min(stop + lower, n) - 1, stop - 1, -1):
        at = np.uint64(i) * down + np.uint64(lower)
        for k in range(np.uint64(max(i - lower, start)), np.uint64(stop)):
            x[k] += f[at + k] * x[i]
    for first in range(stop - PIVOTS, start - 1, -PIVOTS):
        i = np.uint64(first)
        p = i * down + np.uint64(lower)
        q, r, s = p + down, p + TWO * down, p + THREE * down
        d = x[i + THREE] * f[s + i + THREE]
        c = (x[i + TWO] + f[s + i + TWO] * d) * f[r + i + TWO]
        b = (x[i + ONE] + (f[s + i + ONE] * d + f[r + i + ONE] * c)) * f[q + i + ONE]
        a = (x[i] + ((f[s + i] * d + f[r + i] * c) + f[q + i] * b)) * f[p + i]
        x[i], x[i + ONE], x[i + TWO], x[i + THREE] = a, b, c, d
        for k in range(np.uint64(max(first - lower, start)), i):
            x[k] += (f[p + k] * a + f[q + k] * b) + (f[r + k] * c + f[s + k] * d)
    for i in range(start + (stop - start) % PIVOTS - 1, start - 1, -1):
        at = np.uint64(i) * down + np.uint64(lower)
        x[i] *= f[at + np.uint64(i)]
        for k in range(np.uint64(max(i - lower, start)), np.uint64(i)):
            x[k] += f[at + k] * x[i]
