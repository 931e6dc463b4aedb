"""Sweeps over the steps of a finite horizon."""

import numpy as np

from fastpg.kernels import kernel
from fastpg.kernels.evaluation import advantage


@kernel
def values_to_go(columns, gamma, out):
    """out[k,s] += gamma sum_j P(j|s) out[k-1,j] for k = 1..T, with columns[j,s] = P(j|s)"""
    S = columns.shape[0]
    ahead = np.empty(S)
    for k in range(1, out.shape[0]):
        ahead[:] = 0.0
        for j in range(S):
            v = out[k - 1, j]
            if v != 0.0:
                for s in range(S):
                    ahead[s] += columns[j, s] * v
        for s in range(S):
            out[k, s] += gamma * ahead[s]


@kernel
def sparse_values_to_go(data, column, first, gamma, out):
    """out[k,s] += gamma sum_j P(j|s) out[k-1,j] for k = 1..T; P(.|s) is data[first[s]:first[s+1]]"""
    for k in range(1, out.shape[0]):
        for s in range(out.shape[1]):
            total = 0.0
            for i in range(first[s], first[s + 1]):
                total += data[i] * out[k - 1, column[i]]
            out[k, s] += gamma * total


@kernel
def laws(P, gamma, stays, out):
    """out[t+1,k] += gamma sum_s out[t,s] P(k|s), and out[t,k] where it `stays`, for t = 0..T-1"""
    S = stays.size
    for t in range(out.shape[0] - 1):
        for s in range(S):
            mass = gamma * out[t, s]
            if mass != 0.0:
                for k in range(S):
                    out[t + 1, k] += mass * P[s, k]
        for s in range(S):
            if stays[s]:
                out[t + 1, s] += out[t, s]


@kernel
def sparse_laws(data, column, first, gamma, stays, out):
    """out[t+1,k] += gamma sum_s out[t,s] P(k|s), and out[t,k] where it `stays`, for t = 0..T-1"""
    S = stays.size
    for t in range(out.shape[0] - 1):
        for s in range(S):
            mass = gamma * out[t, s]
            if mass != 0.0:
                for i in range(first[s], first[s + 1]):
                    out[t + 1, column[i]] += mass * data[i]
        for s in range(S):
            if stays[s]:
                out[t + 1, s] += out[t, s]


@kernel
def advantages(pi, q, available, out):
    """out[t] is the advantage of q[t], for each t"""
    for t in range(q.shape[0]):
        advantage(pi, q[t], available, out[t])
