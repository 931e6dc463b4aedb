"""Sweeps over the steps of a finite horizon."""

from fastpg.kernels import kernel
from fastpg.kernels.evaluation import advantage


@kernel
def values_to_go(columns, r, gamma, out):
    """out[k,s] = r(s) + gamma sum_j P(j|s) out[k-1,j] for k = 1..T, with columns[j,s] = P(j|s) and out[0] given"""
    S = r.size
    for k in range(1, out.shape[0]):
        for s in range(S):
            out[k, s] = 0.0
        for j in range(S):
            v = out[k - 1, j]
            if v != 0.0:
                for s in range(S):
                    out[k, s] += columns[j, s] * v
        for s in range(S):
            out[k, s] = r[s] + gamma * out[k, s]


@kernel
def sparse_values_to_go(data, column, first, r, gamma, out):
    """out[k,s] = r(s) + gamma sum_j P(j|s) out[k-1,j] for k = 1..T; P(.|s) is data[first[s]:first[s+1]]"""
    for k in range(1, out.shape[0]):
        for s in range(r.size):
            total = 0.0
            for i in range(first[s], first[s + 1]):
                total += data[i] * out[k - 1, column[i]]
            out[k, s] = r[s] + gamma * total


@kernel
def laws(P, terminal, out):
    """out[t+1,k] = sum_s out[t,s] P(k|s), and out[t,k] stays where terminal, for t = 0..T-1 with out[0] given"""
    S = terminal.size
    for t in range(out.shape[0] - 1):
        for s in range(S):
            out[t + 1, s] = 0.0
        for s in range(S):
            mass = out[t, s]
            if mass != 0.0:
                for k in range(S):
                    out[t + 1, k] += mass * P[s, k]
        for s in range(S):
            if terminal[s]:
                out[t + 1, s] += out[t, s]


@kernel
def sparse_laws(data, column, first, terminal, out):
    """out[t+1,k] = sum_s out[t,s] P(k|s), and out[t,k] stays where terminal, for t = 0..T-1 with out[0] given"""
    S = terminal.size
    for t in range(out.shape[0] - 1):
        for s in range(S):
            out[t + 1, s] = 0.0
        for s in range(S):
            mass = out[t, s]
            if mass != 0.0:
                for i in range(first[s], first[s + 1]):
                    out[t + 1, column[i]] += mass * data[i]
        for s in range(S):
            if terminal[s]:
                out[t + 1, s] += out[t, s]


@kernel
def advantages(pi, q, available, out):
    """out[t] is the advantage of q[t], for each t"""
    for t in range(q.shape[0]):
        advantage(pi, q[t], available, out[t])
