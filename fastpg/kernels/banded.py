"""Elimination without subtraction within a band: row s of `band` (S, lower + 1 + upper) begins at column s - lower.

Of I - discount P_pi only flows are stored, transitions to other states times the discount, and `leaving`, row sums.
"""

import numpy as np

from fastpg.kernels import kernel

# Numba tests a signed index for being negative, which tripled the time of the elimination.
ONE = np.uint64(1)


@kernel
def fill_band(data, indices, first, place, gamma, complement, band, lower, leaving):
    """band = gamma P(s,k) / sum_k P(s,k) for k != s, and leaving = 1 - gamma, or 1 where the row is empty

    State s is row place[s]. What leads out of the band is added to `leaving`.
    """
    upper = band.shape[1] - lower - 1
    for s in range(place.size):
        total = 0.0
        for j in range(first[s], first[s + 1]):
            total += data[j]
        i = place[s]
        leaving[i] = complement if total > 0.0 else 1.0
        for j in range(first[s], first[s + 1]):
            step = place[indices[j]] - i
            flow = gamma * (data[j] / total) if data[j] != 0.0 else 0.0
            if step < -lower or step > upper:
                leaving[i] += flow
            elif step != 0:
                band[i, lower + step] += flow


@kernel
def eliminate_band(band, lower, leaving):
    """L U = I - gamma P_pi in place: -L left of the pivots, which take the diagonal's place, and I - U right of them

        pivot_k = leaving_k + sum_{j>k} f_kj;  f_kj /= pivot_k;  leaving_k /= pivot_k;
        f_ij += f_ik f_kj and leaving_i += f_ik leaving_k for i, j > k

    (Grassmann, Taksar & Heyman 1985). Returns the smallest pivot.
    """
    S, width = band.shape
    f, least = band.reshape(-1), 1.0
    upper, down = np.uint64(width - lower - 1), np.uint64(width - 1)
    for k in range(S):
        here = np.uint64(k * width + lower)
        pivot = leaving[k]
        for j in range(here + ONE, here + upper + ONE):
            pivot += f[j]
        least = min(least, pivot)
        f[here] = pivot
        leaving[k] /= pivot
        for j in range(here + ONE, here + upper + ONE):
            f[j] /= pivot
        there = here
        for i in range(k + 1, min(k + lower, S - 1) + 1):
            there += down
            flow = f[there]
            if flow != 0.0:
                leaving[i] += flow * leaving[k]
                for j in range(ONE, upper + ONE):
                    f[there + j] += flow * f[here + j]
    return least


@kernel
def substitute_band(band, lower, x):
    """L U x = x, in place"""
    S, width = band.shape
    for i in range(S):
        total = x[i]
        for j in range(max(lower - i, 0), lower):
            total += band[i, j] * x[i - lower + j]
        x[i] = total / band[i, lower]
    for i in range(S - 1, -1, -1):
        total = x[i]
        for j in range(lower + 1, min(width, S - i + lower)):
            total += band[i, j] * x[i - lower + j]
        x[i] = total


@kernel
def substitute_band_transposed(band, lower, x):
    """(L U)^T x = x, in place"""
    S, width = band.shape
    for i in range(S):
        for j in range(lower + 1, min(width, S - i + lower)):
            x[i - lower + j] += band[i, j] * x[i]
    for i in range(S - 1, -1, -1):
        x[i] /= band[i, lower]
        for j in range(max(lower - i, 0), lower):
            x[i - lower + j] += band[i, j] * x[i]
