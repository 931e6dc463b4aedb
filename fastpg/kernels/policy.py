"""From logits to probabilities."""

import numpy as np

from fastpg.kernels import kernel
from fastpg.kernels.exponential import exponential

# Rows at a time, which the processor's cache holds.
ROWS = 128


@kernel
def softmax(logits, out):
    """out[s,a] = exp(logits[s,a] - max_b logits[s,b]) / sum_c exp(logits[s,c] - max_b logits[s,b])

    Returns whether all rows are laws: none is where a logit is nan or +inf, or all are -inf.
    """
    S, A = logits.shape
    laws, power = True, np.empty((2, min(S, ROWS) * A))
    for begin in range(0, S, ROWS):
        end = min(begin + ROWS, S)
        for s in range(begin, end):
            top = logits[s, 0]
            for a in range(1, A):
                top = max(top, logits[s, a])
            for a in range(A):
                out[s, a] = logits[s, a] - top
        exponential(power, out[begin:end].reshape((end - begin) * A))
        for s in range(begin, end):
            total = 0.0
            for a in range(A):
                total += out[s, a]
            for a in range(A):
                out[s, a] /= total
            laws &= total >= 1.0
    return laws
