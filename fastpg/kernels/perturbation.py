"""Sums of gradient estimates from returns under perturbed policies.

The pairs (state, action) that a policy takes are numbered state by state: those of state s are first[s] ..
first[s+1]-1, none where the process has ended, and the pair first[S] stands for the start. Pair j has probability[j] of
its state, and its successors are the outcomes offset[j] .. offset[j+1]-1 with the distribution function `cumulative`.

A `process` is (horizon, powers, discounts, first, probability, offset, cumulative, successor, reward). An action is
drawn by inverse distribution function from one word, its successor from the next, so that two episodes with the same
words under nearly the same policy stay together: common random numbers.
"""

import numpy as np

from fastpg.kernels import kernel
from fastpg.kernels.estimates import add_block
from fastpg.kernels.random import ROUNDS, WEYL, philox_round, xoshiro
from fastpg.kernels.sampling import UNIT, U, geometric_length
from fastpg.kernels.wide import wide_product

# Laws of directions.
EVERY, COORDINATE, SIGNS, NORMAL = 0, 1, 2, 3

SHIFT = np.uint64(11)
# Streams of samples, apart from those of trajectories.
DOMAIN = np.uint64(1)
# Steps between two looks at `stop`.
PATIENCE = 4096


@kernel
def distribution_functions(weight, offset, out):
    """out[k] = sum of weight[offset[j]..k] / sum of weight[offset[j]..offset[j+1]-1], for each j"""
    for j in range(offset.shape[0] - 1):
        total = 0.0
        for k in range(offset[j], offset[j + 1]):
            total += weight[k]
            out[k] = total
        for k in range(offset[j], offset[j + 1]):
            out[k] /= total


@kernel
def uniform(word):
    """The word as a multiple of 2^-53 in [0, 1)"""
    return (word >> SHIFT) * UNIT


@kernel
def stream(key, sample, number):
    """The state of stream `number` of a sample: Philox of (sample, number)"""
    c0, c1, c2, c3, k0, k1 = U(sample), U(number), DOMAIN, U(0), key[0], key[1]
    for _ in range(ROUNDS):
        c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
        k0 += WEYL[0]
        k1 += WEYL[1]
    return c0, c1, c2, c3


@kernel
def direction(kind, turn, key, sample, out):
    """out[f] becomes the components f = begin .. end-1 of a direction, which are returned; the others are 0"""
    n = out.shape[0]
    if kind == EVERY:
        out[turn] = 1.0
        return turn, turn + 1
    s0, s1, s2, s3 = stream(key, sample, 0)
    if kind == COORDINATE:
        word, s0, s1, s2, s3 = xoshiro(s0, s1, s2, s3)
        f = np.int64(wide_product(word, U(n))[0])
        word, s0, s1, s2, s3 = xoshiro(s0, s1, s2, s3)
        out[f] = 1.0 if uniform(word) < 0.5 else -1.0
        return f, f + 1
    if kind == SIGNS:
        word = U(0)
        for f in range(n):
            if f % 64 == 0:
                word, s0, s1, s2, s3 = xoshiro(s0, s1, s2, s3)
            out[f] = 1.0 if word >> U(63) else -1.0
            word <<= U(1)
        return 0, n
    # Box & Muller (1958), with a first uniform in (0, 1].
    for f in range(0, n, 2):
        word, s0, s1, s2, s3 = xoshiro(s0, s1, s2, s3)
        radius = np.sqrt(-2.0 * np.log(1.0 - uniform(word)))
        word, s0, s1, s2, s3 = xoshiro(s0, s1, s2, s3)
        angle = 2.0 * np.pi * uniform(word)
        out[f] = radius * np.cos(angle)
        if f + 1 < n:
            out[f + 1] = radius * np.sin(angle)
    return 0, n


@kernel
def drawn(cumulative, low, high, u):
    """The first k of low .. high-1 with u < cumulative[k]; cumulative[high-1] is 1"""
    while low < high - 1:
        middle = (low + high - 1) // 2
        if u < cumulative[middle]:
            high = middle + 1
        else:
            low = middle + 1
    return low


@kernel
def episode(key, sample, number, weight, process, stop):
    """Return and number of steps of an episode in which pair j is taken in proportion to weight[j]"""
    horizon, powers, discounts, first, _, offset, cumulative, successor, reward = process
    s0, s1, s2, s3 = stream(key, sample, number)
    limit = horizon
    if powers.shape[0] > 0:
        word, s0, s1, s2, s3 = xoshiro(s0, s1, s2, s3)
        limit = geometric_length(word, powers)
    word, s0, s1, s2, s3 = xoshiro(s0, s1, s2, s3)
    j = first[first.shape[0] - 2]
    s = successor[drawn(cumulative, offset[j], offset[j + 1], uniform(word))]
    total, t = 0.0, 0
    while t < limit and first[s] < first[s + 1]:
        if t % PATIENCE == 0 and stop[0]:
            break
        mass = 0.0
        for j in range(first[s], first[s + 1]):
            mass += weight[j]
        word, s0, s1, s2, s3 = xoshiro(s0, s1, s2, s3)
        u = uniform(word) * mass
        j = first[s]
        below = weight[j]
        while u >= below and j < first[s + 1] - 1:
            j += 1
            below += weight[j]
        word, s0, s1, s2, s3 = xoshiro(s0, s1, s2, s3)
        k = drawn(cumulative, offset[j], offset[j + 1], uniform(word))
        total += discounts[min(t, discounts.shape[0] - 1)] * reward[k]
        s = successor[k]
        t += 1
    return total, t


@kernel
def perturbed_sums(
    key, edges, process, kind, free, state, action, touched, step, factor, antithetic, common, pool, share, stop,
    power_sums, blocks,
):  # fmt: skip
    """Sums over blocks of samples of X = factor sum_u (G(theta + step u) - G(theta - step u)) u; see `add_block`.

    Block b holds the samples edges[b] .. edges[b+1]-1. Component f of a direction u belongs to pair free[f], which is
    (state[f], action[f]); `touched` lists the states. Without `antithetic` X = factor G(theta + step u) u; where
    `common` the episodes of a pair have the same random words. Returns the number of steps.
    """
    probability = process[4]
    size = free.shape[0]
    X, centre = np.zeros(pool.shape), np.zeros(pool.shape)
    u, up, down = np.zeros(size), probability.copy(), probability.copy()
    turns = size if kind == EVERY else min(size, 1)
    steps = 0
    for b in range(edges.shape[0] - 1):
        for i in range(edges[b], edges[b + 1]):
            for turn in range(turns):
                if stop[0]:
                    return steps
                begin, end = direction(kind, turn, key, i, u)
                for f in range(begin, end):
                    tilt = np.exp(step * u[f])
                    up[free[f]] = probability[free[f]] * tilt
                    down[free[f]] = probability[free[f]] / tilt
                gain, taken = episode(key, i, 1 + 2 * turn, up, process, stop)
                steps += taken
                if antithetic:
                    loss, taken = episode(key, i, 1 + 2 * turn + (0 if common else 1), down, process, stop)
                    gain -= loss
                    steps += taken
                for f in range(begin, end):
                    X[state[f], action[f]] += factor * gain * u[f]
                    u[f] = 0.0
                    up[free[f]] = down[free[f]] = probability[free[f]]
        add_block(X, touched, float(edges[b + 1] - edges[b]), 0.0, centre, pool, share, power_sums, blocks[b])
    return steps
