"""Second and fourth moments of what one visit adds to a sampled gradient, step by step.

Outcome k of state s has probability p_k; H_t = ratio_t (c_t + decay B H_{t+1}), B = 1 with probability `survival`.
Moments are E W^p x^j with W the product of ratios: behind a step of the steps before, in past[p,s,j] with x the sum of
their rewards, and ahead of it of those to come where they are `joint`, in h[p,s,j] with x = H, the ratios being 1 in H
then. Where W is 1 there is one row for all p, and where a return is not whole past has j = 0 alone.
"""

import numpy as np

from fastpg.kernels import kernel

# Raw moments are known to about this share of themselves.
ROUNDING = 1e-14
BINOMIAL = np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 2, 1, 0, 0], [1, 3, 3, 1, 0], [1, 4, 6, 4, 1]], np.float64)


@kernel
def row(p, moments):
    """Where moments with W^p are"""
    return p if moments.shape[0] > 1 else 0


@kernel
def shifted_powers(x, factor, survival, h, p, s):
    """E W (x + factor B H)^j for j = 0..4 with h[p,s,j] = E_s W H^j, W = 1 where B = 0"""
    f1 = survival * factor
    f2 = f1 * factor
    f3 = f2 * factor
    h0, h1, h2 = 1.0 - survival + survival * h[p, s, 0], f1 * h[p, s, 1], f2 * h[p, s, 2]
    h3, h4 = f3 * h[p, s, 3], f3 * factor * h[p, s, 4]
    third = x * (x * (x * h0 + 3.0 * h1) + 3.0 * h2) + h3
    fourth = x * (x * (x * (x * h0 + 4.0 * h1) + 6.0 * h2) + 4.0 * h3) + h4
    return h0, x * h0 + h1, x * (x * h0 + 2.0 * h1) + h2, third, fourth


@kernel
def return_moments(begin, end, offset, successor, probability, ratio, credit, decay, survival, h, out):
    """out[p,s,j] = E_s W^p H^j with one more step to go than h[p,s,j], j <= p where there is a row for each p

    for the states s = begin .. end-1.
    """
    rows = h.shape[0]
    for s in range(begin, end):
        out[:, s] = 0.0
        if offset[s] == offset[s + 1]:
            out[:, s, 0] = 1.0
        for k in range(offset[s], offset[s + 1]):
            weight = probability[k]
            for p in range(rows):
                power = shifted_powers(credit[k], decay, survival, h, p, successor[k])
                own = probability[k]
                for j in range(5):
                    out[p, s, j] += (own if rows == 1 else weight) * power[j]
                    own *= ratio[k]
                weight *= ratio[k]


@kernel
def past_moments(offset, successor, probability, ratio, credit, discount, survival, past, out):
    """out[p,k,j] = E [W^p x^j; s_{t+1} = k] from past[p,s,j] = E [W^p x^j; s_t = s], for all j or j = 0 alone"""
    rows, columns = past.shape[0], past.shape[2]
    out[:] = 0.0
    for s in range(out.shape[1]):
        for k in range(offset[s], offset[s + 1]):
            reaching = survival * probability[k]
            for p in range(rows):
                if columns > 1:
                    power = shifted_powers(discount * credit[k], 1.0, 1.0, past, p, s)
                    for j in range(5):
                        out[p, successor[k], j] += reaching * power[j]
                else:
                    out[p, successor[k], 0] += reaching * past[p, s, 0]
                reaching *= ratio[k]


@kernel
def central(moments, known, out):
    """out = mass, mean and central moments 2 to 4, from mass and raw moments times mass; 0 where within `known`"""
    mass = moments[0]
    out[:] = 0.0
    out[0] = mass
    if mass > 0.0:
        mean, second, third, fourth = moments[1] / mass, moments[2] / mass, moments[3] / mass, moments[4] / mass
        out[1] = mean
        if second - mean**2 > ROUNDING * known:
            out[2] = second - mean**2
            out[3] = third - 3.0 * mean * second + 2.0 * mean**3
            out[4] = max(fourth - 4.0 * mean * third + 6.0 * mean**2 * second - 3.0 * mean**4, out[2] ** 2)


