"""Sums and products in two floats, and the equations of a policy evaluated with them.

A twofold number is an unevaluated sum of two floats, about 106 bits. u = 2^-53 is the unit roundoff. Each bound below
is one of the cited papers, rounded up; it holds without overflow, and but for a few 2^-1074 where products underflow.
"""

import numpy as np

from fastpg.kernels import kernel

# Splits a float into two of at most 26 bits (Dekker 1971).
SPLIT = 134217729.0
U2 = 2.0**-106
# More than what the products of one row lose where they underflow, once their sizes are scaled to about 1.
TINY = 2.0**-1040


@kernel
def two_sum(x, y):
    """x + y exactly   (Knuth)"""
    s = x + y
    z = s - x
    return s, (x - (s - z)) + (y - z)


@kernel
def two_product(x, y):
    """x y exactly   (Dekker 1971)"""
    p = x * y
    c = SPLIT * x
    xh = c - (c - x)
    xl = x - xh
    c = SPLIT * y
    yh = c - (c - y)
    yl = y - yh
    return p, ((xh * yh - p) + xh * yl + xl * yh) + xl * yl


@kernel
def add(xh, xl, yh, yl):
    """x + y within 4 u^2 |x + y|   (Joldes, Muller & Popescu 2017, algorithm 6)"""
    sh, sl = two_sum(xh, yh)
    th, tl = two_sum(xl, yl)
    vh, vl = two_sum(sh, sl + th)
    return two_sum(vh, tl + vl)


@kernel
def multiply(xh, xl, yh, yl):
    """x y within 8 u^2 |x y|   (Joldes, Muller & Popescu 2017, algorithm 10)"""
    p, e = two_product(xh, yh)
    return two_sum(p, e + (xh * yl + xl * yh))


@kernel
def divide(xh, xl, yh, yl):
    """x / y within 16 u^2 |x / y|   (Joldes, Muller & Popescu 2017, algorithm 17)"""
    q = xh / yh
    ph, pl = multiply(yh, yl, q, 0.0)
    rh, rl = add(xh, xl, -ph, -pl)
    return two_sum(q, (rh + rl) / yh)


@kernel
def row_sums(data, first, total):
    """total[:,i] = sum of data[j] >= 0 for first[i] <= j < first[i+1], n numbers, within 2 ((n + 2) u)^2 of itself

    (Sum2: Ogita, Rump & Oishi 2005, proposition 4.5, before its last rounding)
    """
    for i in range(first.shape[0] - 1):
        h, e = 0.0, 0.0
        for j in range(first[i], first[i + 1]):
            h, lost = two_sum(h, data[j])
            e += lost
        total[0, i], total[1, i] = two_sum(h, e)


@kernel
def dot_rows(data, indices, first, x, magnitude, out, size):
    """out[:,i] = sum_j data[j] x[:,k(j)] and size[i] = sum_j |data[j]| magnitude[k(j)] for first[i] <= j < first[i+1]

    k(j) = indices[j], or j - first[i] where there are no indices. With |x| <= magnitude the sum of n products is
    right within 2 ((n + 2) u)^2 size[i].   (Dot2: Ogita, Rump & Oishi 2005, proposition 5.5, before its last rounding)
    """
    dense = indices.shape[0] == 0
    for i in range(first.shape[0] - 1):
        h, e, m = 0.0, 0.0, 0.0
        for j in range(first[i], first[i + 1]):
            if data[j] != 0.0:
                k = j - first[i] if dense else np.int64(indices[j])
                p, lost = two_product(data[j], x[0, k])
                h, rounded = two_sum(h, p)
                e += (rounded + lost) + data[j] * x[1, k]
                m += abs(data[j]) * magnitude[k]
        out[0, i], out[1, i] = two_sum(h, e)
        size[i] = m


@kernel
def transposed_dot_rows(data, indices, first, x, out, size):
    """out[:,k] += sum of data[j] x[:,i] over the (i, j) with k(j) = k, and size[k] += the same of absolute values

    n products are summed within 2 ((n + 2) u)^2 size[k], in the notation of `dot_rows`. out[0] + out[1] is the sum.
    """
    dense = indices.shape[0] == 0
    for i in range(first.shape[0] - 1):
        xh, xl = x[0, i], x[1, i]
        if xh != 0.0:
            for j in range(first[i], first[i + 1]):
                if data[j] != 0.0:
                    k = j - first[i] if dense else np.int64(indices[j])
                    p, lost = two_product(data[j], xh)
                    out[0, k], rounded = two_sum(out[0, k], p)
                    out[1, k] += (rounded + lost) + data[j] * xl
                    size[k] += abs(data[j] * xh)


