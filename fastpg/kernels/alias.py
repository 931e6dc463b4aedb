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
    if rest < 0 and shifted > part:
        whole -= 1
    elif rest > 0 and shifted < part:
        whole += 1
    return whole, shifted


@kernel
def masses(weight, first, last, whole, part):
    """whole + part 2^-64 = n weight / sum(weight) for first..last-1, n of them, which sum to n exactly

    Each is within 2^-63 of its product with n / sum(weight) in two floats, which is right to 2 ((n + 3) 2^-53)^2 of
    itself, but for the largest, which takes what the others leave.
    """
    h, e = 0.0, 0.0
    for k in range(first, last):
        h, lost = two_sum(h, weight[k])
        e += lost
    h, e = two_sum(h, e)
    n = last - first
    rh, rl = divide(float(n), 0.0, h, e)
    largest = first
    cells, units = 0, ZERO
    for k in range(first, last):
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
def alias_table(weight, offset, threshold, alias):
    """The table of each segment offset[s] .. offset[s+1]-1 of `weight`, by Vose (1991); threshold and alias are filled.

    Its law differs from weight / sum(weight) by at most 2^-62 in total variation for n up to 2^20 outcomes: `masses`
    are within 2^-63 of a cell, the largest aside, and sum to n; nothing is rounded after that.
    """
    stack = np.empty(weight.shape[0], np.int64)
    whole = np.empty(weight.shape[0], np.int64)
    for segment in range(offset.shape[0] - 1):
        first, last = offset[segment], offset[segment + 1]
        if first == last:
            continue
        masses(weight, first, last, whole, threshold)
        small, large = first, last
        for k in range(first, last):
            alias[k] = k
            # Without branches, which would be guessed wrong half of the time: the one of the two that counts is kept.
            stack[small], stack[large - 1] = k, k
            small += whole[k] == 0
            large -= whole[k] != 0
        while small > first:
            poor, rich = stack[small - 1], stack[large]
            small -= 1
            alias[poor] = rich
            threshold[rich] += threshold[poor]
            whole[rich] -= threshold[rich] >= threshold[poor]
            stack[small] = rich
            small += whole[rich] == 0
            large += whole[rich] == 0


@kernel
def records(threshold, alias, action, successor, terminal, bits, record):
    """record[k] = (threshold[k], code of k, code of alias[k]); `fastpg.kernels.sampling` says what they are"""
    for k in range(threshold.shape[0]):
        code = action[k] << bits | successor[k] | np.int64(terminal[successor[k]]) << 31
        record[k, 0], record[k, 1] = threshold[k], np.uint64(code) << HALF
    for k in range(threshold.shape[0]):
        record[k, 1] |= record[alias[k], 1] >> HALF
