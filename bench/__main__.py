"""`python -m bench`: run every case with the peers that are installed, and keep the figures.

python -m bench --json FILE      run and write the figures
python -m bench --quick          smaller cases, under two minutes
python -m bench --report FILE    no run: tables of such figures, and with --plot a picture
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import report
from bench.batches import batch_cases
from bench.cases import gradient_cases, sampling_cases, solver_cases, start_up
from bench.dense import dense_cases
from bench.harness import Case, machine, measured
from bench.limits import curves, machine_limits
from bench.sparse import million, sparse_cases
from bench.throughput import one_core, throughput_cases

COMMITTED = Path(__file__).parent / "results.json"
# Batches first: where a kernel of Numba ran before JAX's first, JAX 0.10.2 did not return.
GROUPS: dict[str, Callable[[bool], list[Case]]] = {
    "batches": lambda quick: batch_cases()[: 1 if quick else None],
    "small": lambda quick: gradient_cases()[: 2 if quick else None],
    "dense": dense_cases,
    "solvers": lambda _: solver_cases(),
    "sparse": lambda quick: sparse_cases()[: 2 if quick else None],
    "sampling": lambda _: sampling_cases(),
    "throughput": lambda quick: throughput_cases()[: 3 if quick else None],
}


def main() -> None:
    """Run the cases, or print what a run found; correctness is checked before anything is timed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="smaller cases, under two minutes")
    parser.add_argument("--only", choices=[*GROUPS, "curves"], action="append", help="run these groups only")
    parser.add_argument("--report", type=Path, metavar="FILE", nargs="?", const=COMMITTED, help="print, do not run")
    parser.add_argument("--plot", metavar="FILE", help="draw a picture of the figures")
    arguments = parser.parse_args()
    if arguments.report:
        found = json.loads(arguments.report.read_text())
    else:
        found = run(arguments.only or [*GROUPS, "curves"], quick=arguments.quick)
    print(report.text(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.plot:
        report.draw(found, arguments.plot)


def run(groups: list[str], *, quick: bool) -> dict[str, Any]:
    """The figures of some groups."""
    results = []
    for group in GROUPS:
        for case in GROUPS[group](quick) if group in groups else []:
            results.append(measured(case))
            print(f"{case.name}: {', '.join(f'{k} {report.duration(v)}' for k, v in results[-1]['warm'].items())}")
    if "throughput" in groups:
        results += one_core(3 if quick else 6)
    if "sparse" in groups and not quick:
        results.append(million())
    if "small" in groups:
        results.append(start_up(1 if quick else 5))
    return {
        "machine": machine(),
        "limits": machine_limits(),
        "results": results,
        "curves": curves(quick) if "curves" in groups else [],
    }


if __name__ == "__main__":
    main()