@kernel
def action_gains(first, total, dot, size, r, r_bound, h, out, bound):
    """out[:,s,a] = r(s,a) + dot(s,a) / total(s,a) - h(s), what an action gains on the value h, and its rounding

    0 where there is no row. `dot` and `size` come from `dot_rows` with an x that is right within 40 u^2 magnitude.
    """
    S, A = bound.shape
    for s in range(S):
        for a in range(A):
            i = s * A + a
            out[0, s, a], out[1, s, a], bound[s, a] = 0.0, 0.0, 0.0
            if total[0, i] > 0.0:
                n = first[i + 1] - first[i] + 2.0
                qh, ql = divide(dot[0, i], dot[1, i], total[0, i], total[1, i])
                bh, bl = add(r[0, s, a], r[1, s, a], qh, ql)
                out[0, s, a], out[1, s, a] = add(bh, bl, -h[0, s], -h[1, s])
                ahead = size[i] / total[0, i]
                rounding = (4.0 * n * n + 64.0) * ahead + 16.0 * (abs(r[0, s, a]) + abs(h[0, s]))
                bound[s, a] = 1.001 * (r_bound[s, a] + U2 * rounding) + n * TINY


@kernel
def centred(pi, x, x_bound, out, bound):
    """out = x, but -sum_{a != a0} pi(a) (x(a) - x(a0)) / sum_a pi(a) for the likeliest action a0 if known better

    Both are the same where sum_a pi(a) x(a) = 0; `bound` is what `x_bound` becomes.
    """
    S, A = pi.shape
    for s in range(S):
        a0 = 0
        wh, wl = 0.0, 0.0
        for a in range(A):
            out[0, s, a], out[1, s, a], bound[s, a] = x[0, s, a], x[1, s, a], x_bound[s, a]
            wh, wl = add(wh, wl, pi[s, a], 0.0)
            if pi[s, a] > pi[s, a0]:
                a0 = a
        h, e, m = 0.0, 0.0, 0.0
        for a in range(A):
            if a != a0 and pi[s, a] != 0.0:
                dh, dl = add(x[0, s, a], x[1, s, a], -x[0, s, a0], -x[1, s, a0])
                ph, pl = multiply(dh, dl, pi[s, a], 0.0)
                h, e = add(h, e, ph, pl)
                m += pi[s, a] * (x_bound[s, a] + x_bound[s, a0] + U2 * (16.0 * A + 64.0) * abs(dh))
        m = 1.001 * m / wh + A * TINY
        if m < x_bound[s, a0]:
            h, e = divide(h, e, wh, wl)
            out[0, s, a0], out[1, s, a0], bound[s, a0] = -h, -e, m


@kernel
def policy_average(pi, x, x_bound, ended, out, bound):
    """out[:,s] = sum_a pi(a|s) x(s,a) / sum_a pi(a|s), 0 where ended, and its rounding"""
    S, A = pi.shape
    for s in range(S):
        h, e, wh, wl, m = 0.0, 0.0, 0.0, 0.0, 0.0
        if not ended[s]:
            for a in range(A):
                if pi[s, a] != 0.0:
                    ph, pl = multiply(x[0, s, a], x[1, s, a], pi[s, a], 0.0)
                    h, e = add(h, e, ph, pl)
                    wh, wl = add(wh, wl, pi[s, a], 0.0)
                    m += pi[s, a] * (x_bound[s, a] + U2 * (16.0 * A + 64.0) * abs(x[0, s, a]))
            h, e = divide(h, e, wh, wl)
        out[0, s], out[1, s] = h, e
        bound[s] = 1.001 * m + A * TINY if not ended[s] else 0.0


