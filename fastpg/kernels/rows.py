"""Problems of a batch that are too large for lanes, one at a time: its innermost loops run along the rows of a matrix.

Sums are of four or eight parts, which the compiler makes vector instructions of; see `kernels.lanes` for the equations.
"""

import numpy as np

from fastpg.kernels import kernel
from fastpg.kernels.exponential import exponential
from fastpg.kernels.lanes import EPS, INVALID, SINGULAR, TOLERANCE

# Rows of a panel of the elimination: 38 kB at 200 states.
PANEL = np.uint64(24)
ONE, TWO, THREE, FOUR = (np.uint64(n) for n in (1, 2, 3, 4))


@kernel
def total(x):
    """sum_k x[k]"""
    a, b, c, d, e, f, g, h = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    whole = x.size - x.size % 8
    for k in range(0, whole, 8):
        a += x[k]
        b += x[k + 1]
        c += x[k + 2]
        d += x[k + 3]
        e += x[k + 4]
        f += x[k + 5]
        g += x[k + 6]
        h += x[k + 7]
    for k in range(whole, x.size):
        a += x[k]
    return ((a + b) + (c + d)) + ((e + f) + (g + h))


@kernel
def product(x, y):
    """sum_k x[k] y[k]"""
    a, b, c, d, e, f, g, h = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    whole = x.size - x.size % 8
    for k in range(0, whole, 8):
        a += x[k] * y[k]
        b += x[k + 1] * y[k + 1]
        c += x[k + 2] * y[k + 2]
        d += x[k + 3] * y[k + 3]
        e += x[k + 4] * y[k + 4]
        f += x[k + 5] * y[k + 5]
        g += x[k + 6] * y[k + 6]
        h += x[k + 7] * y[k + 7]
    for k in range(whole, x.size):
        a += x[k] * y[k]
    return ((a + b) + (c + d)) + ((e + f) + (g + h))


@kernel
def two_products(x, y, z):
    """sum_k x[k] y[k] and sum_k x[k] z[k]"""
    a, b, c, d, e, f, g, h = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    whole = x.size - x.size % 4
    for k in range(0, whole, 4):
        a += x[k] * y[k]
        b += x[k + 1] * y[k + 1]
        c += x[k + 2] * y[k + 2]
        d += x[k + 3] * y[k + 3]
        e += x[k] * z[k]
        f += x[k + 1] * z[k + 1]
        g += x[k + 2] * z[k + 2]
        h += x[k + 3] * z[k + 3]
    for k in range(whole, x.size):
        a += x[k] * y[k]
        e += x[k] * z[k]
    return (a + b) + (c + d), (e + f) + (g + h)


@kernel
def softmax(power, out):
    """out[s,a] = exp(out[s,a] - max_b out[s,b]) / sum_c exp(out[s,c] - max_b out[s,b]); `power` (2, S*A) is scratch

    nan where a logit is nan or +inf, or all are -inf.
    """
    S, A = out.shape
    for s in range(S):
        top = out[s, 0]
        for a in range(1, A):
            top = out[s, a] if out[s, a] > top else top
        for a in range(A):
            out[s, a] -= top
    exponential(power, out.reshape(S * A))
    for s in range(S):
        size = 0.0
        for a in range(A):
            size += out[s, a]
        for a in range(A):
            out[s, a] /= size


@kernel
def induce(P, r, pi, discount, goes_on, code, row, scale, leaving, b, out):
    """out[s,k] = gamma P_pi(k|s), b = (r_pi, |r_pi|), `leaving` the row sums of I - gamma P_pi, scale 1 / those of P

    discount = (gamma, 1 - gamma); rows of states that have ended are not read, and scale is 0 there.
    """
    S, A = pi.shape
    for s in range(S):
        out[s, :] = 0.0
        b[0, s] = 0.0
        leaving[s] = discount[1] if goes_on[s] != 0.0 else 1.0
        for a in range(A):
            b[0, s] += pi[s, a] * r[s, a]
            scale[s, a] = 0.0
            if goes_on[s] != 0.0:
                negative = False
                for k in range(S):
                    row[k] = P[s, a, k]
                    negative |= row[k] < 0.0
                size = total(row)
                gap = abs(size - 1.0)
                if negative or not gap <= TOLERANCE:
                    code[0] = INVALID
                scale[s, a] = 1.0 if gap <= S * EPS else 1.0 / size
                weight = discount[0] * pi[s, a] * scale[s, a]
                for k in range(S):
                    out[s, k] += weight * row[k]
        b[1, s] = abs(b[0, s])


