"""The vector updates of BiCGSTAB and the terms of a Neumann series, each in one pass over memory."""

import numpy as np

from fastpg.kernels import kernel
from fastpg.kernels.sparse import BLOCK, FOUR

NOTHING = np.float32(0.0)


@kernel
def next_term(data, indices, first, gamma, mean, term, begin, end, out, total, sums):
    """out[s] = gamma (sum_k P(s,k) term[k] - mean) and total[s] += term[s] - mean for s = begin .. end-1, in float32

    sums[i,:] = sum out, sum |out| over block i of the states; `begin` is where one begins.
    """
    for start in range(begin, end, BLOCK):
        signed, size = 0.0, 0.0
        for s in range(start, min(start + BLOCK, end)):
            a, b, c, d = NOTHING, NOTHING, NOTHING, NOTHING
            last = first[s + 1]
            whole = last - (last - first[s]) % FOUR
            for j in range(first[s], whole, 4):
                a += data[j] * term[indices[j]]
                b += data[j + 1] * term[indices[j + 1]]
                c += data[j + 2] * term[indices[j + 2]]
                d += data[j + 3] * term[indices[j + 3]]
            for j in range(whole, last):
                a += data[j] * term[indices[j]]
            out[s] = gamma * (((a + b) + (c + d)) - mean)
            total[s] += np.float32(term[s] - mean)
            signed += out[s]
            size += abs(out[s])
        sums[start // BLOCK, 0], sums[start // BLOCK, 1] = signed, size


@kernel
def flows(data, indices, first, gamma, term, begin, end, out):
    """out[k] = gamma sum_s P(s,k) term[s] over s = begin .. end-1, in float32"""
    out[:] = NOTHING
    for s in range(begin, end):
        flow = np.float32(gamma * term[s])
        for j in range(first[s], first[s + 1]):
            out[indices[j]] += data[j] * flow


@kernel
def next_term_transposed(flows, term, begin, end, out, total, sums):
    """out[k] = sum_i flows[i,k] and total[k] += term[k] for k = begin .. end-1, `sums` as in `next_term`"""
    for start in range(begin, end, BLOCK):
        signed, size, stop = 0.0, 0.0, min(start + BLOCK, end)
        for k in range(start, stop):
            out[k] = flows[0, k]
            total[k] += term[k]
        for i in range(1, flows.shape[0]):
            for k in range(start, stop):
                out[k] += flows[i, k]
        for k in range(start, stop):
            signed += out[k]
            size += abs(out[k])
        sums[start // BLOCK, 0], sums[start // BLOCK, 1] = signed, size


@kernel
def search_direction(r, beta, omega, v, p):
    """p = r + beta (p - omega v), in place"""
    for s in range(r.size):
        p[s] = r[s] + beta * (p[s] - omega * v[s])


@kernel
def half_step(alpha, v, r):
    """r -= alpha v, in place"""
    for s in range(r.size):
        r[s] -= alpha * v[s]


@kernel
def full_step(alpha, p, omega, q, t, x, r):
    """x += alpha p + omega q, then r -= omega t, in place; q may be r"""
    for s in range(r.size):
        x[s] += alpha * p[s] + omega * q[s]
        r[s] -= omega * t[s]
