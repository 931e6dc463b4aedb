"""P_pi as compressed rows, for products that threads share: nothing depends on how many there are."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numba
import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastpg.kernels import sparse as kernels
from fastpg.lazy import cached_property
from fastpg.validation import FloatArray, frozen

Unsigned: TypeAlias = npt.NDArray[np.unsignedinteger]
Singles: TypeAlias = npt.NDArray[np.float32]
Piece: TypeAlias = tuple[int, int]
Each: TypeAlias = Callable[[Callable[[Piece], None], Sequence[Piece]], None]

# Threads take products with so many transitions: one of 200,000 takes 0.1 ms, and to hand it out 0.03.
WORTH = 200_000
# Pieces of a product; more than threads, where one of them may have to wait for its core.
PIECES = 4


def alone(work: Callable[[Piece], None], pieces: Sequence[Piece]) -> None:
    """`work` on one piece after the other."""
    for piece in pieces:
        work(piece)


@contextmanager
def together(entries: int) -> Iterator[Each]:
    """What does work on pieces by all cores where so many entries are worth it, and else is `alone`."""
    threads = numba.config.NUMBA_NUM_THREADS
    if threads == 1 or entries < WORTH:
        yield alone
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="fastpg") as pool:

        def each(work: Callable[[Piece], None], pieces: Sequence[Piece]) -> None:
            for done in [pool.submit(work, piece) for piece in pieces]:
                done.result()

        yield each


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
        unsigned = np.uint64 if P.indices.itemsize == 8 else np.uint32
        return cls(frozen(P.data[:]), frozen(P.indices.view(unsigned)), frozen(P.indptr.view(unsigned)))

    @property
    def n_states(self) -> int:
        """S."""
        return self.first.size - 1

    @cached_property
    def longest(self) -> int:
        """The most entries of a row."""
        return int(np.diff(self.first).max(initial=0))

    @cached_property
    def single(self) -> Singles:
        """`data` in float32."""
        return frozen(self.data.astype(np.float32))

    @cached_property
    def pieces(self) -> list[Piece]:
        """Ranges of rows, of as many entries each as whole blocks of states allow."""
        shares = np.searchsorted(self.first, np.linspace(0, self.data.size, PIECES + 1)[1:-1])
        cuts = np.unique([0, *(shares // kernels.BLOCK * kernels.BLOCK), self.n_states])
        return [(int(begin), int(end)) for begin, end in zip(cuts, cuts[1:], strict=False)]

    @cached_property
    def transposed(self) -> "Rows":
        """The rows of the transpose, entries of each in the order of the rows here."""
        S, pieces = self.n_states, self.pieces
        place = np.zeros((len(pieces) + 1, S), self.first.dtype)
        data, indices = np.empty(self.data.shape), np.empty(self.indices.shape, self.indices.dtype)
        first = np.zeros(S + 1, self.first.dtype)

        def count(piece: Piece) -> None:
            begin, end = self.first[list(piece)]
            kernels.count_columns(frozen(self.indices[begin:end]), place[pieces.index(piece) + 1])

        def transpose(piece: Piece) -> None:
            kernels.transpose(*self.arrays, *piece, place[pieces.index(piece)], data, indices)

        with together(self.data.size) as each:
            each(count, pieces)
            # Where the entries of each piece begin in each column.
            np.cumsum(place, axis=0, dtype=place.dtype, out=place)
            np.cumsum(place[-1], dtype=first.dtype, out=first[1:])
            place[:-1] += first[:-1]
            each(transpose, pieces)
        return Rows(frozen(data), frozen(indices), frozen(first))

    @property
    def arrays(self) -> tuple[FloatArray, Unsigned, Unsigned]:
        """What kernels take."""
        return self.data, self.indices, self.first

    def resolvent_product(self, discount: float, x: FloatArray, each: Each = alone) -> FloatArray:
        """x - discount P x."""
        y, x = np.empty(x.size), frozen(x[:])
        each(lambda piece: kernels.resolvent_product(*self.arrays, discount, x, *piece, y), self.pieces)
        return y
