"""Trajectories, many at a time: each lane follows one, and all lanes take a step together.

The outcomes of a state are its pairs (action, successor), k = offset[s] .. offset[s+1]-1; a terminal state has none.
Segment S holds the first states. One 64-bit word draws one outcome by one read of `record`:

    segment[s]     offset[s] and the number of outcomes n, 32 bits each
    record[k]      the threshold of cell k, and the codes of outcome k and of its alias, 32 bits each
    code           1 bit whether the successor is terminal, then the action, then `bits` bits the successor
    slot           2 k for outcome k itself, 2 k + 1 for the alias of k

A word x draws from cell floor(x n / 2^64), and its alias where x n mod 2^64 is not below the threshold. Each outcome
of a cell is drawn by its share of the 2^64 words to within one word, so that with the error 2^-62 of the table the law
of a step is right to (n + 4) 2^-64 in total variation.

In a large model a step needs two lines of memory, one after the other; lanes are many so that all of them wait at the
same time for what was asked for early.

A `law` is (horizon, powers, segment, record, bits). A log has a row for each step and a column for each lane: the codes
drawn, and the slots where they are asked for.
"""

import numpy as np

from fastpg.kernels import kernel
from fastpg.kernels.prefetch import prefetch
from fastpg.kernels.random import streams, xoshiro, xoshiro_lanes
from fastpg.kernels.wide import wide_product

UNIT = 2.0**-53
NEVER = 2**62
U = np.uint64
ZERO, ONE = U(0), U(1)
TERMINAL = U(2**31)
HALF, LOW = U(32), U(2**32 - 1)

# A row of the log is then an odd number of cache lines, so that a column spreads over all sets of a cache.
LANES = 208
ROWS = 2**13
# Trajectories in a batch, and the number of steps after which a batch takes no more of them.
BATCH = 4096
SHORTEST = 256


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
def step(word, here, segment, record, mask, codes, slots):
    """Each lane draws an outcome with its word, which is used up, and moves: returns whether one arrived at an end

    In two passes, each of which finds in the cache what the one before has asked for.
    """
    for lane in range(word.shape[0]):
        outcomes = segment[here[lane]]
        cell, word[lane] = wide_product(word[lane], outcomes & LOW)
        k = (outcomes >> HALF) + cell
        prefetch(record, k)
        here[lane] = k
    arrived, kept = ZERO, slots.shape[0] > 0
    for lane in range(word.shape[0]):
        k = here[lane]
        own = word[lane] < record[k, 0]
        both = record[k, 1]
        code = both >> HALF if own else both & LOW
        codes[lane] = code
        if kept:
            slots[lane] = k + k + (ZERO if own else ONE)
        here[lane] = code & mask
        prefetch(segment, here[lane])
        arrived |= code
    return arrived >= TERMINAL


@kernel
def lines(rows, lanes):
    """(rows, lanes) words that begin at a cache line, and so does each row where `lanes` is a multiple of 8"""
    words = np.empty(rows * lanes + 7, U)
    skip = (-words.ctypes.data % 64) // 8
    return words[skip : skip + rows * lanes].reshape(rows, lanes)


@kernel
def walk(key, first, last, law, stop, recent, log, begin, column, length):
    """Trajectories first, first + 1, .. below `last`, as many as are begun before row `recent` of the log.

    Trajectory first + i is log[:, begin[i] .. begin[i] + length[i], column[i]], its first state before all else. It
    ends after `horizon` steps, in a terminal state, or, where `powers` is not empty, after a geometric time.
    Returns how many were walked, 0 where stopped, or -1 where the log is too short.
    """
    horizon, powers, segment, record, bits = law
    depth, rows, lanes = log.shape
    words = lines(10, lanes)
    s0, s1, s2, s3, n0, n1, n2, n3 = words[0], words[1], words[2], words[3], words[4], words[5], words[6], words[7]
    word, here, unused = words[8], words[9], np.empty(0, np.uint32)
    follows, until = np.empty(lanes, np.int64), np.empty(lanes, np.int64)
    for lane in range(lanes):
        follows[lane], until[lane] = -1, -1
    start, mask = U(segment.shape[0] - 1), (ONE << U(bits)) - ONE
    most = min(last - first, begin.shape[0])
    begun, active = 0, 0
    row, earliest, arrived = -1, -1, False
    while not stop[0]:
        if arrived or row >= earliest:
            earliest = NEVER
            for lane in range(lanes):
                if row >= until[lane] or log[0, row, lane] >= TERMINAL:
                    if follows[lane] >= 0:
                        length[follows[lane]] = row - begin[follows[lane]]
                        active -= 1
                    follows[lane], until[lane], here[lane] = -1, NEVER, start
                    if begun < most and row < recent:
                        j = begun % lanes
                        if j == 0:
                            streams(key, first + begun, n0, n1, n2, n3)
                        w0, w1, w2, w3 = n0[j], n1[j], n2[j], n3[j]
                        steps = horizon
                        if powers.shape[0] > 0:
                            w, w0, w1, w2, w3 = xoshiro(w0, w1, w2, w3)
                            steps = geometric_length(w, powers)
                        s0[lane], s1[lane], s2[lane], s3[lane] = w0, w1, w2, w3
                        begin[begun], column[begun] = row + 1, lane
                        follows[lane], until[lane] = begun, row + 1 + steps
                        begun += 1
                        active += 1
                earliest = min(earliest, until[lane])
            if active == 0:
                return begun
        row += 1
        if row == rows:
            return -1
        xoshiro_lanes(s0, s1, s2, s3, word)
        arrived = step(word, here, segment, record, mask, log[0, row], log[1, row] if depth == 2 else unused)
    return 0


