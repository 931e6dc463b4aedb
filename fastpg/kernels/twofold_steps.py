"""Sums and products of `twofold` for each step of a finite horizon."""

from fastpg.kernels import kernel
from fastpg.kernels.twofold import U2, add, dot_rows, multiply, transposed_dot_rows


@kernel
def dot_rows_of_steps(data, indices, first, x, magnitude, out, size):
    """out[k] and size[k] are those of `dot_rows` for x[k], for each step k"""
    for k in range(x.shape[0]):
        dot_rows(data, indices, first, x[k], magnitude[k], out[k], size[k])


@kernel
def transposed_dot_rows_of_steps(data, indices, first, x, out, size):
    """out[k] and size[k] are those of `transposed_dot_rows` for x[k], for each step k"""
    for k in range(x.shape[0]):
        transposed_dot_rows(data, indices, first, x[k], out[k], size[k])


@kernel
def accumulated_products(w, w_bound, x, x_bound, additions, out, bound):
    """out[:,s,a] += sum_k w[:,k,s] x[:,k,s,a], bound[s,a] += its error for any w and x within bounds

    `additions` is how many products are summed up in all, those of other calls included.
    """
    rounding = U2 * (8.0 * additions + 16.0)
    for k in range(w_bound.shape[0]):
        for s in range(w_bound.shape[1]):
            for a in range(x_bound.shape[2]):
                h, e = multiply(w[0, k, s], w[1, k, s], x[0, k, s, a], x[1, k, s, a])
                out[0, s, a], out[1, s, a] = add(out[0, s, a], out[1, s, a], h, e)
                slack = w_bound[k, s] * (abs(x[0, k, s, a]) + x_bound[k, s, a]) + abs(w[0, k, s]) * x_bound[k, s, a]
                bound[s, a] += 1.001 * slack + rounding * abs(h)
