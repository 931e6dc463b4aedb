"""The chain of two episodes that are driven by the same random words, one under each of two policies.

Both draw actions and successors by inverse distribution functions, so that one word draws two outcomes with a
probability that is the length of the overlap of their intervals. Pairs (state, action) and outcomes are numbered as in
`fastpg.kernels.perturbation`; S stands for a process that has ended.
"""

from fastpg.kernels import kernel


@kernel
def overlap(x, i, end, y, j, last):
    """The upper end of the overlap of cell i of x[..end-1] and j of y[..last-1], and the cells after it

    `x` and `y` are distribution functions; a process that has ended has one cell, for which no entry is read.
    """
    a = x[i] if i + 1 < end else 1.0
    b = y[j] if j + 1 < last else 1.0
    high = min(a, b)
    return high, i + 1 if a <= high else i, j + 1 if b <= high else j


@kernel
def coupled_steps(first, offset, above, below, cumulative, successor, reward, index, upper, lower, begin, step):
    """Pair p of states is (upper[p], lower[p]); its outcomes are step[begin[p]..begin[p+1]-1]; index finds the pair

    The first pairs (s, s) are given, the others are those they lead to. `above` and `below` are the distribution
    functions of actions under the two policies. step[e] = (the pair that follows, -1 where both have ended; the
    probability; the difference of the two rewards). Returns the number of pairs, or -1 where `step` is too short.
    """
    S = index.shape[0] - 1
    found, e, p = 0, 0, 0
    for s in range(S):
        if index[s, s] >= 0:
            found += 1
    while p < found:
        s, r = upper[p], lower[p]
        begin[p] = e
        i, i_end = (first[s], first[s + 1]) if s < S else (0, 0)
        j, j_end = (first[r], first[r + 1]) if r < S else (0, 0)
        done = 0.0
        while done < 1.0:
            high, next_i, next_j = overlap(above, i, i_end, below, j, j_end)
            mass, done = high - done, high
            k, k_end = (offset[i], offset[i + 1]) if s < S else (0, 0)
            m, m_end = (offset[j], offset[j + 1]) if r < S else (0, 0)
            i, j, inner = next_i, next_j, 0.0
            while mass > 0.0 and inner < 1.0:
                top, next_k, next_m = overlap(cumulative, k, k_end, cumulative, m, m_end)
                share, inner = top - inner, top
                if share > 0.0:
                    if e == step.shape[0]:
                        return -1
                    ahead, behind, gain = S, S, 0.0
                    if s < S:
                        gain += reward[k]
                        if first[successor[k]] < first[successor[k] + 1]:
                            ahead = successor[k]
                    if r < S:
                        gain -= reward[m]
                        if first[successor[m]] < first[successor[m] + 1]:
                            behind = successor[m]
                    if index[ahead, behind] < 0 and min(ahead, behind) < S:
                        index[ahead, behind] = found
                        upper[found], lower[found] = ahead, behind
                        found += 1
                    step[e, 0], step[e, 1], step[e, 2] = index[ahead, behind], mass * share, gain
                    e += 1
                k, m = next_k, next_m
        p += 1
    begin[p] = e
    return found
