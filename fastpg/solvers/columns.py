"""Several right sides, one after the other."""

from collections.abc import Callable

import numpy as np

from fastpg.validation import FloatArray


def by_columns(solve: Callable[[FloatArray], FloatArray], b: FloatArray) -> FloatArray:
    """`solve` of `b` (S,), or of each column of `b` (S, m)."""
    return solve(b) if b.ndim == 1 else np.stack([solve(np.ascontiguousarray(column)) for column in b.T], axis=1)
