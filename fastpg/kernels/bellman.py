"""Bellman operators, a range of states at a time, so that threads can share the work."""

import numpy as np

from fastpg.kernels import kernel
from fastpg.kernels.products import dot


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
