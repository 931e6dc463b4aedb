"""The sums of a sampled gradient over blocks of trajectories."""

import numpy as np

from fastpg.kernels import kernel
from fastpg.kernels.prefetch import prefetch
from fastpg.kernels.sampling import BATCH, ONE, SHORTEST, TERMINAL, U, walk_some, workspace

# So many steps, or states, ahead of their use tables are asked for.
AHEAD = 8


@kernel
def gradient_sums(
    key, edges, law, pi, by_slot, credit, signal, ratio, baseline, last, discounts, decay, whole, pool, share, stop,
    power_sums, blocks,
):  # fmt: skip
    """Sums over blocks of trajectories of X = sum_t w_t score(a_t|s_t); block b holds edges[b] .. edges[b+1]-1.

    H_t = ratio_t (credit_t + decay H_{t+1}), from last(s_L) in the state s_L where a trajectory ends;
    w_t = discount^t ratio_0 .. ratio_t (signal_t + decay H_{t+1} - baseline(s_t)), or, where `whole`,
    w_t = ratio_0 .. ratio_{L-1} (sum_j discount^j credit_j - baseline(s_t)). An empty `ratio` is all 1.
    `credit`, `signal` and `ratio` have an entry for each slot where `by_slot`, else for each s A + a.
    power_sums[s,p] gains the p-th moments of a block sum Y over its m trajectories, scaled to the size of one
    trajectory's: Y, Y^2/m, Y^3/m, Y^4/m^2; blocks[b] the pooled share Y/sqrt(m). Returns the number of steps.
    The score is linear, so a step adds to W[s,a] alone and a block is centred once: Y = W - pi sum_a W.
    """
    # Beside its sums W keeps the number of the block that a state was last visited in, counted from 1.
    W = np.zeros((pi.shape[0], pi.shape[1] + 1))
    visited = np.empty(pi.shape[0], np.int64)
    bits = U(law[-1])
    mask, A = (ONE << bits) - ONE, U(pi.shape[1])
    done, end = edges[0], edges[-1]
    log, begin, column = workspace(end - done, 2 if by_slot else 1)
    length, rho = np.empty(BATCH, np.int64), np.empty(1)
    steps, b, found = 0, 0, 0
    count, recent = 1, SHORTEST
    while done < end and count > 0:
        log, count, recent = walk_some(key, done, end, law, stop, recent, log, begin, column, length)
        for i in range(count):
            taken = length[i]
            codes, slots = log[0, begin[i] :, column[i]], log[-1, begin[i] :, column[i]]
            weighted = ratio.shape[0] > 0
            if weighted and rho.shape[0] < taken:
                rho = np.empty(2 * taken)
            total, product = 0.0, 1.0
            if whole or weighted:
                for t in range(taken):
                    a = (codes[t + 1] & ~TERMINAL) >> bits
                    k = U(slots[t + 1]) if by_slot else (codes[t] & mask) * A + a
                    total += discounts[min(t, discounts.shape[0] - 1)] * credit[k]
                    if weighted:
                        product *= ratio[k]
                        rho[t] = product
            ahead = last[codes[taken] & mask]
            for t in range(taken - 1, -1, -1):
                prefetch(W, codes[max(t - AHEAD, 0)] & mask)
                s, a = codes[t] & mask, (codes[t + 1] & ~TERMINAL) >> bits
                k = U(slots[t + 1]) if by_slot else s * A + a
                if whole:
                    weight = product * (total - baseline[s])
                else:
                    weight = discounts[min(t, discounts.shape[0] - 1)] * (signal[k] + decay * ahead - baseline[s])
                    ahead = credit[k] + decay * ahead
                    if weighted:
                        weight *= rho[t]
                        ahead *= ratio[k]
                W[s, a] += weight
                if W[s, A] != b + 1:
                    W[s, A] = b + 1
                    visited[found] = s
                    found += 1
            steps += taken
            done += 1
            if done == edges[b + 1]:
                add_block(W, visited[:found], float(edges[b + 1] - edges[b]), pi, pool, share, power_sums, blocks[b])
                b += 1
                found = 0
    return steps


