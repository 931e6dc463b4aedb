"""Many small problems at once: a group of them lies side by side on the last axis of its arrays, one lane for each.

Every inner loop runs over the lanes, which are independent, so that the compiler makes vector instructions of it.
Problem i of a batch of some `shape` reads row sum_x strides[argument, x] i_x of each argument: nothing is copied to
broadcast it. The arguments are those of `fastpg.batch`: P (n, S, A, S), r (n, S, A), gamma (n,), mu (n, S),
theta (n, S, A) and ended (n, S), each with a number n of rows of its own.
"""

from typing import Any, NamedTuple

import numpy as np

from fastpg.kernels import kernel

TOLERANCE = 1e-9
EPS = 2.0**-52

# What is wrong with a problem: its input; the process need not end; a number too large for float64.
INVALID, SINGULAR, OVERFLOW = 1, 2, 3


class Group(NamedTuple):
    """Scratch for one group of L problems."""

    at: Any  # (6, L) rows of the arguments
    gamma: Any  # (L,)
    complement: Any  # (L,) 1 - gamma
    goes_on: Any  # (S, L) 1.0, or 0.0 where the process has ended
    mu: Any  # (S, L)
    pi: Any  # (S, A, L)
    r: Any  # (S, A, L)
    row: Any  # (S, L) the law P(.|s,a) at hand
    total: Any  # (S, A, L) what rows of P are divided by
    off: Any  # (S, S, L) gamma P_pi, then its factors
    leaving: Any  # (S, L) row sums of I - gamma P_pi, then L^{-1} of them
    pivot: Any  # (S, L)
    b: Any  # (S, L) r_pi, then L^{-1} r_pi
    size: Any  # (S, L) the same of |r_pi|
    V: Any  # (S, L)
    h: Any  # (S, L) V - V(g), g the last state
    V_size: Any  # (S, L) entries of V have errors of a few S ulp of this
    h_size: Any  # (S, L) the same for h
    d: Any  # (S, L) D^T mu
    q: Any  # (S, A, L)
    adv: Any  # (S, A, L)
    lane: Any  # (4, L)
    code: Any  # (L,)


@kernel
def workspace(S, A, L):
    """An empty group."""
    return Group(
        np.empty((6, L), np.int64),
        np.empty(L),
        np.empty(L),
        np.empty((S, L)),
        np.empty((S, L)),
        np.empty((S, A, L)),
        np.empty((S, A, L)),
        np.empty((S, L)),
        np.empty((S, A, L)),
        np.empty((S, S, L)),
        np.empty((S, L)),
        np.empty((S, L)),
        np.empty((S, L)),
        np.empty((S, L)),
        np.empty((S, L)),
        np.empty((S, L)),
        np.empty((S, L)),
        np.empty((S, L)),
        np.empty((S, L)),
        np.empty((S, A, L)),
        np.empty((S, A, L)),
        np.empty((4, L)),
        np.empty(L),
    )


@kernel
def locate(first, last, shape, strides, out):
    """out[x,l] = the row of argument x that problem min(first + l, last) of the batch reads"""
    out[:] = 0
    for l in range(out.shape[1]):
        rest = min(first + l, last)
        for axis in range(shape.size - 1, -1, -1):
            digit = rest % shape[axis]
            rest //= shape[axis]
            for x in range(out.shape[0]):
                out[x, l] += digit * strides[x, axis]


@kernel
def normalise(x, goes_on, total, low, code):
    """Each lane of x (n, L) divided by its sum as `validation.law` does, total[l]; 0 where nothing goes on."""
    n, L = x.shape
    total[:] = 0.0
    low[:] = 0.0
    for k in range(n):
        for l in range(L):
            total[l] += x[k, l]
            low[l] = x[k, l] if x[k, l] < low[l] else low[l]
    uneven = 0.0
    for l in range(L):
        gap = abs(total[l] - 1.0)
        good = ((gap <= TOLERANCE) & (low[l] >= 0.0)) | (goes_on[l] == 0.0)
        code[l] = code[l] if good else INVALID
        total[l] = 1.0 if gap <= n * EPS else total[l]
        total[l] = total[l] if goes_on[l] != 0.0 else np.inf
        uneven += 0.0 if total[l] == 1.0 else 1.0
    if uneven != 0.0:
        divide(x, total)


@kernel
def divide(x, total):
    """x[k,l] /= total[l], 0 where that is infinite"""
    for k in range(x.shape[0]):
        for l in range(x.shape[1]):
            x[k, l] = x[k, l] / total[l] if total[l] < np.inf else 0.0


