"""Batches of small problems, a group of them at a time in the lanes of `kernels.lanes`."""

import numpy as np

from fastpg.kernels import kernel, rows
from fastpg.kernels.lanes import (
    INVALID,
    OVERFLOW,
    centre,
    divide,
    eliminate,
    natural_step,
    normalise,
    softmax,
    substitute,
    substitute_transposed,
)


@kernel
def locate(first, last, shape, strides, out):
    """out[x,n] = the row of argument x that problem min(first + n, last) of the batch reads"""
    out[:] = 0
    for n in range(out.shape[1]):
        rest = min(first + n, last)
        for i in range(shape.size - 1, -1, -1):
            digit = rest % shape[i]
            rest //= shape[i]
            for x in range(out.shape[0]):
                out[x, n] += strides[x, i] * digit


@kernel
def gather(at, P, s, a, out):
    """out[k,n] = P(k|s,a) of each lane; four numbers of a lane at a time keep to few cache lines"""
    S, N = out.shape
    whole = S - S % 4
    for k in range(0, whole, 4):
        for n in range(N):
            m = at[0, n]
            out[k, n] = P[m, s, a, k]
            out[k + 1, n] = P[m, s, a, k + 1]
            out[k + 2, n] = P[m, s, a, k + 2]
            out[k + 3, n] = P[m, s, a, k + 3]
    for k in range(whole, S):
        for n in range(N):
            out[k, n] = P[at[0, n], s, a, k]


@kernel
def load(at, gamma, mu, ended, discount, goes_on, lane, code, out):
    """discount = (gamma, 1 - gamma), goes_on = 1 - ended and out = mu of a group, checked"""
    S, N = out.shape
    for n in range(N):
        discount[0, n] = gamma[at[2, n]]
        discount[1, n] = 1.0 - discount[0, n]
        code[n] = 0.0 if (discount[0, n] >= 0.0) & (discount[0, n] <= 1.0) else INVALID
        for s in range(S):
            goes_on[s, n] = 0.0 if ended[at[5, n], s] else 1.0
            out[s, n] = mu[at[3, n], s]
    lane[2] = 1.0
    normalise(lane[2], lane[0], code, lane[1], out)


@kernel
def act(at, r, theta, goes_on, code, pi, out):
    """pi = theta, of which the softmax is to be taken, and out = r of a group; what ends pays nothing"""
    S, A, N = out.shape
    for n in range(N):
        for s in range(S):
            for a in range(A):
                out[s, a, n] = r[at[1, n], s, a]
                pi[s, a, n] = theta[at[4, n], s, a]
    for s in range(S):
        for a in range(A):
            for n in range(N):
                code[n] = code[n] if (goes_on[s, n] != 0.0) | (out[s, a, n] == 0.0) else INVALID


@kernel
def induce(at, P, r, pi, discount, goes_on, row, lane, code, total, leaving, b, out):
    """out[s,k] = gamma P_pi(k|s), b = (r_pi, |r_pi|), `leaving` the row sums of I - gamma P_pi, total the sums in P"""
    S, A, N = pi.shape
    b[:] = 0.0
    out[:] = 0.0
    for s in range(S):
        for a in range(A):
            gather(at, P, s, a, row)
            normalise(goes_on[s], lane[0], code, total[s, a], row)
            for n in range(N):
                b[0, s, n] += pi[s, a, n] * r[s, a, n]
                lane[0, n] = discount[0, n] * pi[s, a, n]
            for k in range(S):
                for n in range(N):
                    out[s, k, n] += lane[0, n] * row[k, n]
        for n in range(N):
            b[1, s, n] = abs(b[0, s, n])
            leaving[s, n] = discount[1, n] if goes_on[s, n] != 0.0 else 1.0


@kernel
def look_ahead(at, P, r, total, discount, solution, row, q, out):
    """q[s,a] = r(s,a) + gamma sum_k P(k|s,a) V(k), and out the same of V or h, whichever has less rounding in s"""
    S, A, N = out.shape
    V, h = solution[0], solution[2]
    q[:] = 0.0
    out[:] = 0.0
    for s in range(S):
        for a in range(A):
            uneven = 0.0
            for n in range(N):
                uneven += 0.0 if total[s, a, n] == 1.0 else 1.0
            gather(at, P, s, a, row)
            if uneven != 0.0:
                divide(total[s, a], row)
            whole = S - S % 4
            for k in range(0, whole, 4):
                for n in range(N):
                    q[s, a, n] += (row[k, n] * V[k, n] + row[k + 1, n] * V[k + 1, n]) + (
                        row[k + 2, n] * V[k + 2, n] + row[k + 3, n] * V[k + 3, n]
                    )
                for n in range(N):
                    out[s, a, n] += (row[k, n] * h[k, n] + row[k + 1, n] * h[k + 1, n]) + (
                        row[k + 2, n] * h[k + 2, n] + row[k + 3, n] * h[k + 3, n]
                    )
            for k in range(whole, S):
                for n in range(N):
                    q[s, a, n] += row[k, n] * V[k, n]
                    out[s, a, n] += row[k, n] * h[k, n]
            for n in range(N):
                q[s, a, n] = r[s, a, n] + discount[0, n] * q[s, a, n]
                relative = r[s, a, n] + discount[0, n] * out[s, a, n]
                out[s, a, n] = q[s, a, n] if solution[1, s, n] <= solution[3, s, n] else relative


