"""Pictures of evaluations and cross-checks, with matplotlib from the extra `cli`. No mathematics, no global state."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastpg.errors import InvalidArgument
from fastpg.validation import BoolArray, FloatArray

if TYPE_CHECKING:
    from fastpg.documents import Case, Exact, Line
    from fastpg.problems import Grid

# Matplotlib comes without types here; figures and axes are Any.
Figure = Any
Axes = Any

SUFFIXES = (".png", ".pdf", ".svg")
# Up to this many states have bars of their own; more are drawn as steps.
BARS = 60
# Positive values that span more than this ratio are coloured on a logarithmic scale.
STEEP = 20.0
INK, GREY, PALE, BLUE, RED = "#222222", "#8a8a8a", "#e4e4e4", "#2a6f97", "#c1121f"
TITLE, LABEL, TICK = 10.5, 9, 8

# The most lines of a cross-check side by side.
BESIDE = 5


def require_writable(file: str) -> None:
    """InvalidArgument unless a picture can be written to `file`: its kind, its directory, and matplotlib."""
    path = Path(file)
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidArgument(f"plot must be a file that ends in {', '.join(SUFFIXES)} but is {file!r}")
    if not path.parent.is_dir():
        raise InvalidArgument(f"plot must be in a directory that exists but {str(path.parent)!r} is none")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InvalidArgument(f"plot must be a file that can be written but {file!r} is not")
    # Only opening it tells: /proc, for one, grants what it then refuses.
    there = os.path.lexists(path)
    try:
        with open(path, "ab"):
            pass
        if not there:
            path.unlink()
    except OSError as error:
        raise InvalidArgument(
            f"plot must be a file that can be written but {file!r} is not: {error.strerror}"
        ) from None
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise InvalidArgument("a plot needs the package matplotlib, which pip install 'fastpg[cli]' brings") from None


def draw_evaluation(case: "Case", evaluation: "Exact") -> Figure:
    """Values, policy and gradient on the cells of a grid, or by state where there is none."""
    if case.grid is None:
        figure = _figure(9, 8)
        _by_state(figure, evaluation)
    else:
        figure = _figure(*_grid_size(case.grid))
        _on_grid(figure, case.grid, evaluation)
    figure.suptitle(_title(case, evaluation), fontsize=12)
    return figure


def draw_crosscheck(case: "Case", evaluation: "Exact", lines: "Sequence[Line]") -> Figure:
    """Exact against sampled entries for each line, below the cells where the problem is a grid."""
    if case.grid is None:
        columns = min(len(lines), 2)
        rows = -(-len(lines) // columns)
        figure = _figure(4.8 * columns, 4.3 * rows + 0.6)
        _scatters(figure, lines, rows, columns)
    else:
        width, height = _grid_size(case.grid)
        rows = -(-len(lines) // BESIDE)
        columns = -(-len(lines) // rows)
        figure = _figure(max(width, 3.3 * columns), height + 3.8 * rows)
        above, below = figure.subfigures(2, 1, height_ratios=(height, 3.8 * rows))
        _on_grid(above, case.grid, evaluation)
        _scatters(below, lines, rows, columns)
    figure.suptitle(_title(case, evaluation, lines), fontsize=12)
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(h_pad=0.09, w_pad=0.09)
    return Figure(figsize=(width, height), dpi=130, layout=layout, facecolor="white")


def _title(case: "Case", evaluation: "Exact", lines: "Sequence[Line]" = ()) -> str:
    horizon = getattr(evaluation, "horizon", None)
    ends = "infinite horizon" if horizon is None else f"T = {horizon}"
    policy = f"random policy, seed {case.seed}" if case.policy == "random" else f"{case.policy} policy"
    model = f"{case.problem}, {policy}, discount {evaluation.mdp.discount:.6g}, {ends}"
    own = {line.check.horizon for line in lines} - {horizon, "geometric"}
    apart = f" ({', '.join(f'T = {T}' for T in own)} where a line says so)" if own else ""
    return f"{model}: J = {evaluation.expected_return:.6g}{apart}"


def _value(evaluation: "Exact") -> FloatArray:
    """V, at the first of T steps where the horizon is finite."""
    return evaluation.value if evaluation.value.ndim == 1 else evaluation.value[-1]


# Grids


def _grid_size(grid: "Grid") -> tuple[float, float]:
    """Width and height of the two panels, in inches: side by side, one above the other where they are wide."""
    if _stacked(grid):
        return 10.0, 2 * (8.4 * grid.rows / grid.columns + 0.8) + 0.9
    return 12.0, 5.2 * grid.rows / grid.columns + 1.0


def _stacked(grid: "Grid") -> bool:
    return grid.columns > 1.5 * grid.rows


def _on_grid(figure: Figure, grid: "Grid", evaluation: "Exact") -> None:
    from matplotlib.patches import Patch

    panels = figure.subplots(2, 1) if _stacked(grid) else figure.subplots(1, 2)
    mdp = evaluation.mdp
    ended = mdp.terminal
    absent = ~ended & (evaluation.occupancy == 0)
    _values(figure, panels[0], grid, evaluation, ended | absent)
    _gradient(figure, panels[1], grid, evaluation, ended | absent)
    for panel in panels:
        _cells(panel, grid, ended, absent, mdp.start > 0)
    keys = [Patch(facecolor=GREY, edgecolor=INK, label="terminal")] if ended.any() else []
    keys += [Patch(facecolor=PALE, edgecolor=GREY, hatch="////", label="never visited")] if absent.any() else []
    keys += [Patch(facecolor="none", edgecolor=INK, linewidth=2.2, label="start")]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), fontsize=LABEL, frameon=False)


def _cells(panel: Axes, grid: "Grid", ended: BoolArray, absent: BoolArray, start: BoolArray) -> None:
    """Borders, numbers of rows and columns, and the cells that stand for something special."""
    from matplotlib.patches import Rectangle

    def mark(states: BoolArray, margin: float, **look: Any) -> None:
        for row, column in zip(*np.divmod(np.flatnonzero(states), grid.columns), strict=True):
            corner = (column - 0.5 + margin, row - 0.5 + margin)
            panel.add_patch(Rectangle(corner, 1 - 2 * margin, 1 - 2 * margin, **look))

    panel.set_xlim(-0.5, grid.columns - 0.5)
    panel.set_ylim(grid.rows - 0.5, -0.5)
    panel.set_aspect("equal")
    panel.set_xticks(range(grid.columns))
    panel.set_yticks(range(grid.rows))
    panel.set_xlabel("column", fontsize=LABEL)
    panel.set_ylabel("row", fontsize=LABEL)
    panel.tick_params(labelsize=TICK, length=0)
    for side in panel.spines.values():
        side.set_color(INK)
    panel.set_axisbelow(False)
    for x in range(1, grid.columns):
        panel.axvline(x - 0.5, color="white", linewidth=1.2, zorder=2)
    for y in range(1, grid.rows):
        panel.axhline(y - 0.5, color="white", linewidth=1.2, zorder=2)
    mark(ended, 0.0, facecolor=GREY, edgecolor="white", linewidth=1.2, zorder=3)
    mark(absent, 0.0, facecolor=PALE, edgecolor=GREY, hatch="////", linewidth=0.0, zorder=3)
    mark(start, 0.03, facecolor="none", edgecolor=INK, linewidth=2.2, zorder=5)


def _values(figure: Figure, panel: Axes, grid: "Grid", evaluation: "Exact", hidden: BoolArray) -> None:
    """V as colour, pi as arrows."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    shape = (grid.rows, grid.columns)
    value = np.ma.masked_invalid(np.where(hidden, np.nan, _value(evaluation)))
    # The dark end is left out, so that dark arrows are seen everywhere.
    light = ListedColormap(colormaps["YlGnBu"](np.linspace(0.0, 0.62, 256)))
    steep = bool(value.min() > 0 and value.max() > STEEP * value.min())
    image = panel.imshow(value.reshape(shape), cmap=light, norm="log" if steep else "linear", zorder=1)
    pi = np.where(hidden[:, None], 0.0, evaluation.policy.probabilities)
    longest = pi.max(initial=0.0) or 1.0
    row, column = np.divmod(np.arange(pi.shape[0]), grid.columns)
    for a, (down, right) in enumerate(grid.moves):
        size = 0.44 * pi[:, a] / longest
        seen = size > 0.02
        _arrows(panel, column[seen], row[seen], (right * size)[seen], (down * size)[seen])
    panel.set_title("value V(s) as colour, policy as arrows (length: probability)", fontsize=TITLE)
    _colour_bar(figure, panel, image, "V, in units of reward" + ", logarithmic" * steep)


