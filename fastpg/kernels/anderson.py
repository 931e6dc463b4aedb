"""What Anderson acceleration adds to an iteration: products with the steps it remembers, each in one pass."""

from fastpg.kernels import kernel
from fastpg.kernels.products import dot


@kernel
def products(rows, count, x, out):
    """out[j] = sum_s rows[j,s] x[s] for j < count"""
    for j in range(count):
        out[j] = dot(rows[j], x)


@kernel
def take_away(weight, rows, count, out):
    """out[s] -= sum_j weight[j] rows[j,s] over j < count, in place, four rows at a time"""
    whole = count - count % 4
    for j in range(0, whole, 4):
        a, b, c, d = weight[j], weight[j + 1], weight[j + 2], weight[j + 3]
        p, q, r, t = rows[j], rows[j + 1], rows[j + 2], rows[j + 3]
        for s in range(out.size):
            out[s] -= (a * p[s] + b * q[s]) + (c * r[s] + d * t[s])
    for j in range(whole, count):
        a, p = weight[j], rows[j]
        for s in range(out.size):
            out[s] -= a * p[s]
