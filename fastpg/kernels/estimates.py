"""The sums of a sampled gradient over blocks of trajectories."""

import numpy as np

from fastpg.kernels import kernel
from fastpg.kernels.prefetch import prefetch
from fastpg.kernels.sampling import BATCH, ONE, SHORTEST, TERMINAL, U, walk_some, workspace

# So many steps, or states, ahead of their use tables are asked for.
AHEAD = 8


@kernel
def gradient_sums(
    key, edges, law, pi, by_slot, credit, signal, income, ratio, baseline, last, discounts, fading, decay, whole, joint,
    own, pool, share, stop, power_sums, blocks, weights,
):  # fmt: skip
    """Sums over blocks of trajectories of X = sum_t w_t score(a_t|s_t); block b holds edges[b] .. edges[b+1]-1.

    H_t = ratio_t (credit_t + decay H_{t+1}), from last(s_L) in the state s_L where a trajectory ends;
    w_t = discount^t ratio_0 .. ratio_t (signal_t + decay H_{t+1} - b), or, where `whole`,
    w_t = ratio_0 .. ratio_t (sum_{j<t} discount^j credit_j + discount^t H_t / ratio_t - b).
    b = baseline(s_t) - own R with the return R = sum_j fading^j ratio_0 .. ratio_j income_j of the trajectory.
    Where `joint` the ratios are 1 in all of that, and X and R are multiplied by their product. An empty `ratio` is all
    1. `credit`, `signal`, `income` and `ratio` have an entry for each slot where `by_slot`, else for each s A + a.
    power_sums[s,p] gains the p-th moments of a block sum Y over its m trajectories, scaled to the size of one
    trajectory's: Y, Y^2/m, Y^3/m, Y^4/m^2; blocks[b] the pooled share Y/sqrt(m), weights[b] the products of all ratios.
    With eight rows power_sums has mixed moments of Y and weights[b] as well. Returns the number of steps.
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
    steps, b, found, together = 0, 0, 0, 0.0
    weighted = ratio.shape[0] > 0
    alike = whole and (joint or not weighted)
    count, recent = 1, SHORTEST
    while done < end and count > 0:
        log, count, recent = walk_some(key, done, end, law, stop, recent, log, begin, column, length)
        for i in range(count):
            taken = length[i]
            codes, slots = log[0, begin[i] :, column[i]], log[-1, begin[i] :, column[i]]
            if weighted and rho.shape[0] < taken:
                rho = np.empty(2 * taken)
            total, product, earned = 0.0, 1.0, 0.0
            if whole or weighted:
                for t in range(taken):
                    a = (codes[t + 1] & ~TERMINAL) >> bits
                    k = U(slots[t + 1]) if by_slot else (codes[t] & mask) * A + a
                    total += discounts[min(t, discounts.shape[0] - 1)] * credit[k]
                    if weighted:
                        product *= ratio[k]
                        rho[t] = product
            if own > 0.0:
                for t in range(taken):
                    a = (codes[t + 1] & ~TERMINAL) >> bits
                    k = U(slots[t + 1]) if by_slot else (codes[t] & mask) * A + a
                    gained = fading[min(t, fading.shape[0] - 1)] * income[k]
                    earned += rho[t] * gained if weighted and not joint else gained
            mine = own * (product * earned if joint else earned)
            together += product
            ahead = last[codes[taken] & mask]
            for t in range(taken - 1, -1, -1):
                prefetch(W, codes[max(t - AHEAD, 0)] & mask)
                s, a = codes[t] & mask, (codes[t + 1] & ~TERMINAL) >> bits
                k = U(slots[t + 1]) if by_slot else s * A + a
                base = baseline[s] - mine
                if alike:
                    weight = product * (total - base)
                elif whole:
                    discount = discounts[min(t, discounts.shape[0] - 1)]
                    total -= discount * credit[k]
                    ahead = credit[k] + decay * ahead
                    weight = rho[t] * (total + discount * ahead - base)
                    ahead *= ratio[k]
                else:
                    weight = discounts[min(t, discounts.shape[0] - 1)] * (signal[k] + decay * ahead - base)
                    ahead = credit[k] + decay * ahead
                    if joint:
                        weight *= product
                    elif weighted:
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
                m = float(edges[b + 1] - edges[b])
                add_block(W, visited[:found], m, together, pi, pool, share, power_sums, blocks[b])
                weights[b] = together
                b += 1
                found, together = 0, 0.0
    return steps


@kernel
def return_sums(key, edges, law, n_actions, by_slot, income, ratio, fading, joint, stop, sums):
    """sums[b] = sum of R = sum_j fading^j ratio_0 .. ratio_j income_j over trajectories edges[b] .. edges[b+1]-1

    or of sum_j fading^j income_j times all ratios where `joint`.
    """
    A, bits = U(n_actions), U(law[-1])
    mask = (ONE << bits) - ONE
    done, end = edges[0], edges[-1]
    log, begin, column = workspace(end - done, 2 if by_slot else 1)
    length = np.empty(BATCH, np.int64)
    b, count, recent, total = 0, 1, SHORTEST, 0.0
    while done < end and count > 0:
        log, count, recent = walk_some(key, done, end, law, stop, recent, log, begin, column, length)
        for i in range(count):
            codes, slots = log[0, begin[i] :, column[i]], log[-1, begin[i] :, column[i]]
            earned, product = 0.0, 1.0
            for t in range(length[i]):
                a = (codes[t + 1] & ~TERMINAL) >> bits
                k = U(slots[t + 1]) if by_slot else (codes[t] & mask) * A + a
                if ratio.shape[0] > 0:
                    product *= ratio[k]
                gained = fading[min(t, fading.shape[0] - 1)] * income[k]
                earned += gained if joint else product * gained
            total += product * earned if joint else earned
            done += 1
            if done == edges[b + 1]:
                sums[b] = total
                b += 1
                total = 0.0


@kernel
def add_block(W, visited, m, weight, pi, pool, share, power_sums, block):
    """The sums of one block of m trajectories go into power_sums and `block`; W is cleared where visited

    Rows 4 to 7 of power_sums, where there are, gain Y w/m, Y w^3/m^2, Y^2 w^2/m^2 and Y^3 w/m^2 with the `weight` w.
    """
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
            if power_sums.shape[1] > 4:
                mixed = y * weight / m
                power_sums[s, 4, a] += mixed
                power_sums[s, 5, a] += mixed * weight * weight / m
                power_sums[s, 6, a] += mixed * mixed
                power_sums[s, 7, a] += mixed * square
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
