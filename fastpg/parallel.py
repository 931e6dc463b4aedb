"""Runs compiled work in pieces on all cores; nothing it returns depends on how many there are."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numba
import numpy as np
import numpy.typing as npt

from fastpg.validation import positive_integer

Piece = TypeVar("Piece")
Result = TypeVar("Result")
StopFlag = npt.NDArray[np.bool_]

# Work on so many numbers takes a few times as long as to start threads, which is 0.1 ms.
WORTH = 400_000


def in_order(
    work: Callable[[Piece, StopFlag], Result], pieces: Sequence[Piece], threads: int | None = None
) -> Iterator[Result]:
    """`work(piece, stop)` for each piece, yielded in the order of the pieces, a few at a time in flight.

    `work` releases the GIL and returns early once `stop[0]` is set, as it is when the consumer stops or is
    interrupted. `threads` defaults to NUMBA_NUM_THREADS, which defaults to the number of cores.
    """
    stop = np.zeros(1, bool)
    threads = numba.config.NUMBA_NUM_THREADS if threads is None else positive_integer("threads", threads)
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="fastpg") as pool:
        try:
            for piece in pieces:
                pending.append(pool.submit(work, piece, stop))
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            stop[0] = True
            for future in pending:
                future.cancel()


def run(work: Callable[[Piece, StopFlag], None], pieces: Sequence[Piece], threads: int | None = None) -> None:
    """`in_order` for work that leaves its results in place."""
    for _ in in_order(work, pieces, threads):
        pass


def spread(work: Callable[[Piece], None], pieces: Sequence[Piece], size: int) -> None:
    """`work(piece)` for each piece, on all cores where so many numbers are worth it; it leaves its results in place."""
    if size >= WORTH and len(pieces) > 1:
        run(lambda piece, _: work(piece), pieces)
    else:
        for piece in pieces:
            work(piece)