@kernel
def softmax(x, total, top, code):
    """x[a,l] = exp(x[a,l]) / sum_b exp(x[b,l]), -inf masks an action"""
    A, L = x.shape
    for l in range(L):
        top[l] = x[0, l]
        total[l] = 0.0
    for a in range(1, A):
        for l in range(L):
            top[l] = x[a, l] if x[a, l] > top[l] else top[l]
    for a in range(A):
        for l in range(L):
            x[a, l] = np.exp(x[a, l] - top[l])
    for a in range(A):
        for l in range(L):
            total[l] += x[a, l]
    for l in range(L):
        # nan and +inf, and a state whose actions are all masked, make the sum nan
        code[l] = code[l] if total[l] >= 1.0 else INVALID
    for a in range(A):
        for l in range(L):
            x[a, l] /= total[l]


@kernel
def load(r, gamma, mu, theta, ended, G):
    """Everything but the transitions of a group, checked."""
    S, A, L = G.pi.shape
    for l in range(L):
        G.gamma[l] = gamma[G.at[2, l]]
        G.complement[l] = 1.0 - G.gamma[l]
        G.code[l] = 0.0 if (G.gamma[l] >= 0.0) & (G.gamma[l] <= 1.0) else INVALID
    for l in range(L):
        for s in range(S):
            G.goes_on[s, l] = 0.0 if ended[G.at[5, l], s] else 1.0
            G.mu[s, l] = mu[G.at[3, l], s]
            for a in range(A):
                G.r[s, a, l] = r[G.at[1, l], s, a]
                G.pi[s, a, l] = theta[G.at[4, l], s, a]
    G.lane[2] = 1.0
    normalise(G.mu, G.lane[2], G.lane[0], G.lane[1], G.code)
    for s in range(S):
        softmax(G.pi[s], G.lane[0], G.lane[1], G.code)
        for a in range(A):
            for l in range(L):
                bound = np.inf if G.goes_on[s, l] != 0.0 else 5e-324
                G.code[l] = G.code[l] if abs(G.r[s, a, l]) < bound else INVALID


@kernel
def induce(P, G):
    """off = gamma P_pi, b = r_pi, size = |r_pi| and the row sums `leaving` of I - gamma P_pi"""
    S, A, L = G.pi.shape
    for s in range(S):
        for l in range(L):
            G.b[s, l] = 0.0
            G.leaving[s, l] = G.complement[l] if G.goes_on[s, l] != 0.0 else 1.0
        G.off[s] = 0.0
        for a in range(A):
            for l in range(L):
                for k in range(S):
                    G.row[k, l] = P[G.at[0, l], s, a, k]
            normalise(G.row, G.goes_on[s], G.total[s, a], G.lane[0], G.code)
            for l in range(L):
                G.b[s, l] += G.pi[s, a, l] * G.r[s, a, l]
                G.lane[0, l] = G.gamma[l] * G.pi[s, a, l]
            for k in range(S):
                for l in range(L):
                    G.off[s, k, l] += G.lane[0, l] * G.row[k, l]
        for l in range(L):
            G.size[s, l] = abs(G.b[s, l])


@kernel
def eliminate(G):
    """L U = I - gamma P_pi with positive pivots and no subtraction   (Grassmann, Taksar & Heyman 1985)"""
    S, L = G.b.shape
    off, leaving, b, size, pivot = G.off, G.leaving, G.b, G.size, G.pivot
    for k in range(S):
        for l in range(L):
            pivot[k, l] = leaving[k, l]
        for j in range(k + 1, S):
            for l in range(L):
                pivot[k, l] += off[k, j, l]
        for l in range(L):
            G.code[l] = SINGULAR if (pivot[k, l] == 0.0) & (G.code[l] == 0.0) else G.code[l]
            leaving[k, l] /= pivot[k, l]
            b[k, l] /= pivot[k, l]
            size[k, l] /= pivot[k, l]
        for j in range(k + 1, S):
            for l in range(L):
                off[k, j, l] /= pivot[k, l]
        for i in range(k + 1, S):
            for l in range(L):
                leaving[i, l] += off[i, k, l] * leaving[k, l]
                b[i, l] += off[i, k, l] * b[k, l]
                size[i, l] += off[i, k, l] * size[k, l]
            for j in range(k + 1, S):
                for l in range(L):
                    off[i, j, l] += off[i, k, l] * off[k, j, l]


