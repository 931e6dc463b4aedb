"""Many small problems side by side: what is done to each of the N lanes on the last axis of every array.

Every innermost loop runs over the lanes, which are independent, so that the compiler makes vector instructions of it.
`code` (N,) says which lanes have failed, and how.
"""

import numpy as np

from fastpg.kernels import kernel
from fastpg.kernels.exponential import exponential

TOLERANCE = 1e-9
EPS = 2.0**-52

# What is wrong with a problem: its input; the process need not end; a number too large for float64.
INVALID, SINGULAR, OVERFLOW = 1.0, 2.0, 3.0


@kernel
def divide(total, out):
    """out[k,n] /= total[n], 0 where that is infinite"""
    for k in range(out.shape[0]):
        for n in range(out.shape[1]):
            out[k, n] = out[k, n] / total[n] if total[n] < np.inf else 0.0


@kernel
def normalise(read, low, code, total, out):
    """Each lane of out (K, N) checked to be a law and divided by total[n], its sum; 0 where `read` is 0."""
    K, N = out.shape
    total[:] = 0.0
    low[:] = 0.0
    whole = K - K % 4
    for k in range(0, whole, 4):
        for n in range(N):
            total[n] += (out[k, n] + out[k + 1, n]) + (out[k + 2, n] + out[k + 3, n])
            x = out[k, n] if out[k, n] < out[k + 1, n] else out[k + 1, n]
            y = out[k + 2, n] if out[k + 2, n] < out[k + 3, n] else out[k + 3, n]
            low[n] = min(low[n], x, y)
    for k in range(whole, K):
        for n in range(N):
            total[n] += out[k, n]
            low[n] = out[k, n] if out[k, n] < low[n] else low[n]
    uneven = 0.0
    for n in range(N):
        gap = abs(total[n] - 1.0)
        code[n] = code[n] if ((gap <= TOLERANCE) & (low[n] >= 0.0)) | (read[n] == 0.0) else INVALID
        total[n] = 1.0 if gap <= K * EPS else total[n]
        total[n] = total[n] if read[n] != 0.0 else np.inf
        uneven += 0.0 if total[n] == 1.0 else 1.0
    if uneven != 0.0:
        divide(total, out)


@kernel
def softmax(top, total, power, out):
    """out[a,n] = exp(out[a,n] - max_b out[b,n]) / sum_c exp(out[c,n] - max_b out[b,n])

    nan where a logit is nan or +inf, or all are -inf.
    """
    A, N = out.shape
    for n in range(N):
        top[n] = out[0, n]
        total[n] = 0.0
    for a in range(1, A):
        for n in range(N):
            top[n] = out[a, n] if out[a, n] > top[n] else top[n]
    for a in range(A):
        for n in range(N):
            out[a, n] -= top[n]
        exponential(power, out[a])
    for a in range(A):
        for n in range(N):
            total[n] += out[a, n]
    for a in range(A):
        for n in range(N):
            out[a, n] /= total[n]


@kernel
def eliminate(code, pivot, leaving, b, off):
    """I - discount P_pi = L U without a subtraction   (Grassmann, Taksar & Heyman 1985; see `kernels.gth.eliminate`)

    U = I - (what is above the diagonal of `off`), L = diag(pivot) - (what is below); b becomes L^{-1} b, `leaving` too.
    """
    S, _, N = off.shape
    for i in range(S):
        for k in range(i):
            for n in range(N):
                leaving[i, n] += off[i, k, n] * leaving[k, n]
                b[0, i, n] += off[i, k, n] * b[0, k, n]
                b[1, i, n] += off[i, k, n] * b[1, k, n]
            for j in range(k + 1, S):
                for n in range(N):
                    off[i, j, n] += off[i, k, n] * off[k, j, n]
        for n in range(N):
            pivot[i, n] = leaving[i, n]
        for j in range(i + 1, S):
            for n in range(N):
                pivot[i, n] += off[i, j, n]
        for n in range(N):
            code[n] = SINGULAR if (pivot[i, n] == 0.0) & (code[n] == 0.0) else code[n]
            leaving[i, n] /= pivot[i, n]
            b[0, i, n] /= pivot[i, n]
            b[1, i, n] /= pivot[i, n]
        for j in range(i + 1, S):
            for n in range(N):
                off[i, j, n] /= pivot[i, n]