@kernel
def eliminate(code, pivot, leaving, b, off):
    """I - discount P_pi = L U without a subtraction; b becomes L^{-1} b, `leaving` too   (see `lanes.eliminate`)

    The rows of a panel stay in the processor's cache while they are added to all below, four at a time. Indices are
    unsigned: Numba tests signed ones for being negative, and then the compiler makes no vector instructions.
    """
    S = np.uint64(off.shape[0])
    for begin in range(np.uint64(0), S, PANEL):
        stop = min(begin + PANEL, S)
        for i in range(begin, S):
            above = min(i, stop)
            whole = above - (above - begin) % FOUR
            for k in range(begin, whole, FOUR):
                x = off[i, k]
                y = off[i, k + ONE] + x * off[k, k + ONE]
                z = off[i, k + TWO] + x * off[k, k + TWO] + y * off[k + ONE, k + TWO]
                w = (
                    off[i, k + THREE]
                    + x * off[k, k + THREE]
                    + y * off[k + ONE, k + THREE]
                    + z * off[k + TWO, k + THREE]
                )
                off[i, k + ONE], off[i, k + TWO], off[i, k + THREE] = y, z, w
                for j in range(k + FOUR, S):
                    first = x * off[k, j] + y * off[k + ONE, j]
                    off[i, j] += first + (z * off[k + TWO, j] + w * off[k + THREE, j])
            for k in range(whole, above):
                x = off[i, k]
                for j in range(k + ONE, S):
                    off[i, j] += x * off[k, j]
            left, x, y = leaving[i], b[0, i], b[1, i]
            for k in range(begin, above):
                left += off[i, k] * leaving[k]
                x += off[i, k] * b[0, k]
                y += off[i, k] * b[1, k]
            leaving[i], b[0, i], b[1, i] = left, x, y
            if i < stop:
                pivot[i] = leaving[i] + total(off[i, i + ONE :])
                if pivot[i] == 0.0 and code[0] == 0.0:
                    code[0] = SINGULAR
                leaving[i] /= pivot[i]
                b[0, i] /= pivot[i]
                b[1, i] /= pivot[i]
                for j in range(i + ONE, S):
                    off[i, j] /= pivot[i]


@kernel
def substitute(off, leaving, b, out):
    """out = U^{-1} applied to b and to what gives V - V(g), g the last state, and its size (see `lanes.substitute`)"""
    S = leaving.size
    g = S - 1
    for k in range(g, -1, -1):
        row = off[k, k + 1 :]
        V, size = two_products(row, out[0, k + 1 :], out[1, k + 1 :])
        h, relative = two_products(row, out[2, k + 1 :], out[3, k + 1 :])
        out[0, k] = b[0, k] + V
        out[1, k] = b[1, k] + size
        out[2, k] = b[0, k] - b[0, g] * leaving[k] + h if k < g else 0.0
        out[3, k] = b[1, k] + b[1, g] * leaving[k] + relative if k < g else 0.0


@kernel
def substitute_transposed(off, pivot, out):
    """out = (L U)^{-T} out"""
    S = out.size
    for i in range(S):
        for k in range(i + 1, S):
            out[k] += off[i, k] * out[i]
    for i in range(S - 1, -1, -1):
        out[i] /= pivot[i]
        for k in range(i):
            out[k] += off[i, k] * out[i]


@kernel
def look_ahead(P, r, scale, gamma, solution, q, out):
    """q[s,a] = r(s,a) + gamma sum_k P(k|s,a) V(k), and out the same of V or h, whichever has less rounding in s"""
    S, A = out.shape
    V, h = solution[0], solution[2]
    for s in range(S):
        for a in range(A):
            q[s, a] = r[s, a]
            if scale[s, a] != 0.0:
                q[s, a] += gamma * scale[s, a] * product(P[s, a], V)
            out[s, a] = q[s, a]
            if scale[s, a] != 0.0 and not solution[1, s] <= solution[3, s]:
                out[s, a] = r[s, a] + gamma * scale[s, a] * product(P[s, a], h)
