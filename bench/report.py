"""The figures of a run as tables, for a terminal and for README."""

import re
from dataclasses import dataclass
from typing import Any

from bench import accuracy
from bench.limits import exponent

Results = dict[str, Any]
START_UP = "process start to first gradient"
ABSENT = "not installed"


@dataclass(frozen=True)
class Row:
    """A case: our seconds and those of its peers, the fastest first, why others have none, and what bounds it.

    `limit` is in seconds: to read what must be read, or to compute what must be computed, at the measured rates.
    """

    case: str
    ours: dict[str, float]
    peers: dict[str, float]
    failed: dict[str, str]
    limit: float
    steps: int
    peak_bytes: int

    @property
    def seconds(self) -> float:
        """Our median."""
        return self.ours["fastpg"]

    @property
    def ratio(self) -> float | None:
        """How many times our seconds the best peer takes."""
        return min(self.peers.values()) / self.seconds if self.peers else None


def rows(results: Results) -> list[Row]:
    """One row for each case that fastpg has solved."""
    out = []
    for result in results["results"]:
        warm = result["warm"]
        if "fastpg" not in warm:
            continue
        ours = {name: seconds for name, seconds in warm.items() if name.startswith("fastpg")}
        peers = sorted(((seconds, name) for name, seconds in warm.items() if name not in ours))
        out.append(
            Row(
                result["case"],
                ours,
                {name: seconds for seconds, name in peers},
                {name: why for name, why in result.get("failed", {}).items() if why != ABSENT},
                max(
                    result.get("bytes_read", 0) / results["limits"]["read_bytes_a_second"],
                    result.get("flops", 0) / results["limits"]["dgemm_flops"],
                ),
                result.get("steps", 0),
                result.get("peak_bytes", {}).get("fastpg", 0),
            )
        )
    return out


def wrong(result: dict[str, Any]) -> bool:
    """Whether a contender differed, or fastpg itself failed."""
    failed = result.get("failed", {})
    return any(name.startswith("fastpg") or why.startswith("differs") for name, why in failed.items())


def line(result: dict[str, Any]) -> str:
    """A case as it is done, for a terminal."""
    found = [f"{name} {duration(seconds)}" for name, seconds in result["warm"].items()]
    return f"{result['case']}: {'; '.join(found + [f'{name} {why}' for name, why in result['failed'].items()])}"


def table(results: Results) -> str:
    """Markdown: every case beside all its peers."""
    lines = ["| work | fastpg | peers | times faster | of the limit |", "|---|---|---|---|---|"]
    for row in rows(results):
        ours = [f"{name.removeprefix('fastpg, ')} {_time(row, t)}" for name, t in row.ours.items() if name != "fastpg"]
        ours = [_time(row, row.seconds), *ours]
        if row.peak_bytes:
            ours.append(gibibytes(row.peak_bytes))
        peers = [f"{name}: {duration(seconds)}" for name, seconds in row.peers.items()]
        peers += [f"{name}: {why}" for name, why in row.failed.items()]
        ratio = times(row.ratio) if row.ratio else ""
        share = f"{row.limit / row.seconds:.0%}" if row.limit else ""
        lines.append(f"| {row.case} | {', '.join(ours)} | {'; '.join(peers)} | {ratio} | {share} |")
    return "\n".join(lines)


def _time(row: Row, seconds: float) -> str:
    return duration(seconds) + (f" ({row.steps / seconds / 1e6:.0f} M steps/s)" if row.steps else "")


def growth(results: Results) -> str:
    """Markdown: time and memory against the number of states, with fitted exponents."""
    lines = ["| states, A = 4 | evaluate and gradient | peak memory |", "|---|---|---|"]
    for kind in ("dense", "sparse"):
        points = [p for p in results["curves"] if p["kind"] == kind]
        for p in points:
            lines.append(f"| {kind}, {p['states']:,} | {duration(p['seconds'])} | {gibibytes(p['peak_bytes'])} |")
        powers = [power(exponent(points, of)) for of in ("seconds", "peak_bytes")]
        lines.append(f"| {kind}, at the large end | {' | '.join(powers)} |")
    return "\n".join(lines)


def setting(results: Results) -> str:
    """Where the figures come from."""
    machine, limits = results["machine"], results["limits"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items() if name != "fastpg")
    read = limits["read_bytes_a_second"] / 1e9
    return (
        f"{machine['cores']} cores ({machine['architecture']}) that read {read:.0f} GB/s "
        f"and multiply matrices at {limits['dgemm_flops'] / 1e9:.0f} GFLOP/s; Python {machine['python']}, {versions}."
    )


def start_up(results: Results) -> str:
    """How long the first gradient takes; empty where it was not measured."""
    for result in results["results"]:
        if result["case"].startswith(START_UP):
            warm = result["warm"]
            return (
                f"From the start of a process to its first gradient of 10 states: {duration(warm['filled cache'])}, "
                f"and {duration(warm['empty cache'])} where nothing was compiled before."
            )
    return ""


def errors(measured: dict[str, Any]) -> dict[str, str]:
    """The tables of errors by their names."""
    return {
        "gradient": accuracy.table("chain", measured["gradient"]),
        "value": accuracy.table("1 − γ", measured["value"]),
    }


def blocks(results: Results, measured: dict[str, Any]) -> dict[str, str]:
    """Every part of README that a run has written, by its name there."""
    speed = "\n\n".join([setting(results), table(results), start_up(results)])
    return {"speed": speed, "growth": growth(results)} | errors(measured)


def with_blocks(readme: str, parts: dict[str, str]) -> str:
    """README with its parts between `<!-- bench: NAME -->` and `<!-- end -->` replaced."""
    for name, part in parts.items():
        mark = f"<!-- bench: {name} -->\n"
        readme, count = re.subn(
            f"{re.escape(mark)}.*?(?=<!-- end -->)", lambda _, t=mark + part: t + "\n", readme, flags=re.S
        )
        if count != 1:
            raise ValueError(f"README must hold the mark 'bench: {name}' once but holds it {count} times")
    return readme


def text(results: Results, measured: dict[str, Any] | None = None) -> str:
    """Everything, for a terminal; `measured` are errors, if wanted."""
    parts = [setting(results), table(results), start_up(results)]
    if results.get("curves"):
        parts.append(growth(results))
    parts += errors(measured).values() if measured else []
    return "\n\n".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e9:.3g} ns"


def times(ratio: float) -> str:
    """Two digits, or all of a large number."""
    return f"{ratio:.2g}" if ratio < 100 else f"{ratio:,.0f}"


def power(exponent: float | None) -> str:
    """How something grows with the number of states."""
    return "" if exponent is None else f"S^{exponent:.1f}"


def gibibytes(size: float) -> str:
    """Two digits of GiB."""
    return f"{size / 2**30:.2g} GiB"
