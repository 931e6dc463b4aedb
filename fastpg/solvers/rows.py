"""P_pi as compressed rows, for products that threads share: nothing depends on how many there are."""

from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastpg.chain import Unsigned, unsigned_rows
from fastpg.kernels import sparse as kernels
from fastpg.lazy import cached_property
from fastpg.parallel import WORTH, spread
from fastpg.validation import FloatArray, frozen

Singles: TypeAlias = npt.NDArray[np.float32]
Piece: TypeAlias = tuple[int, int]

# Pieces of a product; more than threads, where one of them may have to wait for its core.
PIECES = 4


@dataclass(frozen=True, eq=False, repr=False)
class Rows:
    """Entries `data` of a matrix (S, S) by rows, their columns `indices`, and `first`, where each row begins.

    The last two are unsigned, as the kernels want them.
    """

    data: FloatArray
    indices: Unsigned
    first: Unsigned

    @classmethod
    def of(cls, P: sparse.csr_array) -> "Rows":
        """Those of a CSR array, which are not copied."""
        return cls(*unsigned_rows(P))

    @property
    def n_states(self) -> int:
        """S."""
        return self.first.size - 1

    @cached_property
    def longest(self) -> int:
        """The most entries of a row."""
        return int(np.diff(self.first).max(initial=0))

    @cached_property
    def longest_column(self) -> int:
        """The most entries of a column."""
        entries = np.zeros(self.n_states, np.int32)
        kernels.count_columns(self.indices, entries)
        return int(entries.max())

    @cached_property
    def single(self) -> Singles:
        """`data` in float32."""
        return frozen(self.data.astype(np.float32))

    @cached_property
    def pieces(self) -> list[Piece]:
        """Ranges of rows, of as many entries each as whole blocks of states allow; one where threads are not worth it.

        How many there are may tell how sums round, so that it does not depend on the threads.
        """
        parts = PIECES if self.data.size >= WORTH else 1
        shares = np.searchsorted(self.first, np.linspace(0, self.data.size, parts + 1)[1:-1])
        cuts = np.unique([0, *(shares // kernels.BLOCK * kernels.BLOCK), self.n_states])
        return [(int(begin), int(end)) for begin, end in pairwise(cuts)]

    @property
    def arrays(self) -> tuple[FloatArray, Unsigned, Unsigned]:
        """What kernels take."""
        return self.data, self.indices, self.first

    def resolvent_product(self, discount: float, x: FloatArray) -> FloatArray:
        """x - discount P x."""
        y, x = np.empty(x.size), frozen(x[:])
        spread(
            lambda piece: kernels.resolvent_product(*self.arrays, discount, x, *piece, y), self.pieces, self.data.size
        )
        return y

    def resolvent_product_transposed(self, discount: float, x: FloatArray) -> FloatArray:
        """x - discount P^T x."""
        y = np.empty(x.size)
        kernels.resolvent_product_transposed(*self.arrays, discount, frozen(x[:]), y)
        return y
