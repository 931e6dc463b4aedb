"""Second and fourth moments of what one visit adds to a sampled gradient, step by step.

Outcome k of state s has probability p_k; H_t = ratio_t (c_t + decay B H_{t+1}), B = 1 with probability `survival`.
"""

import numpy as np

from fastpg.kernels import kernel

# Raw moments are known to about this share of themselves.
ROUNDING = 1e-14
BINOMIAL = np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 2, 1, 0, 0], [1, 3, 3, 1, 0], [1, 4, 6, 4, 1]], np.float64)


@kernel
def shifted_power(p, x, factor, survival, h, s):
    """E (x + factor B H)^p with h[j,s] = E_s H^j"""
    total = x**p
    for j in range(1, p + 1):
        total += survival * BINOMIAL[p, j] * x ** (p - j) * factor**j * h[j, s]
    return total


@kernel
def return_moments(offset, successor, probability, ratio, credit, decay, survival, h, out):
    """out[j,s] = E_s H^j with one more step to go than h[j,s], j = 0..4"""
    for s in range(out.shape[1]):
        out[0, s] = 1.0
        for j in range(1, 5):
            out[j, s] = 0.0
        for k in range(offset[s], offset[s + 1]):
            for j in range(1, 5):
                power = shifted_power(j, credit[k], decay, survival, h, successor[k])
                out[j, s] += probability[k] * ratio[k] ** j * power


@kernel
def past_moments(offset, successor, probability, ratio, credit, discount, survival, whole, past, out):
    """out[j,k] = E [y^j; s_{t+1} = k] from past[j,s] = E [y^j; s_t = s]

    with y the product of the ratios of the steps before or, where `whole`, the sum of their rewards.
    """
    out[:] = 0.0
    for s in range(out.shape[1]):
        for k in range(offset[s], offset[s + 1]):
            reaching = survival * probability[k]
            for j in range(5):
                if whole:
                    for i in range(j + 1):
                        gain = BINOMIAL[j, i] * (discount * credit[k]) ** (j - i) * past[i, s]
                        out[j, successor[k]] += reaching * gain
                else:
                    out[j, successor[k]] += reaching * ratio[k] ** j * past[j, s]


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
    offset, successor, action, probability, ratio, pi, signal, baseline, decay, survival, discount, whole, past, h,
    second, fourth, noise,
):  # fmt: skip
    """second, fourth[s,a] += E (y - E y)^p for p = 2, 4, with y = [s_t = s] w score(a_t|s)[a]

    and w = G + discount (signal + decay H) - baseline(s) for a `whole` return with G behind it, else
    w = rho ratio (discount (signal + decay H) - baseline(s)) with rho the product of the ratios of the steps before.
    Given the action b, y is u w with u = [a = b] - pi(a|s).
    noise[s,a] += E y^2 as if nothing in w or u cancelled: second is known to a small share of it.
    """
    S, A = pi.shape
    ahead, raw, weight, largest = np.empty((A, 5)), np.empty(5), np.empty((A, 5)), np.empty(A)
    for s in range(S):
        if past[0, s] == 0.0 or offset[s] == offset[s + 1]:
            continue
        ahead[:] = 0.0
        largest[:] = 0.0
        behind = past[2, s] / past[0, s] if whole else 0.0
        rho = 1.0 if whole else past[2, s] / past[0, s]
        for k in range(offset[s], offset[s + 1]):
            x = discount * signal[k] - baseline[s]
            reach = discount * (abs(signal[k]) + decay * np.sqrt(h[2, successor[k]])) + abs(baseline[s])
            largest[action[k]] += probability[k] * (rho * (ratio[k] * reach) ** 2 + behind)
            for j in range(5):
                power = shifted_power(j, x, discount * decay, survival, h, successor[k])
                ahead[action[k], j] += probability[k] * ratio[k] ** j * power
        for b in range(A):
            for p in range(5):
                raw[p] = 0.0 if whole else past[p, s] * ahead[b, p]
                for i in range(p + 1 if whole else 0):
                    raw[p] += BINOMIAL[p, i] * past[i, s] * ahead[b, p - i]
            central(raw, largest[b] * past[0, s] / max(raw[0], 5e-324), weight[b])
        for a in range(A):
            mean = 0.0
            for b in range(A):
                mean += weight[b, 0] * ((1.0 if a == b else 0.0) - pi[s, a]) * weight[b, 1]
            absent = max(1.0 - past[0, s], 0.0)
            second[s, a] += absent * mean**2
            fourth[s, a] += absent * mean**4
            for b in range(A):
                u = (1.0 if a == b else 0.0) - pi[s, a]
                mass, shift = weight[b, 0], u * weight[b, 1] - mean
                c2, c3, c4 = weight[b, 2], weight[b, 3], weight[b, 4]
                noise[s, a] += (u**2 + ROUNDING) * largest[b] * past[0, s]
                second[s, a] += mass * (u**2 * c2 + shift**2)
                fourth[s, a] += mass * (u**4 * c4 + 4.0 * u**3 * c3 * shift + 6.0 * u**2 * c2 * shift**2 + shift**4)
