"""The vector updates of BiCGSTAB, each in one pass over memory."""

from fastpg.kernels import kernel


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
def full_step(alpha, p, omega, t, x, r):
    """x += alpha p + omega r, then r -= omega t, in place"""
    for s in range(r.size):
        x[s] += alpha * p[s] + omega * r[s]
        r[s] -= omega * t[s]
