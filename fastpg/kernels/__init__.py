"""Compiled loops: pure arrays in, arrays out, one equation each; callable from a user's own @njit code.

`error_model="numpy"`: a division by zero gives inf or nan, as in NumPy, and no branch.
`nogil`: the sampler runs them on Python threads, so no threading layer is loaded and forks are safe.
There is no fastmath: it deletes NaN tests and reorders sums.

Compiled kernels are kept where Numba keeps its own: in NUMBA_CACHE_DIR, beside the source or in the user's cache. A
process compiles only what no earlier one has. Without a place that can be written each process compiles for itself.
"""

from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache, IndexDataCacheFile

# One kernel calls another, so what is compiled is as old as the oldest of these files.
SOURCES = sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's cache on disk, keyed by all kernels and never a reason to fail.

    What cannot be read, say after a full disk, is compiled and written anew; what cannot be written is not kept.
    """

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self._cache_file = IndexDataCacheFile(self.cache_path, self._impl.filename_base, SOURCES)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # unpickling raises nearly anything
            self._attempt(self.flush)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        self._attempt(super().save_overload, sig, data)

    @staticmethod
    def _attempt(write: Any, *arguments: Any) -> None:
        with suppress(OSError):
            write(*arguments)


def kernel(function: Any) -> Any:
    """`function` compiled at its first call, or read from the disk where an earlier process compiled it."""
    compiled = njit(nogil=True, error_model="numpy")(function)
    with suppress(RuntimeError):  # Numba found no directory to write to
        compiled._cache = _Cache(function)
    return compiled