@kernel
def substitute(G):
    """V, h and d from the factors."""
    S, L = G.b.shape
    off, V, h, V_size, h_size, d = G.off, G.V, G.h, G.V_size, G.h_size, G.d
    g = S - 1
    V[g] = G.b[g]
    V_size[g] = G.size[g]
    h[g] = 0.0
    h_size[g] = 0.0
    for k in range(g - 1, -1, -1):
        for l in range(L):
            V[k, l] = G.b[k, l] + off[k, g, l] * V[g, l]
            V_size[k, l] = G.size[k, l] + off[k, g, l] * V_size[g, l]
        for l in range(L):
            h[k, l] = G.b[k, l] - V[g, l] * G.leaving[k, l]
            h_size[k, l] = G.size[k, l] + V_size[g, l] * G.leaving[k, l]
        for j in range(k + 1, g):
            for l in range(L):
                V[k, l] += off[k, j, l] * V[j, l]
                V_size[k, l] += off[k, j, l] * V_size[j, l]
            for l in range(L):
                h[k, l] += off[k, j, l] * h[j, l]
                h_size[k, l] += off[k, j, l] * h_size[j, l]
    for k in range(S):
        d[k] = G.mu[k]
        for i in range(k):
            for l in range(L):
                d[k, l] += off[i, k, l] * d[i, l]
    for k in range(S - 1, -1, -1):
        for i in range(k + 1, S):
            for l in range(L):
                d[k, l] += off[i, k, l] * d[i, l]
        for l in range(L):
            d[k, l] /= G.pivot[k, l]


@kernel
def compare(P, G):
    """q and adv"""
    S, A, L = G.pi.shape
    q, adv, row, V, h = G.q, G.adv, G.row, G.V, G.h
    reference, mean, likeliest = G.lane[0], G.lane[1], G.lane[2]
    for s in range(S):
        for a in range(A):
            uneven = 0.0
            for l in range(L):
                q[s, a, l] = 0.0
                adv[s, a, l] = 0.0
                uneven += 0.0 if G.total[s, a, l] == 1.0 else 1.0
                for k in range(S):
                    row[k, l] = P[G.at[0, l], s, a, k]
            if uneven != 0.0:
                divide(row, G.total[s, a])
            for k in range(S):
                for l in range(L):
                    q[s, a, l] += row[k, l] * V[k, l]
                    adv[s, a, l] += row[k, l] * h[k, l]
            for l in range(L):
                x = G.r[s, a, l] + G.gamma[l] * q[s, a, l]
                y = G.r[s, a, l] + G.gamma[l] * adv[s, a, l]
                q[s, a, l] = x
                adv[s, a, l] = x if G.V_size[s, l] <= G.h_size[s, l] else y
        for l in range(L):
            likeliest[l] = G.pi[s, 0, l]
            reference[l] = adv[s, 0, l]
            mean[l] = 0.0
        for a in range(1, A):
            for l in range(L):
                more = G.pi[s, a, l] > likeliest[l]
                reference[l] = adv[s, a, l] if more else reference[l]
                likeliest[l] = G.pi[s, a, l] if more else likeliest[l]
        for a in range(A):
            for l in range(L):
                adv[s, a, l] -= reference[l]
                mean[l] += G.pi[s, a, l] * adv[s, a, l]
        for a in range(A):
            for l in range(L):
                adv[s, a, l] -= mean[l]


@kernel
def policy_gradient(lanes, first, stop, shape, strides, P, r, gamma, mu, theta, ended, code, out):
    """out[i,s,a] = d(s) pi(a|s) A(s,a) of problem i   (Sutton et al. 1999, Theorem 1)"""
    S, A = theta.shape[1:]
    G = workspace(S, A, lanes)
    for begin in range(first, stop, lanes):
        locate(begin, stop - 1, shape, strides, G.at)
        load(r, gamma, mu, theta, ended, G)
        induce(P, G)
        eliminate(G)
        substitute(G)
        compare(P, G)
        for s in range(S):
            for a in range(A):
                for l in range(lanes):
                    G.adv[s, a, l] *= G.goes_on[s, l] * G.d[s, l] * G.pi[s, a, l]
                    G.code[l] = G.code[l] if (abs(G.adv[s, a, l]) < np.inf) | (G.code[l] != 0.0) else OVERFLOW
        for l in range(min(lanes, stop - begin)):
            code[begin + l] = G.code[l]
            for s in range(S):
                for a in range(A):
                    out[begin + l, s, a] = G.adv[s, a, l]