def _arrows(panel: Axes, x: Any, y: Any, right: FloatArray, down: FloatArray) -> None:
    """Arrows from the cells (x, y), in units of cells."""
    head = {"headwidth": 3.6, "headlength": 3.6, "headaxislength": 3.3, "minlength": 0}
    size = {"angles": "xy", "scale_units": "xy", "scale": 1, "units": "xy", "width": 0.028}
    panel.quiver(x, y, right, down, color=INK, zorder=4, **size, **head)


def _gradient(figure: Figure, panel: Axes, grid: "Grid", evaluation: "Exact", hidden: BoolArray) -> None:
    """dJ/dlogits as the colours of four triangles a cell, each on the side that its action moves to.

    The arrow of a cell is the sum of its actions' moves weighted by the gradient; its length is the square root of
    that of the sum, so that small ones are seen.
    """
    from matplotlib.collections import PolyCollection

    gradient = evaluation.logit_gradient
    corners: list[list[tuple[float, float]]] = []
    colours: list[float] = []
    for s in np.flatnonzero(~hidden):
        y, x = divmod(int(s), grid.columns)
        for a, (down, right) in enumerate(grid.moves):
            side = [(x + 0.5 * (right - t * down), y + 0.5 * (down + t * right)) for t in (-1, 1)]
            corners.append([(x, y), *side])
            colours.append(float(gradient[s, a]))
    largest = float(np.abs(gradient).max(initial=0.0)) or 1.0
    triangles = PolyCollection(corners, array=colours, cmap="RdBu", edgecolors="white", linewidths=0.4, zorder=1)
    triangles.set_clim(-largest, largest)
    panel.add_collection(triangles)
    push = np.where(hidden[:, None], 0.0, gradient) @ np.array(grid.moves, dtype=np.float64)
    length = np.hypot(*push.T)
    seen = np.flatnonzero(length > 1e-4 * length.max(initial=0.0))
    push = 0.44 * push[seen] / np.sqrt(length[seen] * length.max(initial=0.0))[:, None]
    row, column = np.divmod(seen, grid.columns)
    _arrows(panel, column, row, push[:, 1], push[:, 0])
    panel.set_title("gradient: dJ/dθ(s, a) as colour, its pull as arrows", fontsize=TITLE)
    _colour_bar(figure, panel, triangles, "dJ/dθ, in units of reward")


