"""`python -m bench [--json FILE]`: run every case, print a table, and keep the figures."""

import argparse
import json
from pathlib import Path
from typing import Any

from bench.batches import batch_cases
from bench.cases import gradient_cases, sampling_cases, solver_cases, start_up
from bench.harness import machine, measured
from bench.throughput import throughput_cases


def main() -> None:
    """Run the cases; correctness is checked before anything is timed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    path = parser.parse_args().json
    cases = batch_cases() + gradient_cases() + solver_cases() + sampling_cases() + throughput_cases()
    results = [measured(case) for case in cases] + [start_up()]
    show(results)
    if path:
        path.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")


def show(results: list[dict[str, Any]]) -> None:
    """Print the figures."""
    for result in results:
        print(f"\n{result['case']}, median of {result['repeats']}")
        for name, seconds in result["warm"].items():
            first = result["first"].get(name)
            million = result.get("steps", 0) / 1e6
            core = million / result["processor"][name] if million else 0.0
            rate = f"   {million / seconds:5.0f} M steps/s, {core:5.0f} a second of one core" if million else ""
            print(f"  {name:22} {_time(seconds):>10}{rate}" + (f"   first call {_time(first)}" if first else ""))


def _time(seconds: float) -> str:
    return (
        f"{seconds:.2f} s"
        if seconds >= 1
        else f"{seconds * 1e3:.2f} ms"
        if seconds >= 1e-3
        else f"{seconds * 1e6:.1f} µs"
    )


if __name__ == "__main__":
    main()
