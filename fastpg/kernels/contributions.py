"""Second and fourth moments of what one visit adds to a sampled gradient, step by step.

Outcome k of state s has probability p_k; H_t = c_t + decay B H_{t+1} with B = 1 with probability `survival`.
"""

import numpy as np

from fastpg.kernels import kernel

BINOMIAL = np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 2, 1, 0, 0], [1, 3, 3, 1, 0], [1, 4, 6, 4, 1]], np.float64)


@kernel
def shifted_power(p, x, factor, survival, h, s):
    """E (x + factor B H)^p with h[j,s] = E_s H^j"""
    total = x**p
    for j in range(1, p + 1):
        total += survival * BINOMIAL[p, j] * x ** (p - j) * factor**j * h[j, s]
    return total


@kernel
def return_moments(offset, successor, probability, credit, decay, survival, h, out):
    """out[j,s] = E_s H^j with one more step to go than h[j,s], j = 0..4"""
    for s in range(out.shape[1]):
        out[0, s] = 1.0
        for j in range(1, 5):
            out[j, s] = 0.0
        for k in range(offset[s], offset[s + 1]):
            for j in range(1, 5):
                out[j, s] += probability[k] * shifted_power(j, credit[k], decay, survival, h, successor[k])


@kernel
def past_moments(offset, successor, probability, credit, discount, survival, whole, past, out):
    """out[j,k] = E [G^j; s_{t+1} = k] from past[j,s] = E [G^j; s_t = s], G the rewards before; j = 0 unless `whole`"""
    out[:] = 0.0
    for s in range(out.shape[1]):
        for k in range(offset[s], offset[s + 1]):
            for j in range(5 if whole else 1):
                for i in range(j + 1):
                    gain = BINOMIAL[j, i] * (discount * credit[k]) ** (j - i) * past[i, s]
                    out[j, successor[k]] += survival * probability[k] * gain


@kernel
def visit_moments(
    offset, successor, action, probability, pi, signal, baseline, decay, survival, discount, past, h, second, fourth
):
    """second, fourth[s,a] += E [(w score(a_t|s)[a])^p; s_t = s], p = 2, 4; w = G + discount (signal + decay H) - b"""
    S, A = pi.shape
    ahead = np.empty((A, 5))
    for s in range(S):
        if past[0, s] == 0.0 or offset[s] == offset[s + 1]:
            continue
        ahead[:] = 0.0
        for k in range(offset[s], offset[s + 1]):
            x = discount * signal[k] - baseline[s]
            for j in range(5):
                ahead[action[k], j] += probability[k] * shifted_power(j, x, discount * decay, survival, h, successor[k])
        for p in (4, 2):  # the fourth reads the lower powers that the second overwrites
            total = 0.0
            for a in range(A):
                moment = 0.0
                for i in range(p + 1):
                    moment += BINOMIAL[p, i] * past[i, s] * ahead[a, p - i]
                ahead[a, p] = moment
                total += moment
            out = second if p == 2 else fourth
            for a in range(A):
                out[s, a] += (1.0 - pi[s, a]) ** p * ahead[a, p] + pi[s, a] ** p * (total - ahead[a, p])
