"""Communicating classes of a chain in compressed rows, in order, and elimination without subtraction in each of them.

Class c holds the states order[begin[c]:begin[c+1]], transitions lead to the same class or to later ones, and state s is
order[place[s]]. The factors of a class of n states are n x n numbers, one class after the other.
"""

from fastpg.kernels import kernel


@kernel
def communicating_classes(data, indices, first, largest, position, edge, path, bound, calls, order, begin):
    """The classes of the graph of the entries that are not 0, or -1 as soon as one is found to exceed `largest` states

    order and begin[S-n:] describe the n classes. A path is followed to states not yet seen; each time it comes back to
    itself, what lies between belongs to one class (path-based depth-first search: Gabow 2000). position = 0 tells where
    a state is on the path, and is -1 once its class is known; edge[s] = first[s] is what is to be followed next.
    """
    S = first.size - 1
    n, last = 0, S
    begin[S] = S
    for root in range(S):
        new, height, bounds, depth = root, 0, 0, 0
        while position[root] >= 0:
            if new >= 0:
                path[height] = calls[depth] = new
                height, depth = height + 1, depth + 1
                position[new] = bound[bounds] = height
                bounds += 1
                new = -1
            s = calls[depth - 1]
            if edge[s] < first[s + 1]:
                k, p = indices[edge[s]], data[edge[s]]
                edge[s] += 1
                if p != 0.0 and position[k] == 0:
                    new = k
                elif p != 0.0 and position[k] > 0:
                    while bound[bounds - 1] > position[k]:
                        bounds -= 1
                    if height - bound[bounds - 1] >= largest:
                        return -1
            else:
                depth -= 1
                if bound[bounds - 1] == position[s]:
                    bounds, rest = bounds - 1, position[s] - 1
                    while height > rest:
                        height, last = height - 1, last - 1
                        order[last] = path[height]
                        position[path[height]] = -1
                    n += 1
                    begin[S - n] = last
    return n


@kernel
def eliminate_classes(data, indices, first, gamma, complement, order, begin, place, scale, out):
    """L U = I - gamma P within each class: -L below the pivots, which take the diagonal, and I - U above   (see GTH)

    `scale` becomes gamma / sum_k P(s,k), or 0 for empty rows. Returns the smallest pivot.
    """
    leaving = scale.copy()
    least, at = 1.0, 0
    for c in range(begin.size - 1):
        b, e = begin[c], begin[c + 1]
        n = e - b
        for i in range(n):
            s = order[b + i]
            total = 0.0
            for j in range(first[s], first[s + 1]):
                total += data[j]
            scale[s] = gamma / total if total > 0.0 else 0.0
            leaving[s] = complement if total > 0.0 else 1.0
            for j in range(n):
                out[at + i * n + j] = 0.0
            for j in range(first[s], first[s + 1]):
                k = place[indices[j]]
                if k < b or k >= e:
                    leaving[s] += scale[s] * data[j]
                elif k != b + i:
                    out[at + i * n + k - b] += scale[s] * data[j]
        for m in range(n):
            row = at + m * n
            pivot = leaving[order[b + m]]
            for j in range(m + 1, n):
                pivot += out[row + j]
            least = min(least, pivot)
            out[row + m] = pivot
            leaving[order[b + m]] /= pivot
            for j in range(m + 1, n):
                out[row + j] /= pivot
            for i in range(m + 1, n):
                flow = out[at + i * n + m]
                if flow != 0.0:
                    leaving[order[b + i]] += flow * leaving[order[b + m]]
                    for j in range(m + 1, n):
                        out[at + i * n + j] += flow * out[row + j]
        at += n * n
    return least


@kernel
def substitute_classes(data, indices, first, scale, order, begin, place, factors, x):
    """(I - gamma P) x = x in place, the last class first"""
    at = factors.size
    for c in range(begin.size - 2, -1, -1):
        b, e = begin[c], begin[c + 1]
        n = e - b
        at -= n * n
        for i in range(n):
            s = order[b + i]
            total = 0.0
            for j in range(first[s], first[s + 1]):
                if place[indices[j]] >= e:
                    total += data[j] * x[indices[j]]
            total = x[s] + scale[s] * total
            for j in range(i):
                total += factors[at + i * n + j] * x[order[b + j]]
            x[s] = total / factors[at + i * n + i]
        for i in range(n - 1, -1, -1):
            for j in range(i + 1, n):
                x[order[b + i]] += factors[at + i * n + j] * x[order[b + j]]


@kernel
def substitute_classes_transposed(data, indices, first, scale, order, begin, place, factors, x):
    """(I - gamma P)^T x = x in place, the first class first"""
    at = 0
    for c in range(begin.size - 1):
        b, e = begin[c], begin[c + 1]
        n = e - b
        for i in range(n):
            for j in range(i + 1, n):
                x[order[b + j]] += factors[at + i * n + j] * x[order[b + i]]
        for i in range(n - 1, -1, -1):
            s = order[b + i]
            x[s] /= factors[at + i * n + i]
            for j in range(i):
                x[order[b + j]] += factors[at + i * n + j] * x[s]
            flow = scale[s] * x[s]
            for j in range(first[s], first[s + 1]):
                if place[indices[j]] >= e:
                    x[indices[j]] += data[j] * flow
        at += n * n
