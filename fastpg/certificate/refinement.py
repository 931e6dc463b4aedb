"""A solution made better by its own residual, until the bound on its error is as small as it gets."""

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, TypeAlias

import numpy as np

from fastpg.certificate.equations import UP, Equations, Twofold
from fastpg.certificate.majorant import ArrivalBound, Majorant, ValueBound
from fastpg.errors import SolveError
from fastpg.kernels import twofold as kernels
from fastpg.validation import FloatArray, frozen

Solve: TypeAlias = Callable[[FloatArray], FloatArray]
Spread: TypeAlias = Callable[[FloatArray], float]

EPS = 2.0**-52
# A step that gains less than this factor is the last.
GAIN = 4.0
STEPS = 6
# Values that differ by less than this share of the largest are taken as a level and what differs from it.
ALIKE = 2.0**-10
# More digits than this are of no use to a result in floats.
ENOUGH = 2.0**-80
# A correction of no more than this share of a float is right to its last digits: the next would be as much smaller.
SMALL = 2.0**-26
# Solutions that are so much smaller than what cancels in them keep 13 digits: elimination without subtraction left
# errors of at most 1e-15 of what cancels in chains of 2 to 1000 states.
CANCELS = 100.0


class Value(NamedTuple):
    """V = level + h within `bound`, level (2,), h (2, S), and gains(s,a) = Q - V of this very V."""

    level: FloatArray
    h: FloatArray
    bound: ValueBound
    gains: Twofold


class Arrivals(NamedTuple):
    """d (2, S) within `bound`."""

    d: FloatArray
    bound: ArrivalBound


def refined_value(equations: Equations, majorant: Majorant, value: FloatArray) -> Value:
    """V by elimination, or from the float `value`, made better by V += D rho until the certificate stops to improve.

        |V - V_exact| <= D (|rho| + its rounding)

    The equations of states where the process has ended are V = 0, which holds exactly throughout.
    Where all other values are alike their `level` is kept apart, so that residuals round like differences of values.
    """
    going_on = value[~equations.ended]
    alike = going_on.size > 0 and np.ptp(going_on) < ALIKE * np.abs(going_on).max()
    known: FloatArray | float = np.inf
    if np.isfinite(majorant.relative):
        x, common, differences = majorant.correction(equations.state_reward)
        # Elimination promises so much of its own solution; one made of differences is another.
        of_reward = majorant.relative * majorant.values(equations.size_of_reward).entries
        known = np.inf if alike else UP * (of_reward + majorant.values(equations.underflow).entries)
    else:
        common = float(np.median(going_on)) if going_on.size else 0.0
        x, differences = value, value - common
    level = _twofold(np.array([common if alike else 0.0]))
    h = _ending(equations, _twofold(differences if alike else x), level)
    best, least = None, np.inf
    for _ in range(STEPS):
        gains = equations.gains(equations.reward, h, level[:, 0])
        rho = equations.residual(gains)
        bound = majorant.values(rho.size)
        bound, known = bound._replace(entries=np.fmin(bound.entries, known)), np.inf
        size = float(np.minimum(bound.entries, bound.differences).max())
        if best is None or size < least:
            best = Value(level[:, 0], h, bound, gains)
        x, shift, step = majorant.correction(rho.x[0])
        enough = (bound.entries <= ENOUGH * np.abs(h[0])).all() or size > least / GAIN
        if enough or not (np.isfinite(x).all() and np.isfinite(step).all()):
            break
        least = size
        if alike:
            level = _corrected(level, np.array([shift]))
        h = _ending(equations, _corrected(h, step if alike else x), level)
    assert best is not None
    return best


def corrected_value(equations: Equations, solve: Solve, spread: Spread, value: FloatArray) -> FloatArray:
    """The float `value` made better by V += D rho as long as that helps, rho being computed in two floats.

    A residual is far smaller than V, so that what a solver loses of its own solution it loses of the correction.
    `solve` gives D b, `spread` the largest entry of D b for b >= 0, at least nearly.
    """
    V, least = value, np.inf
    with suppress(SolveError), np.errstate(over="ignore", invalid="ignore"):
        for _ in range(STEPS):
            rho = equations.residual(equations.gains(equations.reward, _twofold(V)))
            right = frozen(rho.x[0].copy())
            better = V + np.where(equations.ended, 0.0, solve(right))
            rounding = spread(frozen(EPS * np.abs(right) + rho.bound))
            change, largest = float(np.abs(better - V).max()), float(min(np.abs(V).max(), np.abs(better).max()))
            if not (change < least / GAIN and rounding <= CANCELS * EPS * largest):
                break
            V, least = better, change
            if change <= SMALL * largest:
                break
    return frozen(V)


def refined_arrivals(equations: Equations, majorant: Majorant, arrivals: FloatArray) -> Arrivals:
    """d by elimination, or from the float `arrivals`, made better by d += D^T rho as long as the certificate improves.

    |d - d_exact| <= D^T (|rho| + its rounding)
    """
    best, least = None, np.inf
    if np.isfinite(majorant.relative):
        arrivals = majorant.arrivals_from(equations.start.x[0])
        entries = UP * (majorant.relative * arrivals + majorant.arrivals(equations.underflow).entries)
        best = Arrivals(_twofold(arrivals), ArrivalBound(entries, UP * float(entries.sum())))
    d = _twofold(arrivals)
    for _ in range(STEPS):
        rho = equations.arrival_residual(d)
        mass, rounding = equations.mass_residual(d)
        bound = majorant.arrivals(rho.size, UP * (abs(mass) + rounding))
        if best is None or bound.total < best.bound.total:
            best = Arrivals(d, bound)
        step = majorant.arrival_correction(rho.x[0], mass)
        enough = (bound.entries <= ENOUGH * d[0]).all() or bound.total > least / GAIN
        if enough or not np.isfinite(step).all():
            break
        least = bound.total
        d = _corrected(d, step)
    assert best is not None
    return best


def _ending(equations: Equations, h: FloatArray, level: FloatArray) -> FloatArray:
    """h (2, S) with level + h = 0 exactly where the process has ended."""
    return frozen(np.where(equations.ended, -level, h))


def _twofold(x: FloatArray) -> FloatArray:
    return frozen(np.stack([x, np.zeros(x.size)]))


def _corrected(x: FloatArray, step: FloatArray) -> FloatArray:
    out = np.empty(x.shape)
    kernels.corrected(x, frozen(np.ascontiguousarray(step)), out)
    return frozen(out)