@kernel
def flows(gamma, d, pi, total, ended, out):
    """out[:,s*A+a] = gamma d(s) pi(a|s) / (sum_b pi(b|s) total(s,a)) where the process goes on

    It is right within (8 A + 80) u^2 of itself, given d and total.
    """
    S, A = pi.shape
    for s in range(S):
        wh, wl = 0.0, 0.0
        for a in range(A):
            wh, wl = add(wh, wl, pi[s, a], 0.0)
        for a in range(A):
            i = s * A + a
            out[0, i], out[1, i] = 0.0, 0.0
            if pi[s, a] != 0.0 and not ended[s] and d[0, s] != 0.0 and total[0, i] > 0.0:
                h, e = multiply(d[0, s], d[1, s], gamma[0], gamma[1])
                h, e = multiply(h, e, pi[s, a], 0.0)
                h, e = divide(h, e, wh, wl)
                out[0, i], out[1, i] = divide(h, e, total[0, i], total[1, i])


@kernel
def quotients(x, total, unit, out):
    """out[:,k] = x[k] / (total unit)"""
    for k in range(x.shape[0]):
        h, e = divide(x[k], 0.0, total[0, 0], total[1, 0])
        out[0, k], out[1, k] = h / unit, e / unit


@kernel
def discounted_change(c, h, level, out):
    """out[:,k] = h(k) - c h(k) - c level within 40 u^2 (|h(k)| + c |level|)"""
    lh, ll = multiply(c[0], c[1], level[0], level[1])
    for k in range(h.shape[1]):
        ph, pl = multiply(c[0], c[1], h[0, k], h[1, k])
        ph, pl = add(ph, pl, lh, ll)
        out[0, k], out[1, k] = add(h[0, k], h[1, k], -ph, -pl)


@kernel
def arrival_change(mu, mu_bound, d, sums, size, rounding, out, bound):
    """out[:,k] = mu(k) + sums(k) - d(k) where sums(k) is right within rounding[k] u^2 size[k]"""
    for k in range(d.shape[1]):
        h, e = two_sum(sums[0, k], sums[1, k])
        h, e = add(mu[0, k], mu[1, k], h, e)
        out[0, k], out[1, k] = add(h, e, -d[0, k], -d[1, k])
        local = rounding[k] * size[k] + 16.0 * (mu[0, k] + abs(d[0, k]))
        bound[k] = 1.001 * (mu_bound[k] + U2 * local) + rounding[k] * TINY


@kernel
def products(d, d_bound, pi, x, x_bound, g, out, bound):
    """out[:,s,a] = d(s) pi(a|s) x(s,a) / sum_b pi(b|s), bound[s,a] >= |g[s,a] - it| for any d and x within bounds"""
    S, A = pi.shape
    for s in range(S):
        wh, wl = 0.0, 0.0
        for a in range(A):
            wh, wl = add(wh, wl, pi[s, a], 0.0)
        for a in range(A):
            out[0, s, a], out[1, s, a], bound[s, a] = 0.0, 0.0, abs(g[s, a])
            if pi[s, a] != 0.0:
                h, e = multiply(d[0, s], d[1, s], x[0, s, a], x[1, s, a])
                h, e = multiply(h, e, pi[s, a], 0.0)
                h, e = divide(h, e, wh, wl)
                out[0, s, a], out[1, s, a] = h, e
                off, rest = add(h, e, -g[s, a], 0.0)
                slack = d_bound[s] * (abs(x[0, s, a]) + x_bound[s, a]) + abs(d[0, s]) * x_bound[s, a]
                bound[s, a] = 1.001 * (abs(off + rest) + pi[s, a] / wh * slack + U2 * (8.0 * A + 80.0) * abs(h)) + TINY


@kernel
def corrected(x, step, out):
    """out[:,k] = x(k) + step(k) within 4 u^2 of itself"""
    for k in range(x.shape[1]):
        out[0, k], out[1, k] = add(x[0, k], x[1, k], step[k], 0.0)


@kernel
def distances(x, h, level, given, out):
    """out[s,a] >= |x(s,a) + h(s) + level - given(s,a)|"""
    S, A = given.shape
    for s in range(S):
        for a in range(A):
            yh, yl = add(h[0, s], h[1, s], level[0], level[1])
            zh, zl = add(x[0, s, a], x[1, s, a], yh, yl)
            off, rest = add(zh, zl, -given[s, a], 0.0)
            out[s, a] = 1.001 * (abs(off + rest) + 16.0 * U2 * (abs(x[0, s, a]) + abs(h[0, s]) + abs(level[0])))
