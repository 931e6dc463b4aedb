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
def full_step(alpha, p, omega, q, t, x, r):
    """x += alpha p + omega q, then r -= omega t, in place; q may be r"""
    for s in range(r.size):
        x[s] += alpha * p[s] + omega * q[s]
        r[s] -= omega * t[s]
