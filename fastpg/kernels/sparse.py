"""Chains stored as compressed rows: entries `data`, columns `indices`, and `first`, where each row begins.

Products take unsigned `indices`: Numba tests a signed index for being negative, which doubled their time.
"""

from fastpg.kernels import kernel


@kernel
def induced_sparse_transition(data, indices, first, pi, place, out_data, out_indices, out_first):
    """out[s,k] = sum_a pi(a|s) P(k|s,a) in CSR, k in the order met; place[k] = -1 says where k was put last."""
    S, A = pi.shape
    n = 0
    out_first[0] = 0
    for s in range(S):
        begin = n
        for a in range(A):
            p = pi[s, a]
            if p != 0.0:
                for j in range(first[s * A + a], first[s * A + a + 1]):
                    k = indices[j]
                    if place[k] < begin:
                        place[k] = n
                        out_indices[n] = k
                        out_data[n] = p * data[j]
                        n += 1
                    else:
                        out_data[place[k]] += p * data[j]
        out_first[s + 1] = n


@kernel
def count_entries(P, most):
    """How many entries of the dense P are not 0, counted until there are more than `most`."""
    S = P.shape[0]
    n = 0
    for s in range(S):
        for k in range(S):
            n += P[s, k] != 0.0
        if n > most:
            break
    return n


@kernel
def compress(P, out_data, out_indices, out_first):
    """The entries of the dense P that are not 0, in CSR"""
    S = P.shape[0]
    n = 0
    out_first[0] = 0
    for s in range(S):
        for k in range(S):
            if P[s, k] != 0.0:
                out_indices[n] = k
                out_data[n] = P[s, k]
                n += 1
        out_first[s + 1] = n


@kernel
def resolvent_product(data, indices, first, gamma, x, out):
    """out[s] = x[s] - gamma sum_k P(s,k) x[k]"""
    for s in range(out.size):
        total = 0.0
        for j in range(first[s], first[s + 1]):
            total += data[j] * x[indices[j]]
        out[s] = x[s] - gamma * total


@kernel
def resolvent_product_transposed(data, indices, first, gamma, x, out):
    """out[k] = x[k] - gamma sum_s P(s,k) x[s]"""
    for s in range(out.size):
        out[s] = x[s]
    for s in range(out.size):
        flow = gamma * x[s]
        for j in range(first[s], first[s + 1]):
            out[indices[j]] -= data[j] * flow


@kernel
def acyclic_order(data, indices, first, arrivals, out):
    """out = the states such that transitions but to oneself lead to later ones; as many as can be put in order.

    arrivals[k] = 0 counts the transitions that lead to k from states not yet in order (Kahn 1962). Returns how many
    states are in order.
    """
    S = first.size - 1
    last = False
    for s in range(S):  # with no last state, as most cyclic chains have none, there is nothing to count
        j = first[s]
        while j < first[s + 1] and (indices[j] == s or data[j] == 0.0):
            j += 1
        last = last or j == first[s + 1]
    if not last:
        return 0
    for s in range(S):
        for j in range(first[s], first[s + 1]):
            if indices[j] != s and data[j] != 0.0:
                arrivals[indices[j]] += 1
    n = 0
    for s in range(S):
        if arrivals[s] == 0:
            out[n] = s
            n += 1
    done = 0
    while done < n:
        s = out[done]
        done += 1
        for j in range(first[s], first[s + 1]):
            k = indices[j]
            if k != s and data[j] != 0.0:
                arrivals[k] -= 1
                if arrivals[k] == 0:
                    out[n] = k
                    n += 1
    return n


@kernel
def count_columns(indices, out):
    """out[k] += how many entries are stored in column k"""
    for k in indices:
        out[k] += 1


@kernel
def longest_moves(indices, first, out):
    """out = 0, 0 becomes max s - k and max k - s over the stored entries (s,k)."""
    for s in range(first.size - 1):
        for j in range(first[s], first[s + 1]):
            out[0] = max(out[0], s - indices[j])
            out[1] = max(out[1], indices[j] - s)


@kernel
def pivots(data, indices, first, gamma, complement, out):
    """out[s] = 1 - gamma P(s,s) as (1 - gamma) + gamma sum_{k != s} P(s,k), which does not cancel; 1 for empty rows."""
    for s in range(out.size):
        leaving = 0.0
        for j in range(first[s], first[s + 1]):
            if indices[j] != s:
                leaving += data[j]
        out[s] = complement + gamma * leaving if first[s + 1] > first[s] else 1.0


@kernel
def substitute(data, indices, first, gamma, pivot, order, b, out):
    """out[s] = (b[s] + gamma sum_{k != s} P(s,k) out[k]) / pivot[s], the last state of the order first"""
    for n in range(order.size - 1, -1, -1):
        s = order[n]
        total = 0.0
        for j in range(first[s], first[s + 1]):
            if indices[j] != s:
                total += data[j] * out[indices[j]]
        out[s] = (b[s] + gamma * total) / pivot[s]


@kernel
def substitute_transposed(data, indices, first, gamma, pivot, order, out):
    """out[k] = (out[k] + gamma sum_{s != k} P(s,k) out[s]) / pivot[k], the first state of the order first"""
    for s in order:
        out[s] /= pivot[s]
        for j in range(first[s], first[s + 1]):
            if indices[j] != s:
                out[indices[j]] += gamma * data[j] * out[s]
