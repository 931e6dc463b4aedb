"""Compiled loops: pure arrays in, arrays out, one equation each; callable from a user's own @njit code.

`error_model="numpy"`: a division by zero gives inf or nan, as in NumPy, and no branch.
`nogil`: the sampler runs them on Python threads, so no threading layer is loaded and forks are safe.
`cache`: a process compiles only what no earlier one has. There is no fastmath: it deletes NaN tests and reorders sums.
"""

from functools import partial
from typing import Any

from numba import njit

kernel: Any = partial(njit, cache=True, nogil=True, error_model="numpy")