@kernel
def workspace(count, depth):
    """(log, begin, column) for `count` trajectories: LANES lanes or one for each; slots are kept where depth is 2"""
    log = np.empty((depth, ROWS, max(1, min(count, LANES))), np.uint32)
    return log, np.empty(BATCH, np.int64), np.empty(BATCH, np.int64)


@kernel
def walk_some(key, first, last, law, stop, recent, log, begin, column, length):
    """`walk` with a log that suffices. Returns it, how many trajectories it holds, and the next value of `recent`.

    Where trajectories are long it gets fewer lanes and as many more rows, and grows only when one lane is left.
    """
    count = -1
    while count < 0:
        count = walk(key, first, last, law, stop, recent, log, begin, column, length)
        if count < 0:
            log = np.empty((log.shape[0], 2 * log.shape[1], max(1, log.shape[2] // 2)), np.uint32)
    # A batch ends with idle lanes, for about as long as its longest trajectory takes: it is to be longer than that.
    steps = 0
    for i in range(count):
        steps += length[i]
    return log, count, min(max(SHORTEST, 16 * steps // max(count, 1)), log.shape[1] // 2)


@kernel
def trajectory_lengths(key, first, law, stop, lengths):
    """lengths[i] = number of steps of trajectory first + i"""
    log, begin, column = workspace(lengths.shape[0], 1)
    done, count, recent = 0, 1, SHORTEST
    while done < lengths.shape[0] and count > 0:
        log, count, recent = walk_some(
            key, first + done, first + lengths.shape[0], law, stop, recent, log, begin, column, lengths[done:]
        )
        done += count


@kernel
def trajectories(key, first, law, n_actions, by_slot, reward, stop, out_states, out_actions, out_rewards, out_lengths):
    """Row i of each output is trajectory first + i, and beyond its end -1, -1 and 0"""
    n, bits = out_lengths.shape[0], U(law[-1])
    mask, A = (ONE << bits) - ONE, U(n_actions)
    log, begin, column = workspace(n, 2 if by_slot else 1)
    done, count, recent = 0, 1, SHORTEST
    while done < n and count > 0:
        log, count, recent = walk_some(
            key, first + done, first + n, law, stop, recent, log, begin, column, out_lengths[done:]
        )
        for i in range(count):
            codes, slots = log[0, begin[i] :, column[i]], log[-1, begin[i] :, column[i]]
            states, actions, rewards = out_states[done + i], out_actions[done + i], out_rewards[done + i]
            taken = out_lengths[done + i]
            s = codes[0] & mask
            states[0] = s
            for t in range(taken):
                a = (codes[t + 1] & ~TERMINAL) >> bits
                actions[t] = a
                rewards[t] = reward[slots[t + 1] if by_slot else s * A + a]
                s = codes[t + 1] & mask
                states[t + 1] = s
            states[taken + 1 :], actions[taken:], rewards[taken:] = -1, -1, 0.0
        done += count


@kernel
def returns(key, first, law, n_actions, by_slot, reward, discounts, stop, out):
    """out[i] = sum_t discount^t r_t of trajectory first + i; the last of `discounts` stands for all later ones"""
    n, bits = out.shape[0], U(law[-1])
    mask, A = (ONE << bits) - ONE, U(n_actions)
    log, begin, column = workspace(n, 2 if by_slot else 1)
    length = np.empty(BATCH, np.int64)
    done, count, recent = 0, 1, SHORTEST
    while done < n and count > 0:
        log, count, recent = walk_some(key, first + done, first + n, law, stop, recent, log, begin, column, length)
        for i in range(count):
            codes, slots = log[0, begin[i] :, column[i]], log[-1, begin[i] :, column[i]]
            total = 0.0
            for t in range(length[i]):
                a = (codes[t + 1] & ~TERMINAL) >> bits
                k = U(slots[t + 1]) if by_slot else (codes[t] & mask) * A + a
                total += discounts[min(t, discounts.shape[0] - 1)] * reward[k]
            out[done + i] = total
        done += count
