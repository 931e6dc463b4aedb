"""`python -m bench`: run every case with the peers that are installed, and keep the figures.

python -m bench --json FILE      run, and write the figures as they come; Ctrl-C keeps what is done
python -m bench --quick          smaller cases, under two minutes
python -m bench --report FILE    no run: tables of such figures, and with --plot a picture
python -m bench --readme         no run: write the tables of the figures that are kept into README.md
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import accuracy, report
from bench.batches import batch_cases
from bench.bellman import bellman_cases
from bench.cases import gradient_cases, sampling_cases, solver_cases, start_up
from bench.dense import dense_cases
from bench.harness import BUDGET, Case, machine, measured
from bench.limits import machine_limits, point, sizes
from bench.picture import draw
from bench.sparse import million_cases, sparse_cases
from bench.throughput import one_core, throughput_cases
from bench.values import value_cases

COMMITTED = Path(__file__).parent / "results.json"
README = Path(__file__).parent.parent / "README.md"
# Batches first: where a kernel of Numba ran before JAX's first, JAX 0.10.2 did not return.
GROUPS: dict[str, Callable[[bool], list[Case]]] = {
    "batches": lambda quick: batch_cases()[: 1 if quick else None],
    "small": lambda quick: gradient_cases()[: 2 if quick else None],
    "dense": dense_cases,
    "solvers": lambda _: solver_cases(),
    "sparse": sparse_cases,
    "values": value_cases,
    "million": lambda quick: [] if quick else million_cases(),
    "bellman": bellman_cases,
    "sampling": lambda _: sampling_cases(),
    "throughput": lambda quick: throughput_cases()[: 3 if quick else None],
}


def main() -> int:
    """Run the cases, or print what a run found; 1 where a contender differed or fastpg failed, 130 at Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file as they come")
    parser.add_argument("--quick", action="store_true", help="smaller cases, under two minutes")
    parser.add_argument("--only", choices=[*GROUPS, "curves"], action="append", help="run these groups only")
    parser.add_argument("--report", type=Path, metavar="FILE", nargs="?", const=COMMITTED, help="print, do not run")
    parser.add_argument("--readme", action="store_true", help="write the tables into README.md, do not run")
    parser.add_argument("--plot", metavar="FILE", help="draw a picture of the figures")
    arguments = parser.parse_args()
    if arguments.readme:
        found = json.loads(COMMITTED.read_text())
        README.write_text(report.with_blocks(README.read_text(), report.blocks(found, accuracy.kept())))
        return 0
    code = 0
    if arguments.report:
        try:
            found = json.loads(arguments.report.read_text())
        except (OSError, ValueError) as problem:
            parser.error(f"--report takes a file of figures that --json wrote: {problem}")
        if "limits" not in found:
            parser.error(f"--report takes a file of figures that --json wrote but {arguments.report} has none")
    else:
        found = {"results": [], "curves": []}
        try:
            for _ in run(found, arguments.only or [*GROUPS, "curves"], quick=arguments.quick):
                if arguments.json:
                    write(found, arguments.json)
        except KeyboardInterrupt:
            print("interrupted: what is done is kept", file=sys.stderr)
            code = 130
        code = code or int(any(report.wrong(result) for result in found["results"]))
    if "limits" not in found:
        return code
    print("\n" + report.text(found, accuracy.kept() if arguments.report == COMMITTED else None))
    if arguments.plot:
        draw(found, arguments.plot)
    return code


def run(found: dict[str, Any], groups: list[str], *, quick: bool) -> Iterator[None]:
    """Fill `found` with the figures of some groups, one part at a time; a part that raises is told and left out."""
    found |= {"machine": machine(), "limits": machine_limits()}
    yield
    for group in [group for group in GROUPS if group in groups]:
        for cases in _attempt(group, lambda group=group: GROUPS[group](quick)):
            for case in cases:
                for result in _attempt(case.name, lambda case=case: measured(case, BUDGET / 4 if quick else BUDGET)):
                    found["results"].append(result)
                    print(report.line(result), flush=True)
                    yield
    if "throughput" in groups:
        for results in _attempt("one core", lambda: one_core(3 if quick else 6)):
            found["results"] += results
            yield
    if "small" in groups:
        found["results"] += _attempt("start", lambda: start_up(1 if quick else 5))
        yield
    for kind, S in sizes(quick) if "curves" in groups else []:
        found["curves"] += _attempt(f"{kind}, S = {S}", lambda kind=kind, S=S: point(kind, S))
        yield


def _attempt(what: str, run: Callable[[], Any]) -> list[Any]:
    """What it returns, as a list of one; empty where it raises, which is told."""
    try:
        return [run()]
    except Exception as problem:
        print(f"{what}: left out: {type(problem).__name__}: {problem}", file=sys.stderr)
        return []


def write(found: dict[str, Any], file: Path) -> None:
    """Replace the file at once, so that an interrupt never leaves half of one."""
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(part, file)


if __name__ == "__main__":
    sys.exit(main())
