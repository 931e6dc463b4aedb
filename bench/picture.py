"""The figures of a run as a picture."""

from typing import Any

import numpy as np

from bench.limits import exponent
from bench.report import Results, power, rows, times

BLUE, RED = "#2a6f97", "#c1121f"


def draw(results: Results, file: str) -> None:
    """Time and memory against S, and below the ratio of each case to its best peer."""
    from matplotlib.figure import Figure

    compared = [row for row in rows(results) if row.ratio]
    figure = Figure(figsize=(11, 4.5 + 0.27 * len(compared)), dpi=130, layout="constrained", facecolor="white")
    above, below = figure.subfigures(2, 1, height_ratios=(4.0, 0.5 + 0.27 * len(compared)))
    seconds, memory = above.subplots(1, 2)
    _growth(seconds, results, "seconds", 1.0, "evaluate and gradient, seconds")
    _growth(memory, results, "peak_bytes", 2**30, "peak memory of the process, GiB")
    ratios = below.subplots()
    place = np.arange(len(compared))
    ratio: Any = [row.ratio for row in compared]
    bars = ratios.barh(place, np.subtract(ratio, 1), left=1, color=[BLUE if x >= 1 else RED for x in ratio], height=0.6)
    for row, bar in zip(compared, bars, strict=True):
        y, faster = bar.get_y() + bar.get_height() / 2, row.ratio >= 1
        ratios.annotate(
            f"{times(row.ratio)}  {next(iter(row.peers))}", (row.ratio, y), (5 if faster else -5, 0),
            textcoords="offset points", va="center", ha="left" if faster else "right", fontsize=7,
        )  # fmt: skip
    ratios.axvline(1.0, color="#222222", linewidth=0.8)
    ratios.set_xscale("log")
    ratios.set_xlim(min([0.3, *ratio]) / 30, 30 * max([10.0, *ratio]))
    ratios.set_yticks(place, [row.case for row in compared], fontsize=8)
    ratios.invert_yaxis()
    ratios.set_title("seconds of the best peer / seconds of fastpg", fontsize=10)
    ratios.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)


def _growth(panel: Any, results: Results, of: str, unit: float, title: str) -> None:
    for kind, colour in (("dense", BLUE), ("sparse", RED)):
        points = [p for p in results["curves"] if p["kind"] == kind]
        if not points:
            continue
        label = f"{kind}   {power(exponent(points, of))}"
        panel.loglog([p["states"] for p in points], [p[of] / unit for p in points], "o-", color=colour, label=label)
        panel.legend(frameon=False, fontsize=8)
    panel.set_title(title, fontsize=10)
    panel.set_xlabel("states, A = 4", fontsize=8)
    panel.grid(alpha=0.2)
    panel.spines[["top", "right"]].set_visible(False)
