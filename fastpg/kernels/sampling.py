"""Trajectories from alias tables, and the sums of a sampled gradient.

The outcomes of a state are its pairs (action, successor), k = offset[s] .. offset[s+1]-1; a terminal state has none.
Segment S holds the first states. One 64-bit word draws one outcome.
"""

import numpy as np

from fastpg.kernels import kernel
from fastpg.kernels.random import stream, xoshiro

UNIT = 2.0**-53


@kernel
def alias_table(weight, offset, threshold, alias):
    """Walker's alias table of each segment of `weight`, by Vose (1991); threshold and alias are filled."""
    stack = np.empty(weight.shape[0], np.int64)
    for segment in range(offset.shape[0] - 1):
        first, last = offset[segment], offset[segment + 1]
        total = 0.0
        for k in range(first, last):
            total += weight[k]
        small, large = first, last
        for k in range(first, last):
            threshold[k] = weight[k] * (last - first) / total
            alias[k] = k
            if threshold[k] < 1.0:
                stack[small] = k
                small += 1
            else:
                large -= 1
                stack[large] = k
        while small > first and large < last:
            poor, rich = stack[small - 1], stack[large]
            small -= 1
            alias[poor] = rich
            threshold[rich] = (threshold[rich] + threshold[poor]) - 1.0
            if threshold[rich] < 1.0:
                large += 1
                stack[small] = rich
                small += 1
        while small > first:  # only rounding leaves any: their share is full
            small -= 1
            threshold[stack[small]] = 1.0


@kernel
def drawn(word, first, last, threshold, alias):
    """The outcome of first..last-1 that a word draws"""
    x = (word >> np.uint64(11)) * UNIT * (last - first)
    cell = int(x)
    k = first + cell
    return k if x - cell < threshold[k] else alias[k]


@kernel
def geometric_length(word, powers):
    """L >= 1 with P(L > l) = gamma^l, where powers[j] = gamma^(2^j): only products, so equal on every platform"""
    u = ((word >> np.uint64(12)) + 0.5) * 2.0 * UNIT
    length, tail = 0, 1.0
    for j in range(powers.shape[0] - 1, -1, -1):
        if u < tail * powers[j]:
            tail *= powers[j]
            length += 1 << j
    return length + 1


@kernel
def walk(key, i, horizon, powers, offset, threshold, alias, successor, states, outcomes):
    """Trajectory i: fills states[0..L], outcomes[0..L-1] and returns its length L, or -1 where they are too short.

    It ends after `horizon` steps, in a terminal state, or, where `powers` is not empty, after a geometric time.
    """
    s0, s1, s2, s3 = stream(key, i)
    S = offset.shape[0] - 2
    if powers.shape[0] > 0:
        word, s0, s1, s2, s3 = xoshiro(s0, s1, s2, s3)
        horizon = geometric_length(word, powers)
    word, s0, s1, s2, s3 = xoshiro(s0, s1, s2, s3)
    s = successor[drawn(word, offset[S], offset[S + 1], threshold, alias)]
    states[0] = s
    t = 0
    while t < horizon and offset[s] < offset[s + 1]:
        if t == outcomes.shape[0]:
            return -1
        word, s0, s1, s2, s3 = xoshiro(s0, s1, s2, s3)
        k = drawn(word, offset[s], offset[s + 1], threshold, alias)
        s = successor[k]
        outcomes[t] = k
        t += 1
        states[t] = s
    return t


@kernel
def walk_fully(key, i, horizon, powers, offset, threshold, alias, successor, states, outcomes):
    """`walk` with buffers that grow: returns (states, outcomes, length)"""
    length = walk(key, i, horizon, powers, offset, threshold, alias, successor, states, outcomes)
    while length < 0:
        capacity = 2 * outcomes.shape[0]
        states = np.empty(capacity + 1, np.int64)
        outcomes = np.empty(capacity, np.int64)
        length = walk(key, i, horizon, powers, offset, threshold, alias, successor, states, outcomes)
    return states, outcomes, length


@kernel
def trajectory_lengths(key, first, horizon, powers, offset, threshold, alias, successor, stop, lengths):
    """lengths[i] = number of steps of trajectory first + i"""
    states, outcomes = np.empty(65, np.int64), np.empty(64, np.int64)
    for i in range(lengths.shape[0]):
        if stop[0]:
            return
        states, outcomes, lengths[i] = walk_fully(
            key, first + i, horizon, powers, offset, threshold, alias, successor, states, outcomes
        )