@kernel
def visit_moments(
    begin, end, offset, successor, action, probability, ratio, pi, signal, baseline, decay, survival, discount, past, h,
    out,
):  # fmt: skip
    """out[0,s,a] = E y and out[p,s,a] = E (y - E y)^(p+1) for p = 1, 2, 3, y = [s_t = s] w score(a_t|s)[a],

    for the states s = begin .. end-1, with w = W ratio W' (x + discount (signal + decay H) - baseline(s)), W and x of
    the steps before, W' of those to come where they are joint. Given the action b, y is u w, u = [a = b] - pi(a|s).
    out[4,s,a] is E y^2 as if nothing in w or u cancelled: the second moment is known to a small share of it.
    """
    A = pi.shape[1]
    columns, each = past.shape[2], h.shape[0] > 1
    ahead, raw, weight, largest = np.empty((A, 5, 5)), np.empty(5), np.empty((A, 5)), np.empty(A)
    second_row, squared = row(2, past), row(2, h)
    for s in range(begin, end):
        out[:, s] = 0.0
        mass = past[0, s, 0]
        if mass == 0.0 or offset[s] == offset[s + 1]:
            continue
        ahead[:] = 0.0
        largest[:] = 0.0
        rho = past[second_row, s, 0] / mass
        behind = past[second_row, s, 2] / mass if columns > 1 else 0.0
        for k in range(offset[s], offset[s + 1]):
            x = discount * signal[k] - baseline[s]
            then = h[squared, successor[k], 0] if each else 1.0
            reach = discount * abs(signal[k]) + abs(baseline[s])
            to_come = discount * decay * np.sqrt(h[squared, successor[k], 2])
            size = (reach * np.sqrt(then) + to_come) ** 2 * rho + behind * then
            largest[action[k]] += probability[k] * ratio[k] ** 2 * size
            own = probability[k]
            power = shifted_powers(x, discount * decay, survival, h, 0, successor[k])
            for p in range(5):
                if each:
                    power = shifted_powers(x, discount * decay, survival, h, p, successor[k])
                for j in range(0 if columns > 1 else p, p + 1):
                    ahead[action[k], p, j] += own * power[j]
                own *= ratio[k]
        for b in range(A):
            for p in range(5):
                raw[p] = 0.0
                for i in range(p + 1 if columns > 1 else 1):
                    raw[p] += BINOMIAL[p, i] * past[row(p, past), s, i] * ahead[b, p, p - i]
            central(raw, largest[b] * mass / max(raw[0], 5e-324), weight[b])
        for a in range(A):
            mean = 0.0
            for b in range(A):
                mean += weight[b, 0] * ((1.0 if a == b else 0.0) - pi[s, a]) * weight[b, 1]
            absent = max(1.0 - mass, 0.0)
            second, third, fourth, noise = absent * mean**2, -absent * mean**3, absent * mean**4, 0.0
            for b in range(A):
                u = (1.0 if a == b else 0.0) - pi[s, a]
                share, shift = weight[b, 0], u * weight[b, 1] - mean
                c2, c3, c4 = u**2 * weight[b, 2], u**3 * weight[b, 3], u**4 * weight[b, 4]
                noise += (u**2 + ROUNDING) * largest[b] * mass
                second += share * (c2 + shift**2)
                third += share * (c3 + 3.0 * c2 * shift + shift**3)
                fourth += share * (c4 + 4.0 * c3 * shift + 6.0 * c2 * shift**2 + shift**4)
            out[0, s, a], out[1, s, a], out[2, s, a], out[3, s, a], out[4, s, a] = mean, second, third, fourth, noise


@kernel
def add_visits(mass, visit, second, fourth, distinct):
    """second and fourth[s,a] += E (y - E y)^p for p = 2, 4, and distinct[s,a] the largest second^2 / fourth so far

    with y = x where s is visited, with probability mass[s], and else 0: x has the mean and the central moments 2 to 4
    in visit[:4,s,a].
    """
    for s in range(mass.shape[0]):
        m, rest = mass[s], max(1.0 - mass[s], 0.0)
        if m == 0.0:
            continue
        for a in range(second.shape[1]):
            mean, c2, c3, c4 = visit[0, s, a], visit[1, s, a], visit[2, s, a], visit[3, s, a]
            present, absent = rest * mean, m * mean
            two = m * (c2 + present**2) + rest * absent**2
            four = m * (c4 + 4.0 * c3 * present + 6.0 * c2 * present**2 + present**4) + rest * absent**4
            second[s, a] += two
            fourth[s, a] += four
            if four > 0.0:
                distinct[s, a] = max(distinct[s, a], two**2 / four)
