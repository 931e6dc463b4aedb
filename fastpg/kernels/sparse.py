"""Chains stored as compressed rows: entries `data`, columns `indices`, and `first`, where each row begins.

Products take unsigned `indices`: Numba tests a signed index for being negative, which doubled their time.
"""

import numpy as np

from fastpg.kernels import kernel

FOUR = np.uint32(4)
# States whose sum is added up by itself, so that sums do not depend on how work is shared.
BLOCK = 4096


@kernel
def merge_successors(indices, first, pi, last, out, begin, place):
    """out = the k with P(k|s,a) stored for an a with pi(a|s) > 0, those of state s from begin[s] on, in the order met

    place[j] is where entry j of P has its k in `out`; last[k] = -1 says where k was put last.
    """
    S, A = pi.shape
    n = 0
    begin[0] = 0
    for s in range(S):
        start = n
        for a in range(A):
            if pi[s, a] != 0.0:
                for j in range(first[s * A + a], first[s * A + a + 1]):
                    k = indices[j]
                    if last[k] < start:
                        last[k] = n
                        out[n] = k
                        n += 1
                    place[j] = last[k]
        begin[s + 1] = n


@kernel
def merge_transitions(data, first, pi, place, begin, start, stop, out):
    """out[place[j]] = sum_a pi(a|s) P(k|s,a) over the entries j of state s that lead to k, for s = start..stop-1"""
    A = pi.shape[1]
    for s in range(start, stop):
        for n in range(np.uint64(begin[s]), np.uint64(begin[s + 1])):
            out[n] = 0.0
        for a in range(A):
            p = pi[s, a]
            if p != 0.0:
                for j in range(np.uint64(first[s * A + a]), np.uint64(first[s * A + a + 1])):
                    out[np.uint64(place[j])] += p * data[j]


@kernel
def count_entries(P, most):
    """How many entries of the dense P are not 0, counted until there are more than `most`."""
    S = P.shape[0]
    n = 0
    for s in range(S):
        for k in range(S):
            n += P[s, k] != 0.0
        if n > most:
            break
    return n


@kernel
def compress(P, out_data, out_indices, out_first):
    """The entries of the dense P that are not 0, in CSR"""
    S = P.shape[0]
    n = 0
    out_first[0] = 0
    for s in range(S):
        for k in range(S):
            if P[s, k] != 0.0:
                out_indices[n] = k
                out_data[n] = P[s, k]
                n += 1
        out_first[s + 1] = n


@kernel
def resolvent_product(data, indices, first, gamma, x, begin, end, out):
    """out[s] = x[s] - gamma sum_k P(s,k) x[k] for s = begin .. end-1, in four sums: none waits for the one before"""
    for s in range(begin, end):
        a, b, c, d = 0.0, 0.0, 0.0, 0.0
        last = first[s + 1]
        whole = last - (last - first[s]) % FOUR
        for j in range(first[s], whole, 4):
            a += data[j] * x[indices[j]]
            b += data[j + 1] * x[indices[j + 1]]
            c += data[j + 2] * x[indices[j + 2]]
            d += data[j + 3] * x[indices[j + 3]]
        for j in range(whole, last):
            a += data[j] * x[indices[j]]
        out[s] = x[s] - gamma * ((a + b) + (c + d))


@kernel
def resolvent_product_transposed(data, indices, first, gamma, x, out):
    """out[k] = x[k] - gamma sum_s P(s,k) x[s]"""
    for s in range(out.size):
        out[s] = x[s]
    for s in range(out.size):
        flow = gamma * x[s]
        for j in range(first[s], first[s + 1]):
            out[indices[j]] -= data[j] * flow


@kernel
def count_columns(indices, out):
    """out[k] += how many entries are stored in column k"""
    for k in indices:
        out[k] += 1


@kernel
def longest_moves(indices, first, reach, out):
    """out[0,:] = max s - k and max k - s over the stored entries (s,k), out[1,:] over those with |k - s| <= reach

    `out` is 0 at first. Returns how many entries lead farther than `reach`.
    """
    far = 0
    for s in range(first.size - 1):
        low, high = s, s
        for j in range(first[s], first[s + 1]):
            low, high = min(low, indices[j]), max(high, indices[j])
        out[0, 0], out[0, 1] = max(out[0, 0], s - low), max(out[0, 1], high - s)
        if s - low <= reach and high - s <= reach:
            out[1, 0], out[1, 1] = max(out[1, 0], s - low), max(out[1, 1], high - s)
        else:
            for j in range(first[s], first[s + 1]):
                step = indices[j] - s
                if abs(step) <= reach:
                    out[1, 0], out[1, 1] = max(out[1, 0], -step), max(out[1, 1], step)
                else:
                    far += 1
    return far