def _colour_bar(figure: Figure, panel: Axes, mappable: Any, label: str) -> None:
    bar = figure.colorbar(mappable, ax=panel, pad=0.02, shrink=0.95, aspect=28)
    bar.set_label(label, fontsize=LABEL)
    bar.ax.tick_params(labelsize=TICK)
    if mappable.norm.__class__.__name__ != "LogNorm":
        _plain_ticks(bar.ax, "y")
    bar.outline.set_visible(False)


# Other problems


def _by_state(figure: Figure, evaluation: "Exact") -> None:
    """V, visitation and gradient, one panel each, over the states."""
    from matplotlib.ticker import MaxNLocator

    value, visitation, gradient = figure.subplots(3, 1, sharex=True)
    _bars(value, _value(evaluation), evaluation.mdp.terminal)
    value.set_title("value", fontsize=TITLE)
    value.set_ylabel("V, in units of reward", fontsize=LABEL)
    if evaluation.visitation.ndim == 1:
        _bars(visitation, evaluation.visitation, evaluation.mdp.terminal)
        visitation.set_title("visitation", fontsize=TITLE)
        visitation.set_ylabel("probability", fontsize=LABEL)
    else:
        _bars(visitation, evaluation.occupancy, evaluation.mdp.terminal)
        visitation.set_title("occupancy", fontsize=TITLE)
        visitation.set_ylabel("discounted visits", fontsize=LABEL)
    table = evaluation.logit_gradient
    largest = float(np.abs(table).max(initial=0.0)) or 1.0
    image = gradient.imshow(table.T, cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
    gradient.set_title("gradient", fontsize=TITLE)
    gradient.set_ylabel("action", fontsize=LABEL)
    gradient.set_xlabel("state", fontsize=LABEL)
    gradient.tick_params(labelsize=TICK)
    gradient.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    gradient.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=20, min_n_ticks=1))
    _colour_bar(figure, gradient, image, "dJ/dθ, in units of reward")


