"""The vector updates of BiCGSTAB, each in one pass over memory."""

from fastpg.kernels import kernel


@kernel
def search_direction(r, beta, omega, v, p):
    """p = r + beta (p - omega v), in place"""
    for s in range(r.size):
        p[s] = r[s] + beta * (p[s] - omega * v[s])


@kernel
def step(alpha, p, v, x, r):
    """x += alpha p and r -= alpha v, in place"""
    for s in range(r.size):
        x[s] += alpha * p[s]
        r[s] -= alpha * v[s]
