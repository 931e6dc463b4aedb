"""What a plan hands to the loop over all samples: each piece of it adds to sums of its own."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fastpg.parallel import StopFlag
from fastpg.sampling.tables import IntArray
from fastpg.validation import FloatArray

Key = npt.NDArray[np.uint64]
# Adds the samples edges[b] .. edges[b+1]-1 to power sums, to row b of blocks and to weights[b]; the steps it took.
Sampler = Callable[[IntArray, StopFlag, FloatArray, FloatArray, FloatArray], int]
# Puts the sum of the returns of trajectories edges[b] .. edges[b+1]-1 into sums[b].
Earner = Callable[[IntArray, StopFlag, FloatArray], None]
# The average return of the whole sample, which it walks.
Average = Callable[[Earner], float]
