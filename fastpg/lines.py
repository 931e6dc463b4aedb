"""The lines of a cross-check on the command line: which estimators, by name, with which horizon."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from fastpg.errors import InvalidArgument
from fastpg.evaluation import Evaluation
from fastpg.finite_horizon import FiniteHorizonEvaluation
from fastpg.moments import optimal_baseline
from fastpg.sampling import (
    GAE,
    BatchAverage,
    Estimator,
    EvolutionStrategy,
    FiniteDifference,
    PlugIn,
    RewardToGo,
    TemporalDifference,
    TotalReturn,
)
from fastpg.sampling.directions import Coordinate
from fastpg.sampling.plan import plan
from fastpg.sampling.tables import Horizon
from fastpg.validation import FloatArray

Exact = Evaluation | FiniteHorizonEvaluation


class Planned(NamedTuple):
    """An estimator to check, under its name; a sample of it takes so many `episodes`."""

    name: str
    estimator: Estimator
    horizon: Horizon
    episodes: int


def _value(exact: Exact) -> FloatArray:
    """V with all steps to go; any table leaves what it is a baseline of unbiased, so 0 where V does not exist."""
    return np.nan_to_num(exact.value if exact.value.ndim == 1 else exact.value[-1])


def _action_value(exact: Exact) -> FloatArray:
    return np.nan_to_num(exact.action_value if exact.action_value.ndim == 2 else exact.action_value[-1])


# Its square times 1/6 is what the bias is of the gradient, or less as a rule: two thousandths.
STEP = 0.1


def _best(exact: Exact, horizon: Horizon) -> Estimator:
    return RewardToGo(optimal_baseline(exact, RewardToGo(), horizon=horizon))


AVERAGE = BatchAverage(leave_one_out=True)
# Those that are unbiased for every horizon, or nearly so, then those that need an infinite one, or nearly.
ESTIMATORS: dict[str, Callable[[Exact, Horizon], Estimator]] = {
    "TotalReturn": lambda _exact, _horizon: TotalReturn(),
    "TotalReturn - average": lambda _exact, _horizon: TotalReturn(AVERAGE),
    "RewardToGo": lambda _exact, _horizon: RewardToGo(),
    "RewardToGo - average": lambda _exact, _horizon: RewardToGo(AVERAGE),
    "RewardToGo - V": lambda exact, _: RewardToGo(_value(exact)),
    "RewardToGo - best": _best,
    "EvolutionStrategy": lambda _exact, _horizon: EvolutionStrategy(STEP),
    "EvolutionStrategy coordinate": lambda _exact, _horizon: EvolutionStrategy(STEP, Coordinate()),
    "FiniteDifference": lambda _exact, _horizon: FiniteDifference(STEP),
    "FiniteDifference common": lambda _exact, _horizon: FiniteDifference(STEP, common=True),
    "PlugIn Q": lambda exact, _: PlugIn(_action_value(exact)),
    "PlugIn Q - V": lambda exact, _: PlugIn(_action_value(exact), _value(exact)),
    "GAE 0.9": lambda exact, _: GAE(0.9, _value(exact)),
    "TD": lambda exact, _: TemporalDifference(_value(exact)),
    "TD visitation": lambda exact, _: TemporalDifference(_value(exact), along="visitation"),
}
UNBIASED = 10
# Those whose entries rest on a share of the trajectories each, which "all" does not stand for.
BY_NAME = ("EvolutionStrategy coordinate", "FiniteDifference", "FiniteDifference common")


def planned(names: str | None, exact: dict[Horizon, Exact]) -> list[Planned]:
    """The lines for each horizon that was evaluated, the first horizon in full.

    `names` is "all" but those of BY_NAME, or names separated by commas; by default three estimators, and one with each
    other horizon.
    """
    horizons = list(exact)
    if names is None:
        chosen = ["TotalReturn", "RewardToGo", "RewardToGo - V"]
        lines = [(name, horizons[0]) for name in chosen] + [("RewardToGo", horizon) for horizon in horizons[1:]]
    else:
        lines = [(name, horizon) for horizon in horizons for name in _chosen(names) if _unbiased(name, horizon)]
        if not lines:
            raise InvalidArgument(f"{names} is unbiased for the infinite horizon only; use --horizon geometric")
    return [_line(name, exact[horizon], horizon) for name, horizon in lines]


def left_out(names: str | None, horizons: Iterable[Horizon]) -> dict[Horizon, list[str]]:
    """The names that are asked for and have no line with a horizon, for they would be biased."""
    chosen = [] if names is None else _chosen(names)
    every = {horizon: [name for name in chosen if not _unbiased(name, horizon)] for horizon in horizons}
    return {horizon: found for horizon, found in every.items() if found}


def _chosen(names: str) -> list[str]:
    if names == "all":
        return [name for name in ESTIMATORS if name not in BY_NAME]
    chosen = [_known(name) for name in names.split(",")]
    twice = next((name for name in chosen if chosen.count(name) > 1), None)
    if twice is not None:
        raise InvalidArgument(f"estimators must each be named once but {twice} is named {chosen.count(twice)} times")
    return chosen


def _unbiased(name: str, horizon: Horizon) -> bool:
    # With a finite horizon V depends on the steps to go: what plugs it in is biased and judged by its own mean.
    return horizon == "geometric" or name in list(ESTIMATORS)[:UNBIASED]


def _line(name: str, exact: Exact, horizon: Horizon) -> Planned:
    estimator = ESTIMATORS[name](exact, horizon)
    return Planned(name, estimator, horizon, plan(exact.mdp, exact.policy, estimator, horizon).episodes)


def _known(name: str) -> str:
    short = {known.replace(" ", "").lower(): known for known in ESTIMATORS}
    found = short.get(name.replace(" ", "").lower())
    if found is None:
        raise InvalidArgument(f"estimators must be 'all' or among {', '.join(ESTIMATORS)} but is {name!r}")
    return found