@kernel
def substitute(off, leaving, b, out):
    """out = U^{-1} applied to b = L^{-1} (r_pi, |r_pi|) and to what gives V - V(g), g the last state, and its size

    h = V - V(g) solves the equations of V with r_pi - V(g) (1 - discount) on the right, and h(g) = 0: near discount 1
    it holds digits that V is too large to hold (see `solvers.GTH`). Errors of V and h are a few S ulp of their sizes.
    """
    S, N = leaving.shape
    g = S - 1
    for k in range(S):
        for n in range(N):
            out[0, k, n] = b[0, k, n]
            out[1, k, n] = b[1, k, n]
            out[2, k, n] = b[0, k, n] - b[0, g, n] * leaving[k, n] if k < g else 0.0
            out[3, k, n] = b[1, k, n] + b[1, g, n] * leaving[k, n] if k < g else 0.0
    for x in range(4):
        for k in range(g - 1, -1, -1):
            for j in range(k + 1, S):
                for n in range(N):
                    out[x, k, n] += off[k, j, n] * out[x, j, n]


@kernel
def substitute_transposed(off, pivot, out):
    """out = (L U)^{-T} out"""
    S, N = out.shape
    for k in range(S):
        for i in range(k):
            for n in range(N):
                out[k, n] += off[i, k, n] * out[i, n]
    for k in range(S - 1, -1, -1):
        for i in range(k + 1, S):
            for n in range(N):
                out[k, n] += off[i, k, n] * out[i, n]
        for n in range(N):
            out[k, n] /= pivot[k, n]


@kernel
def centre(pi, lane, out):
    """out[s,a] -= sum_b pi(b|s) out[s,b], by differences from the likeliest action   (see `evaluation.advantage`)"""
    S, A, N = out.shape
    top, reference, mean = lane[0], lane[1], lane[2]
    for s in range(S):
        for n in range(N):
            top[n] = pi[s, 0, n]
            reference[n] = out[s, 0, n]
            mean[n] = 0.0
        for a in range(1, A):
            for n in range(N):
                likelier = pi[s, a, n] > top[n]
                reference[n] = out[s, a, n] if likelier else reference[n]
                top[n] = pi[s, a, n] if likelier else top[n]
        for a in range(A):
            for n in range(N):
                out[s, a, n] -= reference[n]
                mean[n] += pi[s, a, n] * out[s, a, n]
        for a in range(A):
            for n in range(N):
                out[s, a, n] -= mean[n]


@kernel
def natural_step(pi, visits, d, complement, adv, out):
    """out[s,a] = (adv(s,a) - mean of adv(s,.)) / (1 - gamma), over the actions with pi > 0, 0 where visits or d are

    At discount 1 the divisor is 1 and there are no visits   (see `fastpg.natural_gradient`).
    """
    S, A, N = out.shape
    for s in range(S):
        for n in range(N):
            total, count = 0.0, 0.0
            for a in range(A):
                taken = pi[s, a, n] > 0.0
                total += adv[s, a, n] if taken else 0.0
                count += 1.0 if taken else 0.0
            seen = (d[s, n] > 0.0) & ((visits[s, n] > 0.0) | (complement[n] == 0.0))
            for a in range(A):
                taken = seen & (pi[s, a, n] > 0.0)
                step = (adv[s, a, n] - total / count) / (complement[n] if complement[n] > 0.0 else 1.0)
                out[s, a, n] = step if taken else 0.0
