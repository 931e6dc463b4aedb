"""Randomness is an argument: a seed or a generator in, one generator or one key of a counter-based stream out."""

import numpy as np
import numpy.typing as npt

from fastpg.errors import InvalidArgument
from fastpg.validation import frozen

RNG = int | np.random.Generator


def generator(rng: RNG) -> np.random.Generator:
    """`rng` itself, or a new generator from an int seed."""
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, int | np.integer) and not isinstance(rng, bool) and rng >= 0:
        return np.random.default_rng(int(rng))
    raise InvalidArgument(f"rng must be a non-negative int seed or a numpy.random.Generator but is {rng!r}")


def philox_key(rng: RNG) -> npt.NDArray[np.uint64]:
    """The two words that key the counter-based generator of a sampling run.

    The same seed gives the same key; a Generator is advanced, so that two runs from it differ.
    """
    return frozen(generator(rng).integers(0, 2**64, size=2, dtype=np.uint64))
