"""Bellman operators, a range of states at a time, so that threads can share the work."""

import numpy as np

from fastpg.kernels import kernel


@kernel
def dot(x, y):
    """sum_k x(k) y(k), in sixteen sums side by side: vector instructions, and no sum waits for the one before"""
    n = x.shape[0]
    a0, a1, a2, a3, a4, a5, a6, a7 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    b0, b1, b2, b3, b4, b5, b6, b7 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    whole = n - n % 16
    for k in range(0, whole, 16):
        a0 += x[k] * y[k]
        a1 += x[k + 1] * y[k + 1]
        a2 += x[k + 2] * y[k + 2]
        a3 += x[k + 3] * y[k + 3]
        a4 += x[k + 4] * y[k + 4]
        a5 += x[k + 5] * y[k + 5]
        a6 += x[k + 6] * y[k + 6]
        a7 += x[k + 7] * y[k + 7]
        b0 += x[k + 8] * y[k + 8]
        b1 += x[k + 9] * y[k + 9]
        b2 += x[k + 10] * y[k + 10]
        b3 += x[k + 11] * y[k + 11]
        b4 += x[k + 12] * y[k + 12]
        b5 += x[k + 13] * y[k + 13]
        b6 += x[k + 14] * y[k + 14]
        b7 += x[k + 15] * y[k + 15]
    total = (((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7))) + (((b0 + b1) + (b2 + b3)) + ((b4 + b5) + (b6 + b7)))
    for k in range(whole, n):
        total += x[k] * y[k]
    return total


@kernel
def greedy(P, r, discount, available, value, first, last, out, best):
    """out[s] = max_a r(s,a) + discount sum_k P(k|s,a) value(k) over the available actions, best[s] the first such a

    for s = first .. last-1; 0 and -1 where no action is available.
    """
    A = P.shape[1]
    for s in range(first, last):
        out[s], best[s] = 0.0, -1
        for a in range(A):
            if available[s, a]:
                q = r[s, a] + discount * dot(P[s, a], value)
                if best[s] < 0 or q > out[s]:
                    out[s], best[s] = q, a


@kernel
def sparse_greedy(data, indices, begin, r, discount, available, value, first, last, out, best):
    """`greedy` for transitions in CSR, row s A + a; unsigned `indices`"""
    A = r.shape[1]
    for s in range(first, last):
        out[s], best[s] = 0.0, -1
        for a in range(A):
            if available[s, a]:
                ahead = 0.0
                for j in range(begin[s * A + a], begin[s * A + a + 1]):
                    ahead += data[j] * value[indices[j]]
                q = r[s, a] + discount * ahead
                if best[s] < 0 or q > out[s]:
                    out[s], best[s] = q, a


@kernel
def expected_next(P, value, first, last, out):
    """out[s,a] = sum_k P(k|s,a) value(k) for s = first .. last-1"""
    A = P.shape[1]
    for s in range(first, last):
        for a in range(A):
            out[s, a] = dot(P[s, a], value)


@kernel
def sparse_expected_next(data, indices, begin, value, first, last, out):
    """`expected_next` for transitions in CSR, row s A + a; unsigned `indices`"""
    A = out.shape[1]
    for s in range(first, last):
        for a in range(A):
            total = 0.0
            for j in range(begin[s * A + a], begin[s * A + a + 1]):
                total += data[j] * value[indices[j]]
            out[s, a] = total


UNSIGNED = {4: np.uint32, 8: np.uint64}
