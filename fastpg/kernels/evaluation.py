"""The chain that a policy induces, and the quantities read off its solution."""

import numpy as np

from fastpg.kernels import kernel
from fastpg.kernels.twofold import two_product, two_sum

LARGEST_HALF = float(np.finfo(np.float64).max) / 2


@kernel
def induced_transition(P, pi, out):
    """out[s,k] = sum_a pi(a|s) P(k|s,a), four actions at a time; rows of actions that are not taken are not read"""
    S, A, following = P.shape
    taken = np.empty(A, np.uint64)
    for s in range(S):
        count = 0
        for a in range(A):
            if pi[s, a] != 0.0:
                taken[count] = a
                count += 1
        for k in range(following):
            out[s, k] = 0.0
        whole = count - count % 4
        for n in range(0, whole, 4):
            a, b, c, d = taken[n], taken[n + 1], taken[n + 2], taken[n + 3]
            p, q, r, t = pi[s, a], pi[s, b], pi[s, c], pi[s, d]
            for k in range(following):
                out[s, k] += (p * P[s, a, k] + q * P[s, b, k]) + (r * P[s, c, k] + t * P[s, d, k])
        for n in range(whole, count):
            a = taken[n]
            p = pi[s, a]
            for k in range(following):
                out[s, k] += p * P[s, a, k]


@kernel
def policy_average(pi, x, out):
    """out[s] = sum_a pi(a|s) x(s,a); no larger than the x it is a mean of, where rounding might overflow

    Where 16 times more cancels than is left it is summed in two floats (Dot2: Ogita, Rump & Oishi 2005).
    """
    S, A = pi.shape
    for s in range(S):
        total, size = 0.0, 0.0
        for a in range(A):
            p = pi[s, a] * x[s, a]
            total += p
            size += abs(p)
        if 16.0 * abs(total) < size:
            total, rest = 0.0, 0.0
            for a in range(A):
                p, lost = two_product(pi[s, a], x[s, a])
                total, rounded = two_sum(total, p)
                rest += lost + rounded
            total += rest
        if not np.isfinite(total):
            total = 0.0
            for a in range(A):
                total += pi[s, a] * (0.5 * x[s, a])
            total = 2.0 * max(min(total, LARGEST_HALF), -LARGEST_HALF)
        out[s] = total


@kernel
def resolvent(P, gamma, out):
    """out[s,k] = [s = k] - gamma P(k|s)"""
    S = P.shape[0]
    for s in range(S):
        for k in range(S):
            out[s, k] = -gamma * P[s, k]
        out[s, s] += 1.0


@kernel
def action_value(r, discount, out):
    """out[s,a] = r(s,a) + discount out[s,a], which holds sum_k P(k|s,a) V(k); returns whether all is finite"""
    S, A = r.shape
    finite = True
    for s in range(S):
        for a in range(A):
            out[s, a] = r[s, a] + discount * out[s, a]
            finite &= abs(out[s, a]) < np.inf
    return finite


@kernel
def advantage(pi, q, available, out):
    """out[s,a] = q(s,a) - sum_b pi(b|s) q(s,b), 0 where unavailable.

    Differences are taken against the likeliest action a0 first: with x(a) = q(a) - q(a0) and
    m = sum_{a != a0} pi(a) x(a) the advantage is x(a) - m, which keeps the small advantage of a likely action.
    They are halved until the end, since x(a) may be twice as large as any float. Returns whether all is finite.
    """
    S, A = pi.shape
    finite = True
    for s in range(S):
        a0 = 0
        for a in range(1, A):
            if pi[s, a] > pi[s, a0]:
                a0 = a
        m = 0.0
        for a in range(A):
            if a != a0 and pi[s, a] != 0.0:
                m += pi[s, a] * (0.5 * q[s, a] - 0.5 * q[s, a0])
        for a in range(A):
            out[s, a] = 2.0 * ((0.5 * q[s, a] - 0.5 * q[s, a0]) - m) if available[s, a] else 0.0
            finite &= abs(out[s, a]) < np.inf
    return finite


@kernel
def cancellation(d, pi, q, adv, out):
    """out[0] = sum_sa d(s) pi(a|s) (|q(s,a)| + |q(s,a) - A(s,a)|) and out[1] = sum_sa d(s) pi(a|s) |A(s,a)|"""
    S, A = pi.shape
    noise, size = 0.0, 0.0
    for s in range(S):
        for a in range(A):
            weight = d[s] * pi[s, a]
            if weight != 0.0:
                noise += weight * (abs(q[s, a]) + abs(q[s, a] - adv[s, a]))
                size += weight * abs(adv[s, a])
    out[0], out[1] = noise, size


@kernel
def logit_gradient(d, pi, adv, out):
    """out[s,a] = d(s) pi(a|s) A(s,a), 0 where d pi = 0 even if A is nan   (Sutton et al. 1999, Theorem 1)

    pi <= 1 meets the larger of d and |A| first: that overflows never, and underflows only if the result does. Returns
    whether all is finite.
    """
    S, A = pi.shape
    finite = True
    for s in range(S):
        for a in range(A):
            if d[s] == 0.0 or pi[s, a] == 0.0:
                out[s, a] = 0.0
            elif d[s] < abs(adv[s, a]):
                out[s, a] = pi[s, a] * adv[s, a] * d[s]
            else:
                out[s, a] = pi[s, a] * d[s] * adv[s, a]
            finite &= abs(out[s, a]) < np.inf
    return finite


@kernel
def fisher_blocks(weight, pi, out):
    """out[s,a,b] = weight(s) (pi(a|s) [a = b] - pi(a|s) pi(b|s))"""
    S, A = pi.shape
    for s in range(S):
        for a in range(A):
            rest = 0.0
            for b in range(A):
                out[s, a, b] = -(weight[s] * max(pi[s, a], pi[s, b]) * min(pi[s, a], pi[s, b]))
                if b != a:
                    rest += pi[s, b]
            out[s, a, a] = weight[s] * max(pi[s, a], rest) * min(pi[s, a], rest)


@kernel
def finite_horizon_sweep(w, x, out):
    """out[s,a] += sum_t w(t,s) x(t,s,a)"""
    T, S, A = x.shape
    for t in range(T):
        for s in range(S):
            if w[t, s] != 0.0:
                for a in range(A):
                    out[s, a] += w[t, s] * x[t, s, a]


@kernel
def centred_on_support(pi, x, out):
    """out[s,a] = x(s,a) - mean of x(s,.) over the actions with pi > 0; 0 elsewhere"""
    S, A = pi.shape
    for s in range(S):
        total = 0.0
        count = 0
        for a in range(A):
            if pi[s, a] > 0.0:
                total += x[s, a]
                count += 1
        mean = total / max(count, 1)
        if not np.isfinite(total):
            mean = 0.0
            for a in range(A):
                if pi[s, a] > 0.0:
                    mean += x[s, a] / count
        for a in range(A):
            out[s, a] = x[s, a] - mean if pi[s, a] > 0.0 else 0.0