@kernel
def add_block(W, visited, m, pi, pool, share, power_sums, block):
    """The sums of one block of m trajectories go into power_sums and `block`; W is cleared where visited"""
    root = np.sqrt(m)
    for j in range(visited.shape[0]):
        if j + AHEAD < visited.shape[0]:
            later = visited[j + AHEAD]
            prefetch(pi, later)
            prefetch(pool, later)
            prefetch(share, later)
            for p in range(4):
                prefetch(power_sums[later], p)
        s = visited[j]
        total = 0.0
        for a in range(pi.shape[1]):
            total += W[s, a]
        for a in range(pi.shape[1]):
            y = W[s, a] - pi[s, a] * total
            square = y * y / m
            W[s, a] = 0.0
            power_sums[s, 0, a] += y
            power_sums[s, 1, a] += square
            power_sums[s, 2, a] += square * y
            power_sums[s, 3, a] += square * square
            if pool[s, a] >= 0:
                block[pool[s, a]] += share[s, a] * y / root


@kernel
def first_visit_sums(key, first, last, law, n_actions, by_slot, reward, stop, values, action_values, visits, ends):
    """Sums over trajectories first .. last-1 of undiscounted returns G from first visits, and of numbers of visits.

    values[s] gains (1, G, G^2) for the first visit of s, action_values[s,a] for that of (s,a), visits[s] (N, N^2) for
    its N visits, and ends[s] 1 where a trajectory of a step or more ends in terminal state s. Returns the number of
    steps.
    """
    A, bits = n_actions, U(law[-1])
    mask = (ONE << bits) - ONE
    S = visits.shape[0]
    log, begin, column = workspace(last - first, 2 if by_slot else 1)
    length = np.empty(BATCH, np.int64)
    ahead, ahead_of_pair, times = np.zeros(S), np.zeros(S * A), np.zeros(S, np.int64)
    met, met_pairs = np.empty(S, np.int64), np.empty(S * A, np.int64)
    seen = np.zeros(S * A, np.bool_)
    steps, done, count, recent = 0, first, 1, SHORTEST
    while done < last and count > 0:
        log, count, recent = walk_some(key, done, last, law, stop, recent, log, begin, column, length)
        for i in range(count):
            codes, slots = log[0, begin[i] :, column[i]], log[-1, begin[i] :, column[i]]
            total, states, pairs = 0.0, 0, 0
            # Backwards, so that the last number kept of a state is that of its first visit.
            for t in range(length[i] - 1, -1, -1):
                s, a = np.int64(codes[t] & mask), np.int64((codes[t + 1] & ~TERMINAL) >> bits)
                k = np.int64(slots[t + 1]) if by_slot else s * A + a
                total += reward[k]
                if times[s] == 0:
                    met[states] = s
                    states += 1
                if not seen[s * A + a]:
                    seen[s * A + a] = True
                    met_pairs[pairs] = s * A + a
                    pairs += 1
                times[s] += 1
                ahead[s] = total
                ahead_of_pair[s * A + a] = total
            for j in range(states):
                s = met[j]
                values[s, 0] += 1.0
                values[s, 1] += ahead[s]
                values[s, 2] += ahead[s] * ahead[s]
                visits[s, 0] += times[s]
                visits[s, 1] += float(times[s]) * float(times[s])
                times[s] = 0
            for j in range(pairs):
                s, a = met_pairs[j] // A, met_pairs[j] % A
                action_values[s, a, 0] += 1.0
                action_values[s, a, 1] += ahead_of_pair[s * A + a]
                action_values[s, a, 2] += ahead_of_pair[s * A + a] ** 2
                seen[s * A + a] = False
            if length[i] > 0 and codes[length[i]] >= TERMINAL:
                ends[np.int64(codes[length[i]] & mask)] += 1.0
            steps += length[i]
        done += count
    return steps
