"""The statistics of the cross-check: tests of a mean against a known value, and the bias that each would find."""

from typing import Any, NamedTuple

import numpy as np

from fastpg.certificate.equations import power_of_two
from fastpg.sampling.estimate import GradientEstimate, Pooling
from fastpg.validation import BoolArray, FloatArray

# An entry is judged where it rests on this many contributions, by the model and in the sample.
MIN_CONTRIBUTIONS = 100
POWER = 0.9
# Directions with less than this share of the largest variance have none but for rounding.
NO_VARIANCE = 1e-9
# The part of a variance that vanishes like 1/n in the limit: if it is all of c (G^2 - 1), G the normal of the limit,
# the skewness is 6 c = sqrt(18 share), no more than that of a mean of MIN_CONTRIBUTIONS.
SECOND_ORDER = 1 / (18 * MIN_CONTRIBUTIONS)


def length(x: FloatArray) -> float:
    """The Euclidean length, whose squares neither overflow nor underflow."""
    unit = power_of_two(float(np.abs(x).max(initial=0.0)))
    return unit * float(np.linalg.norm(x / unit))


def sidak(p: float, count: int) -> float:
    """The probability that the least of `count` independent p-values is at most p."""
    return float(-np.expm1(count * np.log1p(-p))) if p < 1 else 1.0


def sidak_level(level: float, count: int) -> float:
    """The p at which `sidak` gives `level`."""
    return float(-np.expm1(np.log1p(-level) / count))


def raised(z: FloatArray, contributions: FloatArray) -> FloatArray:
    """The two-sided tail of |z|, raised by what the skewness of a mean of so many contributions can make of it."""
    z = np.minimum(z, np.sqrt(contributions))
    return np.exp(np.minimum(np.log(2.0) + special().log_ndtr(-z) + z**3 / (3.0 * np.sqrt(contributions)), 0.0))


def critical_z(level: float, contributions: FloatArray) -> FloatArray:
    """The z at which `raised` falls to `level`, by bisection; inf where it never does."""
    low, high = np.zeros(contributions.shape), np.sqrt(contributions)
    never = raised(high, contributions) > level
    for _ in range(60):
        middle = (low + high) / 2
        above = raised(middle, contributions) > level
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(never, np.inf, high)


def largest(z: FloatArray, contributions: FloatArray) -> float:
    """The p-value of the largest of several |z|, taken as independent; 1 where there are none."""
    return sidak(float(raised(np.abs(z), contributions).min(initial=1.0)), z.size)


class Joint(NamedTuple):
    """A test of all pools together: degrees of freedom, p-value and the bias it would find with POWER."""

    rank: int
    p_value: float
    detectable: float


NOTHING = Joint(0, 1.0, float("inf"))


def beyond_limit(covariance: FloatArray, limit: FloatArray | None) -> FloatArray:
    """The share (S, A) of each variance that is not in the limit of many trajectories."""
    S, A = covariance.shape[:2]
    variance = covariance.reshape(S * A, S * A).diagonal().reshape(S, A)
    if limit is None:
        return np.zeros((S, A))
    gone = np.abs(variance - limit.reshape(S * A, S * A).diagonal().reshape(S, A))
    return np.divide(gone, variance, out=np.zeros((S, A)), where=variance > 0)


def chi_square(
    difference: FloatArray,
    covariance: FloatArray,
    pooling: Pooling,
    contributions: FloatArray,
    level: float,
    limit: FloatArray | None = None,
) -> Joint:
    """Chi-square test of pooled differences (S, A) of a mean whose covariance (S, A, S, A) is known, on its range.

    `contributions` (S, A) is what each entry rests on. The detectable bias is known before anything is sampled.
    `limit` (S, A, S, A) is what the covariance is to leading order where that is not all: directions are left out of
    which a share of more than SECOND_ORDER is not in it.
    """
    used, weight = _weights(pooling)
    if not used.size:
        return NOTHING
    entries = covariance.reshape(difference.size, difference.size)[np.ix_(used, used)]
    pooled_covariance = weight @ entries @ weight.T
    scale = np.sqrt(np.diag(pooled_covariance))
    size, direction = np.linalg.eigh(pooled_covariance / np.outer(scale, scale))
    free = size > NO_VARIANCE * size[-1]
    white = direction[:, free] / np.sqrt(size[free]) / scale[:, None]
    rank, whole = int(free.sum()), True
    if limit is not None:
        kept = weight @ limit.reshape(difference.size, difference.size)[np.ix_(used, used)] @ weight.T
        ratio, turn = np.linalg.eigh(white.T @ kept @ white)
        normal = np.abs(1.0 - ratio) <= SECOND_ORDER
        white, rank, whole = white @ turn[:, normal], int(normal.sum()), bool(normal.all())
    if not rank:
        return NOTHING
    p_value = float(special().chdtrc(rank, np.sum((white.T @ (weight @ difference.ravel()[used])) ** 2)))
    fewest = np.atleast_1d(contributions.ravel()[used].min())
    critical = float(critical_z(level, fewest)[0])
    # Nothing is guaranteed of a bias that cancels within a pool, or along what is left out.
    found = whole and used.size == weight.shape[0] and np.isfinite(critical)
    most = float(np.linalg.eigvalsh(pooled_covariance)[-1])
    needed = _chi_square_noncentrality(rank, critical) if found else float("inf")
    return Joint(rank, _raised_p(p_value, fewest), float(np.sqrt(needed * most)))