@kernel
def read_off(mu, goes_on, discount, pi, adv, V, d, visits, J, out):
    """out = the gradient d(s) pi(a|s) A(s,a), J = mu V, and visits = (1 - gamma) d; d becomes 0 where all has ended"""
    S, A, N = out.shape
    J[:] = 0.0
    for s in range(S):
        for n in range(N):
            J[n] += mu[s, n] * V[s, n]
            visits[s, n] = d[s, n] * (discount[1, n] if goes_on[s, n] != 0.0 else 1.0)
            d[s, n] *= goes_on[s, n]
        for a in range(A):
            for n in range(N):
                out[s, a, n] = d[s, n] * pi[s, a, n] * adv[s, a, n]


@kernel
def require_finite(x, code):
    """Lanes where x is not finite have failed, in this way if in no other."""
    for s in range(x.shape[0]):
        for a in range(x.shape[1]):
            for n in range(x.shape[2]):
                code[n] = code[n] if (abs(x[s, a, n]) < np.inf) | (code[n] != 0.0) else OVERFLOW


@kernel
def store(x, first, count, code, out):
    """out[first+n,s,a] = x[s,a,n] for `count` lanes, where `out` is asked for; what is not finite fails"""
    if out.shape[0] == 0:
        return
    require_finite(x, code)
    for s in range(x.shape[0]):
        for a in range(x.shape[1]):
            for n in range(count):
                out[first + n, s, a] = x[s, a, n]


@kernel
def solve(
    lanes,
    by_rows,
    first,
    stop,
    shape,
    strides,
    P,
    r,
    gamma,
    mu,
    theta,
    ended,
    code,
    gradient,
    step,
    pi_out,
    q_out,
    adv_out,
    V_out,
    d_out,
    visits_out,
    J_out,
):
    """Problems first..stop-1 of a batch of this `shape`, `lanes` at a time; an `out` without rows is not asked for

    By rows problems are solved one by one, in one lane.

    The problem at place m of the batch reads row sum_i strides[x,i] m_i of argument x. The arguments P (., S, A, S),
    r (., S, A), gamma (.,), mu (., S), theta (., S, A) and ended (., S) have as many rows as differ. What is written is
    (n, S, A), of states (n, S, 1), J (n, 1, 1): gradient = d(s) pi(a|s) A(s,a)   (Sutton et al. 1999, Theorem 1).
    """
    S, A = theta.shape[1:]
    at = np.empty((6, lanes), np.int64)
    lane, status, discount = np.empty((4, lanes)), np.empty(lanes), np.empty((2, lanes))
    states = np.empty((13, S, lanes))
    start, goes_on, row, leaving, pivot = states[0], states[1], states[2], states[3], states[4]
    b, solution, d, visits = states[5:7], states[7:11], states[11], states[12]
    actions = np.empty((6, S, A, lanes))
    reward, pi, total, q, adv, x = actions[0], actions[1], actions[2], actions[3], actions[4], actions[5]
    off = np.empty((S, S, lanes))
    for begin in range(first, stop, lanes):
        locate(begin, stop - 1, shape, strides, at)
        load(at, gamma, mu, ended, discount, goes_on, lane, status, start)
        act(at, r, theta, goes_on, status, pi, reward)
        for s in range(S):
            for n in range(lanes):
                d[s, n] = start[s, n]
        if not by_rows:
            for s in range(S):
                softmax(lane[0], lane[1], lane[2:], pi[s])
            induce(at, P, reward, pi, discount, goes_on, row, lane, status, total, leaving, b, off)
            eliminate(status, pivot, leaving, b, off)
            substitute(off, leaving, b, solution)
            substitute_transposed(off, pivot, d)
            look_ahead(at, P, reward, total, discount, solution, row, q, adv)
        else:
            model, flow, reached = P[at[0, 0]], off.reshape(S, S), d.reshape(S)
            own, rate = reward.reshape(S, A), total.reshape(S, A)
            right, left, found = b.reshape(2, S), leaving.reshape(S), solution.reshape(4, S)
            taken = pi.reshape(S, A)
            rows.softmax(actions[4:].reshape(2, S * A), taken)
            scratch, on = row.reshape(S), goes_on.reshape(S)
            rows.induce(model, own, taken, discount[:, 0], on, status, scratch, rate, left, right, flow)
            rows.eliminate(status, pivot.reshape(S), left, right, flow)
            rows.substitute(flow, left, right, found)
            rows.substitute_transposed(flow, pivot.reshape(S), reached)
            rows.look_ahead(model, own, rate, discount[0, 0], found, q.reshape(S, A), adv.reshape(S, A))
        centre(pi, lane, adv)
        read_off(start, goes_on, discount, pi, adv, solution[0], d, visits, lane[0], x)
        require_finite(solution[:1], status)
        require_finite(adv, status)
        count = min(lanes, stop - begin)
        store(x, begin, count, status, gradient)
        store(pi, begin, count, status, pi_out)
        store(q, begin, count, status, q_out)
        store(adv, begin, count, status, adv_out)
        store(solution[0].reshape(S, 1, lanes), begin, count, status, V_out)
        store(d.reshape(S, 1, lanes), begin, count, status, d_out)
        store(visits.reshape(S, 1, lanes), begin, count, status, visits_out)
        store(lane[:1].reshape(1, 1, lanes), begin, count, status, J_out)
        if step.shape[0] > 0:
            natural_step(pi, visits, d, discount[1], adv, x)
            store(x, begin, count, status, step)
        for n in range(count):
            code[begin + n] = status[n]
