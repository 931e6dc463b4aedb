"""What a person reads: tables and sentences, with rich from the extra `cli`. No mathematics."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from fastpg.crosscheck import CrossCheck
from fastpg.documents import (
    Case,
    Exact,
    Line,
    error_bounds,
    exact_variance,
    sampled_variance,
    share,
    too_costly,
    variance_seconds,
)
from fastpg.errors import InvalidArgument
from fastpg.finite_horizon import FiniteHorizonEvaluation
from fastpg.judgement import length
from fastpg.model import MDP
from fastpg.sampling.tables import Horizon

if TYPE_CHECKING:
    from rich.text import Text

# Models of up to MANY states are listed in full, of larger ones the MOST that are visited most.
MANY = 25
MOST = 20
# Tables in files and pipes are not folded, unless COLUMNS says how wide they may be.
UNBOUNDED = 1000


def require_rich() -> None:
    """InvalidArgument where rich is not installed."""
    try:
        import rich  # noqa: F401
    except ImportError:
        raise InvalidArgument(
            "tables need the package rich, which pip install 'fastpg[cli]' brings; --json works without it"
        ) from None


def problems_table(rows: Sequence[tuple[str, MDP, str]]) -> str:
    """The named problems, one a line."""
    return _table(
        ("name", ">states", ">actions", ">discount", "~summary"),
        [(name, str(mdp.n_states), str(mdp.n_actions), f"{mdp.discount:.4g}", summary) for name, mdp, summary in rows],
    )


def evaluation_text(case: Case, evaluation: Exact) -> str:
    """Model, policy, return and gradient, then the states: all of a small model, else those visited most."""
    mdp, size = evaluation.mdp, evaluation.mdp.n_states
    finite = isinstance(evaluation, FiniteHorizonEvaluation)
    facts = {
        "problem": case.problem,
        "model": repr(mdp),
        "policy": _policy_name(case),
        "horizon": f"{evaluation.horizon} steps" if isinstance(evaluation, FiniteHorizonEvaluation) else "infinite",
        "solver": evaluation.solved_by,
        "expected return": f"{evaluation.expected_return:.12g}",
        "gradient length": f"{length(evaluation.logit_gradient):.12g}",
    }
    bounds = error_bounds(evaluation)
    worst = {"return": bounds["expected_return"], "value": np.nanmax(bounds["value"], initial=0.0)}
    worst |= {"gradient": bounds["gradient"].max(initial=0.0)}
    facts["error at most"] = ", ".join(f"{bound:.2g} ({name})" for name, bound in worst.items())
    certain = bounds["certain_signs"]
    if not certain.all():
        entries = f"{certain.size - certain.sum()} of {certain.size} gradient entries"
        facts["uncertain signs"] = f"{entries}, which may be 0 or of either sign"
    facts["structure"] = str(evaluation.structure)
    if evaluation.structure.nearly_decomposable:
        facts["blocks"] = evaluation.structure.blocks_text
    if not isinstance(evaluation, FiniteHorizonEvaluation):
        facts["condition"] = f"{evaluation.condition:.3g} steps until the start is forgotten"
    underflowed = int(evaluation.policy.underflowed.sum())
    if underflowed:
        facts["underflowed"] = f"{underflowed} action probabilities, taken to be 0"
    value = evaluation.value[-1] if finite else evaluation.value
    visitation = evaluation.visitation[-1] if finite else evaluation.visitation
    shown = range(size) if size <= MANY else np.lexsort((-evaluation.occupancy, -visitation))[:MOST]
    rows = []
    for s in map(int, shown):
        cell = map(str, divmod(s, case.grid.columns)) if case.grid else ()
        numbers = (value[s], evaluation.occupancy[s], visitation[s])
        rows.append((str(s), *cell, *map(_number, numbers), _remark(mdp, s)))
    last = "law at the end" if finite else "visitation"
    headers = (">state", *((">row", ">column") if case.grid else ()), ">value", ">occupancy", f">{last}", "")
    which = "" if size <= MANY else f"\nThe {MOST} of {size} states with the largest {last}:\n"
    return f"{_listed(facts)}\n{which}\n{_table(headers, rows)}"


def _remark(mdp: MDP, state: int) -> str:
    if mdp.terminal[state]:
        return "terminal"
    return f"start {mdp.start[state]:.4g}" if mdp.start[state] > 0 else ""


def crosscheck_text(case: Case, exact: Mapping[Horizon, Exact], lines: Sequence[Line], false_alarm: float) -> str:
    """The exact side, a line for each estimator, and a sentence."""
    from rich.text import Text

    mdp = next(iter(exact.values())).mdp
    names = {h: "infinite horizon" if h == "geometric" else f"T = {h}" for h in exact}
    facts = {
        "problem": case.problem,
        "model": repr(mdp),
        "policy": _policy_name(case),
        "expected return": ", ".join(f"{exact[h].expected_return:.9g} ({name})" for h, name in names.items()),
        "gradient length": ", ".join(f"{length(exact[h].logit_gradient):.9g} ({name})" for h, name in names.items()),
    }
    headers = (
        "\nestimator", ">\nT", ">\nn", ">steps\nper s", ">worst\n|z|", ">\np", ">detectable\nbias",
        ">\njudged", ">left\nout", "\nverdict",
    )  # fmt: skip
    rows = [
        (
            line.estimator,
            _steps_name(line.check.horizon),
            _short(line.check.estimate.n),
            _short(line.pace),
            _number(line.check.worst_z, ".2f"),
            _number(line.check.p_value, ".2g"),
            _bias(line.check),
            str(line.check.judged.sum()),
            str(line.check.left_out),
            Text(line.check.verdict, _COLOURS[line.check.verdict]),
        )
        for line in lines
    ]
    notes = [
        "detectable bias: any bias at least as long would be found with probability 0.9;",
        "  in brackets its share of the gradient length.",
        *_UNSURE * any(not math.isfinite(line.check.detectable_bias) for line in lines),
        "left out: entries too rare to be judged.",
        f"Each line has its own trajectories and is tested at {false_alarm / len(lines):.3g} (Holm), so that an",
        f"  unbiased sampler is rejected with probability of about {false_alarm:.3g} or less.",
    ]
    if "geometric" in exact:
        ends = (
            "runs to the end, as nothing is discounted"
            if exact["geometric"].mdp.discount == 1
            else "ends after each step with probability 1 - discount"
        )
        notes.insert(0, f"geom.: {ends} (infinite horizon).")
    return "\n".join([_listed(facts), "", _table(headers, rows), "", *notes, "", *_conclusion(lines)])


def variance_text(lines: Sequence[Line], skipped: Mapping[Horizon, Sequence[str]]) -> str:
    """What the estimate of one sample varies by, exactly and sampled, what that costs, and which have no line."""
    headers = (
        "\nestimator",
        ">\nT",
        ">exact\nvariance",
        ">sampled\nvariance",
        ">steps of a\nsample",
        ">variance x\nseconds",
    )
    rows = [
        (
            line.estimator,
            _steps_name(line.check.horizon),
            "too costly" if too_costly(line.check) else _number(exact_variance(line.check), ".4g"),
            _number(sampled_variance(line.check), ".4g"),
            _number(line.check.estimate.steps / line.check.estimate.n, ".3g"),
            _number(variance_seconds(line), ".3g"),
        )
        for line in lines
    ]
    notes = [
        "variance: of the estimate of one sample, summed over the entries, in units of reward squared. A sample is",
        "  a trajectory, or all those that a perturbation of the policy takes. -: not known exactly.",
        "variance x seconds: the seconds of sampling to a mean of variance 1; less is better.",
    ]
    if any(too_costly(line.check) for line in lines):
        notes.insert(2, "too costly: the exact variance would take more than some seconds.")
    notes += [
        fill(
            f"Not checked with T = {horizon}, for they are unbiased for the infinite horizon only: {', '.join(names)}.",
            width=110,
            subsequent_indent="  ",
        )
        for horizon, names in skipped.items()
    ]
    return "\n".join([_table(headers, rows), "", *notes])


def _steps_name(horizon: Horizon) -> str:
    return "geom." if horizon == "geometric" else str(horizon)


def _listed(facts: Mapping[str, str]) -> str:
    return "\n".join(f"{name:<16} {fact}" for name, fact in facts.items())


def _bias(check: CrossCheck) -> str:
    part = share(check)
    return _number(check.detectable_bias, ".2g") + (f" ({part:.0%})" if math.isfinite(part) else "")


_UNSURE = (
    "  -: no bias is sure to be found, for nothing is judged, or an entry rests on so",
    "  few contributions that their skewness might explain any difference.",
)
_COLOURS = {"agrees": "green", "disagrees": "bold red", "undecided": "yellow"}


def _conclusion(lines: Sequence[Line]) -> list[str]:
    out = []
    for line in lines:
        check, name = line.check, f"{line.estimator}, T {line.check.horizon}"
        if check.verdict == "disagrees":
            bad = check.contradicted
            place = np.argwhere(bad)[0] if bad.any() else np.unravel_index(np.abs(check.z).argmax(), check.z.shape)
            s, a = (int(i) for i in place)
            why = f"{bad.sum()} entries contradict the model outright, first" if bad.any() else "worst entry"
            out.append(
                f"{name}: {why} [{s}, {a}], exact {check.exact[s, a]:.6g}, sampled {check.estimate.mean[s, a]:.6g} "
                f"with standard error {check.estimate.standard_error[s, a]:.2g}."
            )
            if check.fault is not None:
                out.append(f"  It agrees with {check.fault}.")
    failed = [line.check.verdict for line in lines if not line.check.agrees]
    if not failed:
        every = f"all {len(lines)} lines" if len(lines) > 1 else "the line"
        weak = sum(line.check.powerless for line in lines)
        if weak:
            out.append(f"Detectable biases are longer than the gradient on {weak}: too few trajectories.")
        return [*out, f"Sampled and exact gradients agree on {every}."]
    if "disagrees" in failed:
        return [*out, f"Sampled and exact gradients disagree on {failed.count('disagrees')} of {len(lines)} lines."]
    needed = max(line.episodes * line.check.trajectories_needed for line in lines if line.check.verdict == "undecided")
    return [*out, f"No entry could be judged on {len(failed)} of {len(lines)} lines: try -n {needed:.1g}."]


def _policy_name(case: Case) -> str:
    return f"random, seed {case.seed}" if case.policy == "random" else case.policy


def _number(value: float, form: str = ".6g") -> str:
    return format(float(value), form) if math.isfinite(value) else "-"


def _short(value: float) -> str:
    """Three digits and a unit: 4M, 75.2M, 1.2G."""
    if not math.isfinite(value):
        return "-"
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def _table(headers: Sequence[str], rows: Sequence[Sequence["str | Text"]]) -> str:
    """A table as text, coloured on a terminal and fitted to its width; numbers are never cut.

    A header that begins with ">" heads a column of numbers, one that begins with "~" words that may be folded.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for header, *cells in zip(headers, *rows, strict=True):
        parts = [part for cell in (header.lstrip(">~"), *cells) for part in str(cell).split("\n")]
        folded = header.startswith("~")
        table.add_column(
            header.lstrip(">~"),
            justify="right" if header.startswith(">") else "left",
            no_wrap=not folded,
            min_width=None if folded else max(map(len, parts)),
        )
    for row in rows:
        table.add_row(*row)
    console = Console(file=sys.stdout, highlight=False)
    room = console.width if console.is_terminal or "COLUMNS" in os.environ else UNBOUNDED
    for gap in (1, 0):
        table.padding = (0, gap, 0, 0)
        least = console.measure(table, options=console.options.update(width=UNBOUNDED)).minimum
        if least <= room:
            break
    console.width = max(room, least)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(row.rstrip() for row in capture.get().splitlines())