def _weights(pooling: Pooling) -> tuple[np.ndarray[Any, np.dtype[np.intp]], FloatArray]:
    """The flat entries that are in a pool, and the matrix (pools, entries) that pools them."""
    pool, weight = pooling.pool.ravel(), pooling.weight.ravel()
    used = np.flatnonzero(pool >= 0)
    names, row = np.unique(pool[used], return_inverse=True)
    matrix = np.zeros((names.size, used.size))
    matrix[row, np.arange(used.size)] = weight[used]
    return used, matrix


def _raised_p(p_value: float, fewest: FloatArray) -> float:
    """A p-value of a joint test raised like that of a single normal at the same level."""
    return float(raised(np.atleast_1d(-special().ndtri(p_value / 2)), fewest)[0])


def _chi_square_noncentrality(rank: int, critical: float) -> float:
    """The noncentrality at which chi-square, at the level of a two-sided normal at `critical`, rejects with POWER."""
    threshold = special().chdtri(rank, 2.0 * special().ndtr(-critical))
    return float(special().chndtrinc(threshold, rank, 1.0 - POWER))


def hotelling(estimate: GradientEstimate, exact: FloatArray, judged: BoolArray, level: float) -> Joint:
    """Hotelling's T^2 of the pools from the covariance of the block sums, taken in units of the largest."""
    unit = power_of_two(float(np.abs(estimate.blocks).max()))
    B, columns = estimate.blocks.shape
    pool, weight = estimate.pooling
    kept = pool >= 0
    alone = np.count_nonzero(kept) <= columns
    difference = np.bincount(pool[kept], (weight * (estimate.mean - exact) / unit)[kept], minlength=columns)
    root = np.sqrt(estimate.block_sizes)[:, None]
    blocks = estimate.blocks / unit
    centred = blocks - root * ((root * blocks).sum(axis=0) / estimate.n)
    variance = (centred**2).mean(axis=0)
    excess = np.divide((centred**4).mean(axis=0), variance**2, out=np.full(columns, np.inf), where=variance > 0) - 3.0
    contributions = B / np.maximum(excess, B / estimate.n)
    usable = judged[kept] if alone and kept.any() else contributions >= MIN_CONTRIBUTIONS
    if not usable.any():
        return Joint(0, 1.0, float("inf"))
    covariance = centred[:, usable].T @ centred[:, usable] / (B - 1) / estimate.n
    scale = np.sqrt(np.diag(covariance))
    size, direction = np.linalg.eigh(covariance / np.outer(scale, scale))
    along = direction.T @ (difference[usable] / scale)
    free = size > NO_VARIANCE * size[-1]
    rank = int(free.sum())
    below = B - rank
    t_squared = float(np.sum(along[free] ** 2 / size[free]))
    p_value = float(special().fdtrc(rank, below, t_squared * below / ((B - 1) * rank)))
    fewest = np.atleast_1d(contributions[usable].min())
    critical = float(critical_z(level, fewest)[0])
    # Nothing is guaranteed of a bias that cancels within a pool.
    found = alone and np.isfinite(critical)
    largest = float(np.linalg.eigvalsh(covariance)[-1])
    return Joint(
        rank,
        _raised_p(p_value, fewest),
        unit * float(np.sqrt(_noncentrality(rank, below, critical) * largest)) if found else float("inf"),
    )


def _noncentrality(rank: int, below: float, critical: float) -> float:
    """The noncentrality at which the F test, at the level of a two-sided normal test at z, rejects with POWER."""
    share = special().betaincinv(below / 2, rank / 2, 2.0 * special().ndtr(-critical))
    return float(special().ncfdtrinc(rank, below, 1.0 - POWER, below * (1.0 - share) / (rank * share)))


def special() -> Any:
    """scipy.special, which takes as long to import as everything else and is needed at the end only."""
    from scipy import special

    return special
