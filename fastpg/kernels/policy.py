"""From logits to probabilities."""

import numpy as np

from fastpg.kernels import kernel


@kernel
def softmax(logits, out):
    """out[s,a] = exp(logits[s,a] - max_b logits[s,b]) / sum_c exp(logits[s,c] - max_b logits[s,b])

    Returns whether all rows are laws: none is where a logit is nan or +inf, or all are -inf.
    """
    S, A = logits.shape
    laws = True
    for s in range(S):
        top = logits[s, 0]
        for a in range(1, A):
            top = max(top, logits[s, a])
        total = 0.0
        for a in range(A):
            out[s, a] = np.exp(logits[s, a] - top)
            total += out[s, a]
        for a in range(A):
            out[s, a] /= total
        laws &= total >= 1.0
    return laws
