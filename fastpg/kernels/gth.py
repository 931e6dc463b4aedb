"""Elimination without subtraction: the factors of one diagonal tile of I - discount P_pi."""

from fastpg.kernels import kernel


@kernel
def eliminate(off, leaving, out):
    """out[0] = L^{-1} and out[1] = U^{-1} where L U = diag(pivot) - off with rows that sum to `leaving`.

        pivot_k = leaving_k + sum_{j>k} off_kj;  u_kj = off_kj / pivot_k;  u_k = leaving_k / pivot_k;
        off_ij += off_ik u_kj and leaving_i += off_ik u_k for i, j > k

    U = I - u is unit upper triangular and L = diag(pivot) - (what is left of off) lower triangular. The diagonal of
    `off` is not read.   (Grassmann, Taksar & Heyman 1985)
    """
    B = leaving.shape[0]
    off = off.copy()
    leaving = leaving.copy()
    out[:] = 0.0
    for k in range(B):
        pivot = leaving[k]
        for j in range(k + 1, B):
            pivot += off[k, j]
        leaving[k] /= pivot
        for j in range(k + 1, B):
            off[k, j] /= pivot
        # Row k of L^{-1} is (e_k + sum_{j<k} off_kj row j) / pivot; the sum is complete.
        out[0, k, k] = 1.0
        for j in range(k + 1):
            out[0, k, j] /= pivot
        for i in range(k + 1, B):
            flow = off[i, k]
            if flow != 0.0:
                leaving[i] += flow * leaving[k]
                for j in range(k + 1, B):
                    off[i, j] += flow * off[k, j]
                for j in range(k + 1):
                    out[0, i, j] += flow * out[0, k, j]
    for k in range(B - 1, -1, -1):
        out[1, k, k] = 1.0
        for j in range(k + 1, B):
            flow = off[k, j]
            if flow != 0.0:
                for i in range(j, B):
                    out[1, k, i] += flow * out[1, j, i]
