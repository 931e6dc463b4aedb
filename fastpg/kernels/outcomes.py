"""The outcomes (action, successor) of each state under a policy, those that can happen, state after state.

Transitions are compressed rows s A + a: entries `data` from first[row] on with their `indices`; a dense model has no
`indices`, its rows being whole.
"""

from fastpg.kernels import kernel


@kernel
def count_outcomes(data, first, pi, out):
    """out[s] = the number of pairs (a, k) with pi(a|s) P(k|s,a) > 0"""
    S, A = pi.shape
    for s in range(S):
        n = 0
        for a in range(A):
            for j in range(first[s * A + a], first[s * A + a + 1]):
                n += pi[s, a] * data[j] > 0.0
        out[s] = n


@kernel
def list_outcomes(data, indices, first, pi, reward, place, action, successor, gain, out):
    """out[n] = pi(a|s) P(k|s,a) of outcome n, whose action is a, successor k and gain[n] = R(s,a,k)

    The reward of entry j in row s A + a is reward[(s A + a) place[0] + k place[1] + j place[2]].
    """
    S, A = pi.shape
    n = 0
    for s in range(S):
        for a in range(A):
            row = s * A + a
            for j in range(first[row], first[row + 1]):
                k = indices[j] if indices.shape[0] > 0 else j - first[row]
                p = pi[s, a] * data[j]
                if p > 0.0:
                    action[n], successor[n], out[n] = a, k, p
                    gain[n] = reward[row * place[0] + k * place[1] + j * place[2]]
                    n += 1


@kernel
def by_pair(offset, action, value, out):
    """out[s,a] = value[n] of the outcomes n of s and a; returns whether it is the same for all of them"""
    same = True
    for s in range(out.shape[0]):
        before = -1
        for n in range(offset[s], offset[s + 1]):
            a = action[n]
            same &= (a != before) | (out[s, a] == value[n])
            before = a
            out[s, a] = value[n]
    return same