def _bars(panel: Axes, heights: FloatArray, ended: BoolArray) -> None:
    states = np.arange(heights.size)
    panel.axhline(0.0, color=GREY, linewidth=0.8)
    if heights.size <= BARS:
        for chosen, colour, label in ((~ended, BLUE, None), (ended, GREY, "terminal")):
            if chosen.any():
                panel.bar(states[chosen], heights[chosen], color=colour, label=label)
        if ended.any():
            panel.legend(fontsize=TICK, frameon=False)
    else:
        panel.stairs(heights, np.arange(heights.size + 1) - 0.5, fill=True, color=BLUE)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.tick_params(labelsize=TICK)
    _plain_ticks(panel, "y")


# Exact against sampled


def _scatters(figure: Figure, lines: "Sequence[Line]", rows: int, columns: int) -> None:
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, line in zip(panels, lines, strict=False):
        _scatter(panel, line)
    for panel in panels[len(lines) :]:
        panel.set_visible(False)


def _scatter(panel: Axes, line: "Line") -> None:
    """The entries that are not always 0, with two standard errors to either side; those left out in grey."""
    check = line.check
    exact, mean, error = check.exact, check.estimate.mean, np.nan_to_num(check.estimate.standard_error)
    rare = ~(check.judged | check.settled | check.contradicted)
    kinds = (("left out", rare, GREY), ("judged", check.judged, BLUE), ("contradicted", check.contradicted, RED))
    for label, chosen, colour in kinds:
        if chosen.any():
            panel.errorbar(
                exact[chosen],
                mean[chosen],
                yerr=2 * error[chosen],
                fmt="o",
                markersize=3,
                elinewidth=0.7,
                color=colour,
                label=f"{label} ({chosen.sum()})",
            )
    panel.axline((0.0, 0.0), slope=1.0, color=INK, linewidth=0.8, zorder=1)
    panel.set_title(
        f"{line.estimator}, T {check.horizon}\n{check.verdict}, p = {check.p_value:.2g}", fontsize=TITLE, y=1.0, pad=15
    )
    panel.set_xlabel("exact dJ/dθ", fontsize=LABEL)
    panel.set_ylabel("sampled ± 2 standard errors", fontsize=LABEL)
    if not check.settled.all():
        panel.legend(fontsize=TICK, frameon=False, loc="upper left", handletextpad=0.2)
    panel.tick_params(labelsize=TICK)
    _plain_ticks(panel, "both")


def _plain_ticks(axes: Axes, axis: str) -> None:
    axes.ticklabel_format(axis=axis, style="sci", scilimits=(-2, 4), useMathText=True)
    axes.tick_params(labelsize=TICK)
    axes.xaxis.get_offset_text().set_fontsize(TICK)
    axes.yaxis.get_offset_text().set_fontsize(TICK)
