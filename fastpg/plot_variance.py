"""A picture of what an estimate varies by: covariances, z-scores, and variance against baseline and trace."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastpg.moments import estimator_moments
from fastpg.plot import BLUE, GREY, INK, LABEL, PALE, RED, TICK, TITLE, _figure, _title
from fastpg.sampling import GAE, RewardToGo
from fastpg.validation import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from fastpg.crosscheck import CrossCheck
    from fastpg.documents import Case, Exact, Line

VARIANCE = "variance of one sample, in reward²"
SHARES = np.linspace(0.0, 1.5, 16)
TRACES = np.linspace(0.0, 1.0, 11)


def draw_variance(case: "Case", evaluation: "Exact", lines: "Sequence[Line]") -> "Figure":
    """Exact and sampled covariance of the first line, z-scores of all, variance against baseline and trace."""
    figure = _figure(12.0, 8.0)
    # Rows by themselves: the names beside the points take no room from the panel above them.
    above, below = figure.subfigures(2, 1)
    exact, sampled, scores = above.subplots(1, 3)
    baselines, traces, costs = below.subplots(1, 3)
    _covariances(above, exact, sampled, lines[0])
    _scores(scores, lines)
    horizon = lines[0].check.horizon
    value = np.nan_to_num(evaluation.value if evaluation.value.ndim == 1 else evaluation.value[-1])
    moments = [estimator_moments(evaluation, RewardToGo(share * value), horizon=horizon) for share in SHARES]
    _curve(baselines, SHARES, [x.trace for x in moments], "baseline as a share of V", "RewardToGo")
    moments = [estimator_moments(evaluation, GAE(trace, value), horizon=horizon) for trace in TRACES]
    _curve(traces, TRACES, [x.trace for x in moments], "trace λ", "GAE with V")
    _costs(costs, lines)
    figure.suptitle(_title(case, evaluation, lines), fontsize=12)
    return figure


def _covariances(figure: "SubFigure", exact: "Axes", sampled: "Axes", line: "Line") -> None:
    """Correlation-like: both covariances divided by the exact standard deviations."""
    from matplotlib.ticker import MaxNLocator

    check = line.check
    known, seen = covariances_tested(check)
    scale = np.sqrt(np.maximum(np.diag(known), 1e-300))
    for panel, matrix, name in ((exact, known, "exact"), (sampled, seen, "sampled")):
        image = panel.imshow(matrix / np.outer(scale, scale), cmap="RdBu", vmin=-1, vmax=1, interpolation="nearest")
        panel.set_title(f"{line.estimator}: {name} covariance", fontsize=TITLE)
        panel.set_xlabel(_tested(check), fontsize=LABEL)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.tick_params(labelsize=TICK)
    bar = figure.colorbar(image, ax=sampled, shrink=0.8)
    bar.ax.tick_params(labelsize=TICK)
    bar.set_label("in units of the exact deviations", fontsize=LABEL)


def _tested(check: "CrossCheck") -> str:
    """What the rows and columns are of what is tested."""
    used = check.estimate.pooling.pool >= 0
    entries, pools = int(used.sum()), np.unique(check.estimate.pooling.pool[used]).size
    return "entry (those tested)" if pools == entries else f"pool (of the {entries} entries tested)"


def covariances_tested(check: "CrossCheck") -> tuple[FloatArray, FloatArray]:
    """Exact and sampled covariance (K, K) of one trajectory over the pools of tested entries."""
    estimate = check.estimate
    pool, weight = estimate.pooling.pool.ravel(), estimate.pooling.weight.ravel()
    used = np.flatnonzero(pool >= 0)
    matrix = np.zeros((estimate.blocks.shape[1], used.size))
    matrix[pool[used], np.arange(used.size)] = weight[used]
    root = np.sqrt(estimate.block_sizes)[:, None]
    centred = estimate.blocks - root * ((root * estimate.blocks).sum(axis=0) / estimate.n)
    seen = centred.T @ centred / max(estimate.blocks.shape[0] - 1, 1)
    if check.covariance is None:
        return seen, seen
    size = check.exact.size
    return matrix @ check.covariance.reshape(size, size)[np.ix_(used, used)] @ matrix.T, seen


def _scores(panel: "Axes", lines: "Sequence[Line]") -> None:
    """The z-scores of judged entries against the normal law."""
    z = np.concatenate([line.check.z.compressed() for line in lines])
    x = np.linspace(-4, 4, 161)
    if z.size:
        panel.hist(np.clip(z, -4, 4), bins=33, range=(-4, 4), density=True, color=BLUE, label=f"{z.size} entries")
    panel.plot(x, np.exp(-x * x / 2) / np.sqrt(2 * np.pi), color=INK, linewidth=1.0, label="normal")
    panel.set_title("z-scores of all lines", fontsize=TITLE)
    exact = [line.check.covariance_in_units is not None for line in lines]
    kind = "exact" if all(exact) else "exact or sampled" if any(exact) else "sampled"
    panel.set_xlabel(f"(sampled - exact)\n/ {kind} standard error", fontsize=LABEL)
    panel.set_ylabel("density", fontsize=LABEL)
    panel.legend(fontsize=TICK, frameon=False)
    panel.tick_params(labelsize=TICK)


def _curve(panel: "Axes", x: FloatArray, variance: list[float], label: str, title: str) -> None:
    panel.plot(x, variance, color=BLUE, marker="o", markersize=3)
    best = int(np.argmin(variance))
    panel.plot(x[best], variance[best], "o", color=RED, label=f"least: {variance[best]:.3g} at {x[best]:.2g}")
    panel.set_title(f"{title}: exact variance", fontsize=TITLE)
    panel.set_xlabel(label, fontsize=LABEL)
    panel.set_ylabel(VARIANCE, fontsize=LABEL)
    panel.set_ylim(0.0, 1.08 * max(variance) or 1.0)
    panel.legend(fontsize=TICK, frameon=False)
    panel.tick_params(labelsize=TICK)


def _costs(panel: "Axes", lines: "Sequence[Line]") -> None:
    """Exact and sampled variance of each line, and the number: the exact one where it is known."""
    from fastpg.documents import exact_variance, sampled_variance

    place = np.arange(len(lines))
    exact = np.array([exact_variance(line.check) for line in lines])
    sampled = np.array([sampled_variance(line.check) for line in lines])
    panel.plot(sampled, place, "o", color=GREY, markersize=7, markerfacecolor="none", label="sampled")
    panel.plot(exact, place, "o", color=BLUE, markersize=3.5, label="exact")
    names = [f"{x.estimator}, T {x.check.horizon}".replace("geometric", "geom.") for x in lines]
    panel.set_yticks(place, names, fontsize=TICK)
    panel.invert_yaxis()
    panel.grid(axis="y", color=PALE, linewidth=0.8)
    panel.set_axisbelow(True)
    shown = np.where(np.isfinite(exact), exact, sampled)
    values = panel.secondary_yaxis("right")
    values.set_yticks(place, [f"{x:.3g}" for x in shown], fontsize=TICK)
    values.tick_params(length=0)
    found = np.concatenate((exact, sampled))
    found = found[np.isfinite(found) & (found > 0)]
    if found.size and found.max() > 10 * found.min():
        panel.set_xscale("log")
    else:
        panel.set_xlim(left=0.0)
        panel.locator_params(axis="x", nbins=5)
    panel.set_xlabel(VARIANCE, fontsize=LABEL)
    panel.set_title("variance of all lines", fontsize=TITLE, pad=24)
    panel.legend(fontsize=TICK, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    panel.tick_params(labelsize=TICK)
