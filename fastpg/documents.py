"""What a program reads: each result of the command line as one JSON document. No mathematics."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastpg._version import __version__
from fastpg.crosscheck import CrossCheck
from fastpg.evaluation import Evaluation
from fastpg.finite_horizon import FiniteHorizonEvaluation
from fastpg.judgement import length
from fastpg.model import MDP
from fastpg.problems import Grid
from fastpg.sampling.tables import Horizon

# Products that an exact variance may take where no covariance was formed: a second or some.
AFFORDABLE = 1.2e8

Exact = Evaluation | FiniteHorizonEvaluation
Document = dict[str, Any]


class Case(NamedTuple):
    """What was asked for: the name of the problem, the name of the policy, the seed, and how to draw the states."""

    problem: str
    policy: str
    seed: int
    grid: Grid | None


class Line(NamedTuple):
    """One line of a cross-check: the estimator's name, what it gave, and steps sampled a second (nan if unknown).

    A sample of the estimator takes so many `episodes`.
    """

    estimator: str
    check: CrossCheck
    pace: float
    episodes: int = 1


def as_json(document: object) -> str:
    """`document` as JSON text; nan and infinity become null."""
    return json.dumps(_plain(document), allow_nan=False, indent=2)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, np.ma.MaskedArray):
        return _plain(value.filled(np.nan))
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def problems_document(rows: Sequence[tuple[str, MDP, str]]) -> list[Document]:
    """One object for each named problem."""
    return [{"name": name, **_model(mdp), "summary": summary} for name, mdp, summary in rows]


def evaluation_document(case: Case, evaluation: Exact) -> Document:
    """Everything `fastpg evaluate` knows, arrays in full."""
    names = ("value", "action_value", "advantage", "occupancy", "visitation")
    return {
        **_head("evaluate", case, evaluation.mdp),
        "horizon": evaluation.horizon if isinstance(evaluation, FiniteHorizonEvaluation) else None,
        "solver": evaluation.solved_by,
        "expected_return": evaluation.expected_return,
        "gradient_length": length(evaluation.logit_gradient),
        **{name: getattr(evaluation, name) for name in names},
        "gradient": evaluation.logit_gradient,
        "error": error_bounds(evaluation),
        "underflowed": int(evaluation.policy.underflowed.sum()),
        "structure": structure_document(evaluation),
    }


def structure_document(evaluation: Exact) -> Document:
    """How the chain hangs together; `condition` is None for a finite horizon."""
    structure = evaluation.structure
    return {
        "recurrent_classes": structure.class_sizes,
        "recurrent": structure.recurrent,
        "transient": structure.transient,
        "reachable": structure.reachable,
        "proper": structure.proper,
        "components": int(structure.component.max() + 1),
        "blocks": int(structure.block.max() + 1),
        "coupling": structure.coupling,
        "nearly_decomposable": structure.nearly_decomposable,
        "condition": None if isinstance(evaluation, FiniteHorizonEvaluation) else evaluation.condition,
    }


def error_bounds(evaluation: Exact) -> Document:
    """Rigorous bounds on the errors of an evaluation, and where the sign of a gradient entry is certain."""
    names = ["value", "action_value", "advantage", "occupancy", "expected_return", "gradient", "certain_signs"]
    if isinstance(evaluation, FiniteHorizonEvaluation):
        names.append("visitation")
    return {name: getattr(evaluation.error, name) for name in names}


def crosscheck_document(
    case: Case,
    exact: Mapping[Horizon, Exact],
    lines: Sequence[Line],
    false_alarm: float,
    skipped: Mapping[Horizon, Sequence[str]],
) -> Document:
    """Everything `fastpg crosscheck` knows; `z` is null where an entry is not judged.

    `skipped` names what would be biased with a horizon and has no line.
    """
    return {
        **_head("crosscheck", case, next(iter(exact.values())).mdp),
        "exact": [
            {
                "horizon": horizon,
                "expected_return": evaluation.expected_return,
                "gradient_length": length(evaluation.logit_gradient),
                "gradient": evaluation.logit_gradient,
            }
            for horizon, evaluation in exact.items()
        ],
        "false_alarm": false_alarm,
        "false_alarm_of_a_line": false_alarm / len(lines),
        "lines": [_line_document(line) for line in lines],
        "skipped": [{"horizon": horizon, "estimators": list(names)} for horizon, names in skipped.items()],
        "agrees": all(line.check.agrees for line in lines),
    }


def _line_document(line: Line) -> Document:
    check = line.check
    return {
        "estimator": line.estimator,
        "horizon": check.horizon,
        "trajectories": check.estimate.n,
        "steps": check.estimate.steps,
        "steps_a_second": line.pace,
        "worst_z": check.worst_z,
        "p_value": check.p_value,
        "rank": check.rank,
        "detectable_bias": check.detectable_bias,
        "detectable_share": share(check),
        "judged": int(check.judged.sum()),
        "left_out": check.left_out,
        "always_zero": int(check.settled.sum()),
        "contradicted": int(check.contradicted.sum()),
        "verdict": check.verdict,
        "fault": check.fault,
        "exact_variance": exact_variance(check),
        "sampled_variance": sampled_variance(check),
        "variance_seconds": variance_seconds(line),
        "mean": check.estimate.mean,
        "standard_error": check.estimate.standard_error,
        "z": check.z,
    }


def _head(verb: str, case: Case, mdp: MDP) -> Document:
    return {
        "fastpg": __version__,
        "verb": verb,
        "problem": case.problem,
        **_model(mdp),
        "policy": case.policy,
        "seed": case.seed,
    }


def _model(mdp: MDP) -> Document:
    return {
        "states": mdp.n_states,
        "actions": mdp.n_actions,
        "discount": mdp.discount,
        "terminal_states": int(mdp.terminal.sum()),
    }


def exact_variance(check: CrossCheck) -> float:
    """The sum of the exact variances of one sample's estimate; nan where they are not known, or too costly."""
    return math.nan if check.moments is None or too_costly(check) else check.moments.trace


def too_costly(check: CrossCheck) -> bool:
    """Whether there are exact variances that are not computed."""
    if check.moments is None or check.covariance_in_units is not None:
        return False
    entries = check.moments.entries
    states = entries // check.exact.shape[1]
    # Inverses take the place of steps without an end, and short ones take memory.
    steps = max(check.horizon, 10) if isinstance(check.horizon, int) else states
    return steps * states * entries > AFFORDABLE


def sampled_variance(check: CrossCheck) -> float:
    """The sum of the sampled variances of one sample's estimate."""
    return float(np.sum(check.estimate.standard_error**2) * check.estimate.n)


def variance_seconds(line: Line) -> float:
    """Exact variance times the seconds that a sample took: the time to a mean of variance 1."""
    return exact_variance(line.check) * line.check.estimate.steps / line.check.estimate.n / line.pace


def share(check: CrossCheck) -> float:
    """The detectable bias as a share of the exact gradient's length; nan where that is 0."""
    size = length(check.exact)
    return check.detectable_bias / size if size > 0 else math.nan
