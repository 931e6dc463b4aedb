"""Walker's alias tables in integers, so that no rounding biases a draw.

Outcome k of a segment of n outcomes owns cell k, a share 1/n of all draws. Its own part of the cell is
threshold[k] 2^-64 and the rest is that of outcome alias[k]; masses are held in units of 2^-64 of a cell.
"""

import numpy as np

from fastpg.kernels import kernel
from fastpg.kernels.twofold import divide, two_product, two_sum

CELL = 2.0**64
ZERO = np.uint64(0)
HALF = np.uint64(32)


@kernel
def fixed_point(h, e):
    """(whole, part): the number h + e >= 0 as whole + part 2^-64, within 2^-63"""
    whole = int(h)
    part = np.uint64((h - whole) * CELL)
    rest = int(e * CELL)
    shifted = part + np.uint64(rest)
    # Without branches: the sign of a rounding error would be guessed wrong half of the time.
    return whole + ((rest > 0) & (shifted < part)) - ((rest < 0) & (shifted > part)), shifted


@kernel
def masses(weight, whole, part):
    """whole + part 2^-64 = n weight / sum(weight) of n outcomes, which sum to n exactly

    Each is within 2^-63 of its product with n / sum(weight) in two floats, which is right to 2 ((n + 3) 2^-53)^2 of
    itself, but for the largest, which takes what the others leave.
    """
    h, e = 0.0, 0.0
    n = weight.shape[0]
    for k in range(n):
        h, lost = two_sum(h, weight[k])
        e += lost
    h, e = two_sum(h, e)
    rh, rl = divide(float(n), 0.0, h, e)
    largest = 0
    cells, units = 0, ZERO
    for k in range(n):
        ph, pl = two_product(weight[k], rh)
        whole[k], part[k] = fixed_point(ph, pl + weight[k] * rl)
        cells += whole[k]
        units += part[k]
        if units < part[k]:
            cells += 1
        largest = k if weight[k] > weight[largest] else largest
    # n - (cells + units 2^-64) goes to the largest.
    missing = ZERO - units
    whole[largest] += n - cells - (0 if units == ZERO else 1)
    part[largest] += missing
    if part[largest] < missing:
        whole[largest] += 1


@kernel
def alias_cells(whole, threshold, stack, alias):
    """The table of one segment by Vose (1991), from its `masses` whole + threshold 2^-64, which are used up"""
    n = whole.shape[0]
    small, large = 0, n
    for k in range(n):
        alias[k] = k
        # Without branches, which would be guessed wrong half of the time: the one of the two that counts is kept.
        stack[small], stack[large - 1] = k, k
        small += whole[k] == 0
        large -= whole[k] != 0
    while small > 0:
        poor, rich = stack[small - 1], stack[large]
        small -= 1
        alias[poor] = rich
        threshold[rich] += threshold[poor]
        whole[rich] -= threshold[rich] >= threshold[poor]
        stack[small] = rich
        small += whole[rich] == 0
        large += whole[rich] == 0


@kernel
def alias_tables(weight, offset, successor, action, terminal, bits, alias, record):
    """record[k] = (threshold, code of k, code of alias[k]) for each segment offset[s] .. offset[s+1]-1 of `weight`

    `fastpg.kernels.sampling` says what they are. The law of a table differs from weight / sum(weight) by at most 2^-62
    in total variation for n up to 2^20 outcomes: `masses` are within 2^-63 of a cell, the largest aside, and sum to n;
    nothing is rounded after that.
    """
    longest = 0
    for s in range(offset.shape[0] - 1):
        longest = max(longest, offset[s + 1] - offset[s])
    stack, whole, near = np.empty(longest, np.int64), np.empty(longest, np.int64), np.empty(longest, np.int64)
    threshold, code = np.empty(longest, np.uint64), np.empty(longest, np.uint64)
    for s in range(offset.shape[0] - 1):
        first, n = offset[s], offset[s + 1] - offset[s]
        if n > 0:
            masses(weight[first : first + n], whole[:n], threshold[:n])
            alias_cells(whole[:n], threshold[:n], stack, near)
        for k in range(n):
            following = successor[first + k]
            code[k] = action[first + k] << bits | following | np.int64(terminal[following]) << 31
        for k in range(n):
            record[first + k, 0], record[first + k, 1] = threshold[k], code[k] << HALF | code[near[k]]
            alias[first + k] = first + near[k]
