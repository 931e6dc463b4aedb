"""A sampled policy gradient with its standard errors, in memory that does not grow with n."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastpg.certificate.equations import power_of_two
from fastpg.chain import in_units
from fastpg.errors import InvalidArgument, SolveError
from fastpg.model import MDP
from fastpg.parallel import StopFlag, in_order
from fastpg.policy import Policy
from fastpg.rng import RNG, philox_key
from fastpg.sampling.estimators import Estimator
from fastpg.sampling.perturbation import PerturbedPlan
from fastpg.sampling.plan import Plan, plan
from fastpg.sampling.sampler import Earner
from fastpg.sampling.tables import Horizon, IntArray
from fastpg.validation import (
    BoolArray,
    FloatArray,
    float_array,
    frozen,
    positive_count,
    require_finite,
    require_progress,
)

# Block sums of this many runs of trajectories carry the statistics; up to this n a block is one trajectory.
BLOCKS = 4096
# Block sums keep every entry of the gradient up to this many; beyond it entries share pools.
POOLS = 1024
# The work is cut into so many pieces, and no more than so few where the sums of a piece cost more than its steps.
PIECES, FEWEST = 64, 16
# Where a piece would have more steps than this, some tenths of a second, they are more, up to one for each block.
STEPS = 2**24
# Where nothing tells when a trajectory stops it is taken to have so many steps.
UNTOLD = 1000


class Pooling(NamedTuple):
    """The pool (S, A) that an entry is summed into, -1 for none, and its weight (S, A) there."""

    pool: IntArray
    weight: FloatArray


@dataclass(frozen=True, eq=False, repr=False)
class GradientEstimate:
    """An estimate of dJ/dlogits from n independent trajectories, the mean of one from each of them.

    ================  ======  ==================================================================================
    `mean`            (S, A)  the estimate
    `standard_error`  (S, A)  of `mean`, from block sums: B - 1 degrees of freedom, B = min(n, 4096), and of a partial
                              sample its share of the B of the whole one
    `contributions`   (S, A)  effective number of trajectories that an entry rests on: n / excess kurtosis of one
    `n`               int     trajectories
    `steps`           int     steps taken in all of them
    `blocks`          (B, K)  sums over runs of about n/B trajectories, divided by the square root of their number
    `block_sizes`     (B,)    the number of trajectories in each block
    `pooling`                 the `Pooling`: which column of `blocks` an entry went into
    ================  ======  ==================================================================================

    Of self-normalised weights, mean W Y / mean W, the statistics are those of the mean of W (Y - X) / mean W, X the
    estimate, by which it differs from its limit but for terms of order 1/n. Of a `BatchAverage` they are those of the
    baseline that was found, whose own fluctuation changes the estimate by such terms only.
    """

    mean: FloatArray
    standard_error: FloatArray
    contributions: FloatArray
    n: int
    steps: int
    blocks: FloatArray
    block_sizes: IntArray
    pooling: Pooling

    @classmethod
    def from_samples(cls, x: npt.ArrayLike, pooling: Pooling | None = None) -> "GradientEstimate":
        """The estimate that independent estimates (n, S, A) of one trajectory each have as their mean; `steps` is 0.

        >>> GradientEstimate.from_samples([[[0.5, -0.5]], [[0.0, 0.0]]]).mean
        array([[ 0.25, -0.25]])
        """
        each = float_array("sample", x, InvalidArgument)
        if each.ndim != 3 or not each.size:
            raise InvalidArgument(f"sample must have a shape (n, S, A) without a 0 but has {each.shape}")
        require_finite("sample", each, InvalidArgument)
        n, B = len(each), min(len(each), BLOCKS)
        edges = _edges(n, B)
        sizes = np.diff(edges)
        unit = power_of_two(float(np.abs(each).max()))
        root = np.sqrt(sizes)[:, None, None]
        blocks = np.add.reduceat(each / unit, edges[:-1]) / root
        sums = np.stack(((root * blocks).sum(0), (blocks**2).sum(0), (root * blocks**3).sum(0), (blocks**4).sum(0)))
        mean, standard_error, contributions = _moments(sums, n, B)
        pooling = pooled(np.ones(each.shape[1:], bool), POOLS) if pooling is None else pooling
        own = unit * blocks.reshape(B, -1) @ _columns(pooling)
        return cls(
            frozen(unit * mean), frozen(unit * standard_error), contributions, n, 0, frozen(own), frozen(sizes), pooling
        )

    def repooled(self, pooling: Pooling) -> "GradientEstimate":
        """The same with other pools, without the entries that those now do not keep alone: they are then in none."""
        column, weight = self.pooling
        sharing = np.bincount(column[column >= 0], minlength=self.blocks.shape[1])
        kept = (column >= 0) & (sharing[column] == 1) & (pooling.pool >= 0)
        own = pooling._replace(pool=frozen(np.where(kept, pooling.pool, -1)))
        change = sparse.csr_array(
            (own.weight[kept] / weight[kept], (column[kept], own.pool[kept])),
            shape=(self.blocks.shape[1], max(int(pooling.pool.max()) + 1, 1)),
        )
        return replace(self, blocks=frozen(self.blocks @ change), pooling=own)

    def __repr__(self) -> str:
        S, A = self.mean.shape
        of = f" of {self.steps} steps" if self.steps else ""
        return f"GradientEstimate({S} x {A} entries from {self.n} trajectories{of})"


def estimate_gradient(
    mdp: MDP,
    policy: Policy,
    estimator: Estimator,
    *,
    n: int,
    horizon: Horizon,
    rng: RNG,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
    pooling: Pooling | None = None,
    keep_partial: bool = False,
) -> GradientEstimate:
    """Estimate dJ/dlogits (S, A) from `n` trajectories that are never stored.

    `horizon` is a number of steps, or "geometric": go on with probability `discount`, rewards undiscounted, which is
    unbiased for the infinite horizon. Trajectory i is the same bit for bit whatever the threads, and so is the
    result. Memory: 32 MiB, about 9 (S, A) arrays and 13 MiB a thread, about 100 bytes an outcome (s, a, s'), and 32
    bytes a step of a trajectory of more than a million. `progress` is called with the trajectories done so far.
    With `keep_partial` an interrupt (Ctrl-C) ends it early: what is returned is the estimate from the first
    trajectories, and says how many in `n`. The work is cut into pieces of at most about 2^24 steps, a fraction of a
    second, or 1/4096 of it where that is more, or one trajectory a state; those done before the first that is not are
    kept. Where there is none of them the interrupt is raised.
    A `BatchAverage` walks each trajectory twice, first for the average, and keeps nothing partial.
    `pooling` says which entries `blocks` keeps, and which of them together; all when left out. What perturbs the policy
    takes several episodes for a sample, which stands for a trajectory here, and 24 bytes an outcome.

    >>> from fastpg import RewardToGo, SoftmaxPolicy, problems
    >>> mdp = problems.bandit([1.0, 0.0])
    >>> estimate_gradient(mdp, SoftmaxPolicy.uniform(mdp), RewardToGo(), n=10_000, horizon=1, rng=0).mean.shape
    (2, 2)
    """
    n = positive_count("n", n)
    require_progress(progress)
    key, made = philox_key(rng), plan(mdp, policy, estimator, horizon, threads=threads)
    shape, rows = made.policy.probabilities.shape, made.rows
    made.require_sample(n, keep_partial=keep_partial)
    pooling = pooled(np.ones(shape, bool), POOLS) if pooling is None else pooling
    if not isinstance(pooling, Pooling) or any(np.shape(x) != shape for x in pooling):
        raise InvalidArgument(f"pooling must be a Pooling of two arrays of shape {shape} but is {pooling!r:.80}")
    pool, weight = pooling
    B = min(n, BLOCKS)
    edges = _edges(n, B)
    blocks, weights = np.zeros((B, max(int(pool.max()) + 1, 1))), np.zeros(B)
    pieces = _pieces(B, n, made)

    def tell(done: int) -> None:
        if progress is not None:
            progress(done)

    def averaged(earn: Earner) -> float:
        """The average of what each trajectory earns, all walked beforehand."""
        sums = np.zeros(B)

        def work(piece: slice, stop: StopFlag) -> int:
            mine = frozen(edges[piece.start : piece.stop + 1])
            earn(mine, stop, sums[piece])
            return int(mine[-1])

        for done in in_order(work, pieces, threads):
            tell(done // 2)
        return float(sums.sum() / n)

    add = made.sampler(key, n, pool, weight, averaged)

    def work(piece: slice, stop: StopFlag) -> tuple[FloatArray, int, int]:
        sums = np.zeros((shape[0], rows, shape[1]))
        mine = frozen(edges[piece.start : piece.stop + 1])
        steps = add(mine, stop, sums, blocks[piece], weights[piece])
        return sums, steps, int(mine[-1])

    # One name for all three: an interrupt finds them before a piece or after it.
    state = np.zeros((shape[0], rows, shape[1])), 0, 0
    try:
        for piece_sums, piece_steps, done in in_order(work, pieces, threads):
            state = state[0] + piece_sums, state[1] + piece_steps, state[2] + 1
            tell((n + done) // 2 if made.averages else done)
    except KeyboardInterrupt:
        if not keep_partial or not state[2]:
            raise
        # The first pieces are all there; what began after them is left out.
        B = pieces[state[2] - 1].stop
        n, edges, blocks, weights = int(edges[B]), edges[: B + 1], blocks[:B], weights[:B]
    sums, steps = state[0].swapaxes(0, 1), state[1]
    sizes = np.diff(edges)
    limit = np.zeros(shape)
    if made.normalised:
        limit, sums, blocks = _linearised(sums, blocks, weights, sizes, pooling)
    mean, standard_error, contributions = _moments(sums, n, B)
    mean = in_units("mean", limit + mean, made.unit, mdp, made.unit)
    standard_error = in_units("standard_error", standard_error, made.unit, mdp, made.unit)
    blocks = in_units("blocks", blocks, made.unit, mdp, made.unit)
    return GradientEstimate(mean, standard_error, contributions, n, steps, blocks, frozen(sizes), pooling)


def _pieces(B: int, n: int, made: Plan | PerturbedPlan) -> list[slice]:
    """The runs of blocks that are worked on one at a time."""
    left = made.mdp.discount_complement
    length = made.horizon if isinstance(made.horizon, int) else (1.0 / left if left > 0 else UNTOLD)
    wanted = max(PIECES, float(n) * made.episodes * length / STEPS)
    count = int(min(B, max(FEWEST, min(n // made.mdp.n_states, wanted))))
    return [slice(first, last) for first, last in pairwise(np.linspace(0, B, count + 1).astype(int))]


def pooled(kept: BoolArray, most: int, scale: FloatArray | float = 1.0) -> Pooling:
    """The entries of `kept`, each in a pool of its own where there are at most `most`.

    More are dealt evenly to `most` pools by a fixed shuffle, each divided by its `scale` and with a random sign.
    """
    entries = int(np.count_nonzero(kept))
    pool, weight = np.full(kept.shape, -1), np.zeros(kept.shape)
    if entries <= most:
        pool[kept], weight[kept] = np.arange(entries), 1.0
    else:
        fixed = np.random.default_rng(entries)
        pool[kept] = fixed.permutation(entries) % most
        weight[kept] = fixed.choice([-1.0, 1.0], entries) / np.broadcast_to(scale, kept.shape)[kept]
    return Pooling(frozen(pool), frozen(weight))


def _edges(n: int, B: int) -> IntArray:
    """floor(b n / B) for b = 0..B, in two parts that cannot overflow."""
    b = np.arange(B + 1, dtype=np.int64)
    return frozen(b * (n // B) + b * (n % B) // B)


def _columns(pooling: Pooling) -> sparse.csr_array:
    """The matrix (S A, K) that sums entries into pools."""
    pool, weight = pooling.pool.ravel(), pooling.weight.ravel()
    kept = np.flatnonzero(pool >= 0)
    return sparse.csr_array((weight[kept], (kept, pool[kept])), shape=(pool.size, max(int(pool.max()) + 1, 1)))


def _linearised(
    sums: FloatArray, blocks: FloatArray, weights: FloatArray, sizes: IntArray, pooling: Pooling
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """X = sum W Y / sum W, and the power and block sums of (W Y - W X) / mean W, which sum to 0."""
    total = float(weights.sum())
    if not total > 0:
        raise SolveError(f"self-normalised weights must have a sum above 0 but it is {total:g}; use a shorter horizon")
    x, omega = sums[0] / total, total / sizes.sum()
    _, y2, _, y4, yw, yw3, y2w2, y3w = sums
    w2, w4 = float(np.sum(weights**2 / sizes)), float(np.sum(weights**4 / sizes.astype(np.float64) ** 2))
    second = y2 - 2 * x * yw + x**2 * w2
    fourth = y4 - 4 * x * y3w + 6 * x**2 * y2w2 - 4 * x**3 * yw3 + x**4 * w4
    zero = np.zeros(x.shape)
    kept = pooling.pool >= 0
    shift = np.bincount(pooling.pool[kept], (pooling.weight * x)[kept], minlength=blocks.shape[1])
    blocks = (blocks - np.outer(weights / np.sqrt(sizes), shift)) / omega
    return x, np.stack((zero, second / omega**2, zero, fourth / omega**4)), blocks


def _moments(sums: FloatArray, n: int, B: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean, standard error and effective number of contributions from the power sums of B blocks."""
    m = n / B
    mean = sums[0] / n
    second = np.maximum(sums[1] - n * mean**2, 0.0)
    fourth = sums[3] - 4 * mean * sums[2] + 6 * mean**2 * m * sums[1] - 3 * mean**4 * m * n
    with np.errstate(invalid="ignore", divide="ignore"):
        standard_error = np.sqrt(second / (B - 1) / n) if B > 1 else np.full(mean.shape, np.nan)
        # One block has excess kurtosis kappa m^-1, the mean of all blocks kappa / n.
        excess = (B * fourth / second**2 - 3.0) / B
        contributions = np.where(second > 0, 1.0 / np.maximum(excess, 1.0 / n), 0.0)
    return frozen(mean), frozen(standard_error), frozen(contributions)
