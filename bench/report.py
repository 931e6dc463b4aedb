"""The figures of a run as tables, for a terminal and for README, and as a picture."""

from typing import Any

import numpy as np

from bench.limits import exponent

Results = dict[str, Any]


def rows(results: Results) -> list[dict[str, Any]]:
    """One row a case: our median, the best peer and the ratio."""
    out = []
    for result in results["results"]:
        warm = result["warm"]
        if "fastpg" not in warm:
            continue
        ours = {name: seconds for name, seconds in warm.items() if name.startswith("fastpg")}
        peers = {name: seconds for name, seconds in warm.items() if name not in ours}
        best = min(peers, key=lambda name: peers[name]) if peers else None
        out.append(
            {
                "case": result["case"],
                "fastpg": warm["fastpg"],
                "one thread": warm.get("fastpg, one thread"),
                "peer": best,
                "peer_seconds": peers[best] if best else None,
                "ratio": peers[best] / warm["fastpg"] if best else None,
                "of_reading": _of_reading(result, results),
                "steps": result.get("steps"),
            }
        )
    return out


def _of_reading(result: dict[str, Any], results: Results) -> float | None:
    """Our time in units of reading what must be read at the measured bandwidth."""
    size = result.get("bytes_read")
    return result["warm"]["fastpg"] * results["limits"]["read_bytes_a_second"] / size if size else None


def table(results: Results) -> str:
    """Markdown: every case against its best peer."""
    lines = ["| work | fastpg | best peer | times faster |", "|---|---|---|---|"]
    for row in rows(results):
        rate = f" ({row['steps'] / row['fastpg'] / 1e6:.0f} M steps/s)" if row["steps"] else ""
        alone = f", one thread {duration(row['one thread'])}" if row["one thread"] else ""
        if alone and row["steps"]:
            alone = f", one thread {duration(row['one thread'])} ({row['steps'] / row['one thread'] / 1e6:.0f} M)"
        peer = f"{row['peer']}: {duration(row['peer_seconds'])}" if row["peer"] else ""
        ratio = f"{row['ratio']:.2g}" if row["ratio"] else ""
        lines.append(f"| {row['case']} | {duration(row['fastpg'])}{rate}{alone} | {peer} | {ratio} |")
    return "\n".join(lines)


def growth(results: Results) -> str:
    """Markdown: time and memory against the number of states, with fitted exponents."""
    lines = ["| states, A = 4 | evaluate and gradient | peak memory |", "|---|---|---|"]
    for kind in ("dense", "sparse"):
        points = [p for p in results["curves"] if p["kind"] == kind]
        for p in points:
            lines.append(f"| {kind}, {p['states']:,} | {duration(p['seconds'])} | {p['peak_bytes'] / 2**30:.2g} GiB |")
        seconds, memory = exponent(points, "seconds"), exponent(points, "peak_bytes")
        lines.append(f"| {kind}, exponent of S at the large end | {seconds:.1f} | {memory:.1f} |")
    return "\n".join(lines)


def text(results: Results) -> str:
    """Everything, for a terminal."""
    machine, limits = results["machine"], results.get("limits")
    head = f"{machine['cores']} cores, {machine['architecture']}, Python {machine['python']}, " + ", ".join(
        f"{name} {number}" for name, number in machine["versions"].items()
    )
    parts = [head]
    if limits:
        read, copied = limits["read_bytes_a_second"] / 1e9, limits["copy_bytes_a_second"] / 1e9
        product = limits["dgemm_flops"] / 1e9
        parts.append(f"reads {read:.1f} GB/s, copies {copied:.1f} GB/s, multiplies at {product:.0f} GFLOP/s")
    parts.append(table(results))
    reading = [row for row in rows(results) if row["of_reading"]]
    parts += [f"{row['case']}: {row['of_reading']:.1f} times reading P twice" for row in reading]
    if results.get("curves"):
        parts.append(growth(results))
    return "\n\n".join(parts)


def draw(results: Results, file: str) -> None:
    """Time and memory against S, and the ratio to the best peer of each case."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.5), dpi=130, layout="constrained", facecolor="white")
    times, memory, ratios = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    for kind, colour in (("dense", "#2a6f97"), ("sparse", "#c1121f")):
        points = [p for p in results.get("curves", []) if p["kind"] == kind]
        states = [p["states"] for p in points]
        times.loglog(states, [p["seconds"] for p in points], "o-", color=colour, label=kind)
        memory.loglog(states, [p["peak_bytes"] / 2**30 for p in points], "o-", color=colour, label=kind)
    times.set_title("evaluate and gradient, seconds")
    memory.set_title("peak memory, GiB")
    for panel in (times, memory):
        panel.set_xlabel("states, A = 4")
        panel.legend(frameon=False)
    compared = [row for row in rows(results) if row["ratio"]]
    place = np.arange(len(compared))
    ratios.barh(place, [row["ratio"] for row in compared], color="#2a6f97")
    ratios.axvline(1.0, color="#222222", linewidth=0.8)
    ratios.set_xscale("log")
    ratios.set_yticks(place, [f"{row['case']}\n({row['peer']})" for row in compared], fontsize=6)
    ratios.invert_yaxis()
    ratios.set_title("time of the best peer / ours")
    figure.savefig(file)


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e9:.3g} ns"