@kernel
def trajectories(
    key, first, horizon, powers, offset, threshold, alias, successor, action, reward, stop,
    out_states, out_actions, out_rewards, out_lengths,
):  # fmt: skip
    """Row i of each output is trajectory first + i; what lies beyond its end is left as it was"""
    capacity = out_actions.shape[1]
    states, outcomes = np.empty(capacity + 1, np.int64), np.empty(capacity, np.int64)
    for i in range(out_lengths.shape[0]):
        if stop[0]:
            return
        length = walk(key, first + i, horizon, powers, offset, threshold, alias, successor, states, outcomes)
        out_lengths[i] = length
        out_states[i, 0] = states[0]
        for t in range(length):
            out_states[i, t + 1] = states[t + 1]
            out_actions[i, t] = action[outcomes[t]]
            out_rewards[i, t] = reward[outcomes[t]]


@kernel
def gradient_sums(
    key, edges, horizon, powers, offset, threshold, alias, successor, action, pi,
    credit, signal, baseline, ratio, last, discounts, decay, whole, pool, share, stop, power_sums, blocks,
):  # fmt: skip
    """Sums over blocks of trajectories of X = sum_t w_t score(a_t|s_t); block b holds edges[b] .. edges[b+1]-1.

    H_t = ratio_t (credit_t + decay H_{t+1}) from `last` of the state where a horizon cuts the process;
    w_t = discount^t ratio_0 .. ratio_t (signal_t + decay H_{t+1} - baseline(s_t)), or, where `whole`,
    w_t = ratio_0 .. ratio_{L-1} (sum_j discount^j credit_j - baseline(s_t)). An empty `ratio` is all 1.
    power_sums[p] gains the p-th moments of a block sum Y over its m trajectories, scaled to the size of one
    trajectory's: Y, Y^2/m, Y^3/m, Y^4/m^2; blocks[b] the pooled share Y/sqrt(m). Returns the number of steps.
    The score is linear, so a step adds to W[s,a] alone and a block is centred once: Y = W - pi sum_a W.
    """
    S, A = pi.shape
    W = np.zeros((S, A))
    visited = np.empty(S, np.int64)
    visited_in = np.full(S, -1, np.int64)
    states, outcomes = np.empty(257, np.int64), np.empty(256, np.int64)
    importances = np.empty(256)
    steps = 0
    for b in range(blocks.shape[0]):
        count = 0
        for i in range(edges[b], edges[b + 1]):
            if stop[0]:
                return steps
            states, outcomes, length = walk_fully(
                key, i, horizon, powers, offset, threshold, alias, successor, states, outcomes
            )
            steps += length
            total, importance = 0.0, 1.0
            if whole:
                for t in range(length):
                    total += discounts[min(t, discounts.shape[0] - 1)] * credit[outcomes[t]]
            if ratio.shape[0] > 0:
                if importances.shape[0] < length:
                    importances = np.empty(outcomes.shape[0])
                for t in range(length):
                    importance *= ratio[outcomes[t]]
                    importances[t] = importance
            ahead = last[states[length]]
            for t in range(length - 1, -1, -1):
                k, s = outcomes[t], states[t]
                if whole:
                    weight = importance * (total - baseline[s])
                else:
                    weight = discounts[min(t, discounts.shape[0] - 1)] * (signal[k] + decay * ahead - baseline[s])
                    ahead = credit[k] + decay * ahead
                    if ratio.shape[0] > 0:
                        weight *= importances[t]
                        ahead *= ratio[k]
                W[s, action[k]] += weight
                if visited_in[s] != b:
                    visited_in[s] = b
                    visited[count] = s
                    count += 1
        m = float(edges[b + 1] - edges[b])
        for j in range(count):
            s = visited[j]
            total = 0.0
            for a in range(A):
                total += W[s, a]
            for a in range(A):
                y = W[s, a] - pi[s, a] * total
                W[s, a] = 0.0
                power_sums[0, s, a] += y
                power_sums[1, s, a] += y * y / m
                power_sums[2, s, a] += y * y * y / m
                power_sums[3, s, a] += (y * y / m) * (y * y / m)
                if pool[s, a] >= 0:
                    blocks[b, pool[s, a]] += share[s, a] * y / np.sqrt(m)
    return steps
